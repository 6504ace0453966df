//! `list --follow` next to a server with an SQLite file.

use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use testkit::follow::FollowedList;
use testkit::load::{Load, assert_no_loss_or_duplicate};
use testkit::process::{run, run_command};
use testkit::store::mails_after;
use testkit::{Server, short_mail, test, wait_for};

#[test]
fn list_follow_prints_each_arriving_mail_once_until_sigint_or_sigterm() {
    let server = Server::start(&[]);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // The first mails may have arrived before the command has read the table for the first time.
        let mut followed = FollowedList::start(server.folder.path(), &["--json", "--limit=50000"]);
        let load = Load::start(server.address, 4, signal.as_str());
        load.wait_for_more(200);
        let account = load.stop();
        followed.wait_for_lines(mails_after(&server.path("goguerrilla.db"), 0).len());
        let mut subjects = followed.subjects();
        subjects.retain(|subject, _| subject.starts_with(signal.as_str()));
        assert_no_loss_or_duplicate(&account, &subjects);
        assert_eq!(followed.end_with(signal).code(), Some(0));
        assert_eq!(followed.stderr(), "");
        // Each line is what `list --json` prints.
        let newest = followed.mails().pop().expect("a mail");
        assert_eq!(newest, server.list()[0]);
    }
}

#[test]
fn list_follow_begins_with_the_newest_mails_and_filters_by_recipient() {
    let server = Server::start(&[]);
    let deliver = |to: &str, subject: &str| {
        let reply = server
            .client()
            .deliver("a@client.test", to, &short_mail(subject));
        assert_eq!(reply.code, 250);
    };
    for subject in ["first", "second", "third"] {
        deliver("One@ours.test", subject);
    }
    deliver("two@ours.test", "other");
    let folder = server.folder.path();
    let all = FollowedList::start(folder, &["-limit=2"]);
    let json = FollowedList::start(
        folder,
        &["--json", "--limit", "2", "--to", "one@PRIMARY.test"],
    );
    let none = FollowedList::start(folder, &["--to=three@ours.test"]);
    all.wait_for_lines(3);
    json.wait_for_lines(2);
    none.wait_for_lines(1);
    deliver("one@ours.test", "fourth");
    deliver("two@ours.test", "fifth");
    let all = all.wait_for_lines(5);
    let last_words: Vec<&str> = all
        .iter()
        .map(|line| line.split_whitespace().last().expect("words"))
        .collect();
    assert_eq!(last_words, ["SUBJECT", "third", "other", "fourth", "fifth"]);
    // The columns of usual mails begin where those of the header do.
    let (head, line) = (&all[0], &all[1]);
    for (name, value) in [("RECIPIENT", "One@ours.test"), ("SUBJECT", "third")] {
        assert_eq!(head.find(name), line.find(value), "{head}\n{line}");
    }
    json.wait_for_lines(3);
    let subjects: Vec<serde_json::Value> = json
        .mails()
        .into_iter()
        .map(|mut mail| mail["subject"].take())
        .collect();
    assert_eq!(subjects, ["second", "third", "fourth"]);
    assert_eq!(none.lines().len(), 1);
}

#[test]
fn list_follow_ends_when_its_reader_closes_the_pipe() {
    let server = Server::start(&[]);
    server
        .client()
        .deliver("a@client.test", "u@ours.test", &short_mail("only"));
    // No further mail arrives, whose line could fail to be written.
    let ended = run_command(
        Command::new("sh")
            .args([
                "-c",
                "{ \"$0\" list -follow --json; echo status $? >&2; } | head -n 1",
            ])
            .arg(testkit::binary())
            .current_dir(server.folder.path()),
    );
    assert!(ended.stdout.contains("\"only\""), "{}", ended.stdout);
    assert_eq!(ended.stderr, "status 0\n");
}

#[test]
fn list_follow_ends_at_a_signal_although_nothing_reads_its_pipe() {
    let server = Server::start(&[]);
    let load = Load::start(server.address, 4, "stuck");
    // More lines than a pipe holds.
    load.wait_for_more(1_000);
    load.stop();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = Command::new(testkit::binary())
            .args(["list", "-follow", "--json", "--limit=50000"])
            .current_dir(server.folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let pipe = child.stdout.take().expect("a pipe");
        wait_for("a full pipe", || {
            let mut descriptors = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut descriptors, PollTimeout::ZERO).expect("an open pipe");
            // It sleeps only because the pipe is full: further mails are known.
            let state = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it runs");
            (ready == 1 && state.contains(") S ")).then_some(())
        });
        testkit::send_signal(child.id(), signal);
        let status = wait_for("the end of list --follow", || {
            child.try_wait().expect("a child process")
        });
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn list_follow_goes_on_after_its_database_file_was_away() {
    let mut server = Server::start(&[]);
    let followed = FollowedList::start(server.folder.path(), &["--json"]);
    let deliver = |server: &Server, subject: &str| {
        let reply = server
            .client()
            .deliver("a@client.test", "u@ours.test", &short_mail(subject));
        assert_eq!(reply.code, 250);
    };
    deliver(&server, "before");
    followed.wait_for_lines(1);
    assert!(server.stop().success());
    let (file, away) = (server.path("goguerrilla.db"), server.path("away"));
    fs::rename(&file, &away).expect("a database file");
    followed.wait_for_stderr("goguerrilla.db: no such file");
    fs::rename(&away, &file).expect("a database file");
    server.start_again();
    deliver(&server, "after");
    followed.wait_for_lines(2);
    followed.wait_for_stderr("the store can be read again");
    let subjects = followed.subjects();
    assert_eq!((subjects["before"], subjects["after"]), (1, 1));
    assert_eq!(
        followed.stderr().lines().count(),
        2,
        "{}",
        followed.stderr()
    );
}

#[test]
fn list_follow_changes_neither_the_database_file_nor_its_log() {
    let mut server = Server::start(&[]);
    for subject in ["one", "two"] {
        server
            .client()
            .deliver("a@client.test", "u@ours.test", &short_mail(subject));
    }
    // The mails are only in the `-wal` now.
    server.kill();
    let files = ["goguerrilla.db", "goguerrilla.db-wal"];
    let read = || files.map(|name| fs::read(server.path(name)).expect("a file"));
    let before = read();
    assert!(before[1].len() > 10_000);
    let mut followed = FollowedList::start(server.folder.path(), &["--json"]);
    followed.wait_for_lines(2);
    assert_eq!(followed.end_with(Signal::SIGINT).code(), Some(0));
    assert!(read() == before);
    server.start_again();
    assert_eq!(server.list().len(), 2);
}

#[test]
fn list_follow_fails_at_once_if_the_store_cannot_be_read_or_the_limit_is_too_large() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    testkit::write_config(folder.path(), &[]);
    let ended = run(folder.path(), &["list", "--follow"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    assert!(ended.stderr.contains("goguerrilla.db: no such file"));
    assert!(!folder.path().join("goguerrilla.db").exists());
    let ended = run(folder.path(), &["list", "--follow", "--limit=50001"]);
    assert_eq!(ended.status, 2);
    let want = "goguerrilla: --limit: expected at most 50000 with --follow, but found 50001\n";
    assert_eq!(ended.stderr, want);
    testkit::write_config(folder.path(), &[("GM_STORE", "discard")]);
    let ended = run(folder.path(), &["list", "--follow"]);
    assert_eq!(ended.status, 1);
    assert!(ended.stderr.contains("discard keeps no mail"));
}
