//! The commands `schema`, `list` and `show`.

use std::process::Command;

use tempfile::TempDir;

use testkit::load::content_of;
use testkit::process::{run, run_command};
use testkit::{Server, test, write_config};

#[test]
fn list_prints_newest_mails_first_and_filters_by_recipient_and_limit() {
    let server = Server::start(&[]);
    for (to, subject) in [("one", "first"), ("Two", "second"), ("two", "third")] {
        let content = format!("Subject: {subject}\r\n\r\n");
        let to = format!("{to}@ours.test");
        server
            .client()
            .deliver("a@client.test", &to, content.as_bytes());
    }
    for (arguments, subjects) in [
        (&[][..], &["third", "second", "first"][..]),
        (&["--limit", "2"], &["third", "second"]),
        (&["--limit=0"], &[]),
        (&["--to", "two@ours.test"], &["third", "second"]),
        (&["--to", "TWO@PRIMARY.TEST"], &["third", "second"]),
        (&["--to=one@primary.test", "--limit=5"], &["first"]),
        (&["--to", "two@ours.test", "--limit=1"], &["third"]),
        (&["--to", "o%"], &[]),
        (&["--to", "' OR 1=1 --"], &[]),
    ] {
        let json = run(
            server.folder.path(),
            &[&["list", "--json"], arguments].concat(),
        );
        let mails: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        let mails = mails.as_array().expect("an array").iter();
        let found: Vec<&str> = mails
            .map(|mail| mail["subject"].as_str().unwrap_or("?"))
            .collect();
        assert_eq!(found, subjects, "{arguments:?}");

        let table = run(server.folder.path(), &[&["list"], arguments].concat()).stdout;
        let mut lines = table.lines();
        let heads: Vec<&str> = lines
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert_eq!(
            heads,
            ["HASH", "DATE", "FROM", "TO", "RECIPIENT", "SIZE", "SUBJECT"]
        );
        let found: Vec<&str> = lines
            .map(|line| line.split_whitespace().last().unwrap_or("?"))
            .collect();
        assert_eq!(found, subjects, "{arguments:?}");
    }
    for mail in server.list() {
        let shown = server.show(mail["hash"].as_str().expect("a hash"));
        assert_eq!(mail["size"], shown.len());
        assert_eq!(mail["from"], "a@client.test");
    }
}

#[test]
fn list_escapes_terminal_control_characters_and_json_keeps_the_value() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a\u{202e}@client.test> SMTPUTF8", "250");
    client.command("RCPT TO:<u\u{2066}@ours.test>", "250");
    client.command("DATA", "354 ");
    client.send("Subject: \u{202e}b\r\n\r\n.\r\n");
    client.expect("250 2.0.0 OK : queued as ");
    assert_eq!(server.list()[0]["from"], "a\u{202e}@client.test");
    assert_eq!(server.list()[0]["subject"], "\u{202e}b");

    // Other programs may also have written to the table.
    let subject = "a\u{1b}[2J\r\n\u{7}b \u{202e}c \u{9b}31m\u{feff}\u{2066}d";
    let store = rusqlite::Connection::open(server.path("goguerrilla.db")).expect("the store");
    let changed = store.execute("UPDATE new_mail SET subject = ?1", [subject]);
    assert_eq!(changed, Ok(1));
    let table = run(server.folder.path(), &["list"]).stdout;
    assert_eq!(table.lines().count(), 2, "{table}");
    let steers =
        |c: &char| (c.is_control() && *c != '\n') || "\u{202e}\u{2066}\u{feff}".contains(*c);
    assert_eq!(table.chars().find(steers), None, "{table}");
    let json = run(server.folder.path(), &["list", "--json"]).stdout;
    assert_eq!(json.chars().find(steers), None, "{json}");
    assert!(table.contains("a\\u{1b}[2J\\u{d}\\u{a}"), "{table}");
    assert_eq!(server.list()[0]["subject"], subject);
}

#[test]
fn list_prints_a_subject_of_70000_characters_written_by_another_program() {
    let server = Server::start(&[]);
    let mail = content_of("short").into_bytes();
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &mail);
    assert_eq!(reply.code, 250);
    let subject = "x".repeat(70_000);
    let connection = rusqlite::Connection::open(server.path("goguerrilla.db")).expect("the file");
    let updated = connection.execute("UPDATE new_mail SET subject = ?", [&subject]);
    assert_eq!(updated, Ok(1));
    for arguments in [
        &["list", "-config=goguerrilla.conf"][..],
        &["list", "-config=goguerrilla.conf", "--json"],
    ] {
        let ended = run(server.folder.path(), arguments);
        assert!(
            ended.status == 0 && ended.stdout.contains(&subject),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn show_with_an_unknown_or_malformed_hash_exits_with_1() {
    let server = Server::start(&[]);
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"x\r\n");
    let hash = reply.text().split_once(" as ").expect("saved").1.to_owned();
    let no_mail = "no mail has this hash; `goguerrilla list` shows the hashes";
    let no_hash = "expected a hash, which is 32 digits 0-9 and a-f in lower case; \
                   `goguerrilla list` shows the hashes";
    for (given, reason) in [
        ("0123456789abcdef0123456789abcdef", no_mail),
        (&format!("f{}", &hash[..31]), no_mail),
        (&hash[1..], no_hash),
        (&format!("{hash}0"), no_hash),
        ("0123456789ABCDEF0123456789ABCDEF", no_hash),
        ("../../x", no_hash),
        ("' OR 1=1 --", no_hash),
        ("", no_hash),
        ("%", no_hash),
        ("用户", no_hash),
    ] {
        let ended = run(server.folder.path(), &["show", given]);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{given}");
        assert_eq!(ended.stderr, format!("goguerrilla: {given}: {reason}\n"));
    }
}

#[test]
fn list_and_show_without_a_database_file_fail_and_create_none() {
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[]);
    let line = "goguerrilla: goguerrilla.db: no such file; \
                no mail was saved there yet, or another file is meant: see -config and GM_SQLITE_FILE\n";
    for arguments in [&["list"][..], &["show", "0f"], &["list", "--json"]] {
        let ended = run(folder.path(), arguments);
        assert_eq!(
            (ended.status, ended.stderr.as_str()),
            (1, line),
            "{arguments:?}"
        );
    }
    assert!(!folder.path().join("goguerrilla.db").exists());

    let server = Server::start_in(folder, &[]);
    assert!(server.list().is_empty());
    let table = run(server.folder.path(), &["list"]).stdout;
    assert_eq!(table.lines().count(), 1, "{table}");
}

#[test]
fn list_and_prune_tell_a_file_that_cannot_be_reached_from_a_missing_one() {
    let folder = TempDir::new().expect("a temporary folder");
    // A file in place of a folder of the path: as root, every folder can be searched.
    write_config(
        folder.path(),
        &[("GM_SQLITE_FILE", "goguerrilla.conf/x.db")],
    );
    for arguments in [&["list"][..], &["prune", "--days", "1"]] {
        let ended = run(folder.path(), arguments);
        let line = "goguerrilla: goguerrilla.conf/x.db: Not a directory (os error 20)\n";
        assert_eq!((ended.status, ended.stderr.as_str()), (1, line));
    }
}

#[test]
fn show_exits_with_0_when_its_output_pipe_is_closed_early() {
    let server = Server::start(&[]);
    let content = b"0123456789\r\n".repeat(10_000);
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &content);
    let hash = reply.text().split_once(" as ").expect("saved").1.to_owned();
    let ended = run_command(
        Command::new("sh")
            .arg("-c")
            .arg(format!(
                "{{ \"$0\" show {hash}; echo status $? >&2; }} | head -c 10"
            ))
            .arg(testkit::binary())
            .current_dir(server.folder.path()),
    );
    assert_eq!(ended.stdout, "Return-Pat");
    assert_eq!(ended.stderr, "status 0\n");
}
