//! Faults of the SQLite store: of its disk, of its file, and through other programs that use the file.

use std::fs;

use testkit::steps::{deliver_together, send_mail, stored_subjects};
use testkit::{Server, note, test, under_strace};

#[test]
fn mail_gets_452_while_the_disk_is_full() {
    let mut server = Server::start(&[]);
    server.stop();
    // The third to the twelfth write fail because the disk is full; then there is space again.
    start_with_log_fault(&mut server, "pwrite64:error=ENOSPC:when=3..12");
    let mut codes = Vec::new();
    for number in 0..20 {
        let mut client = send_mail(&server, &format!("mail {number:02}"));
        let reply = client.read_reply().expect("a reply");
        assert!(
            reply.code == 250 || reply.text().starts_with("452 4.3.1 "),
            "{}",
            reply.text()
        );
        codes.push(reply.code);
    }
    assert!(codes.contains(&452), "{codes:?}");
    assert_eq!(codes.last(), Some(&250), "{codes:?}");
    server.kill();
    let wanted = codes.iter().enumerate().filter(|(_, code)| **code == 250);
    let wanted: Vec<String> = wanted
        .map(|(number, _)| format!("mail {number:02}"))
        .collect();
    assert_eq!(stored_subjects(&server), wanted);
}

#[test]
fn failed_fsync_or_write_is_never_acknowledged_with_250() {
    for fault in ["fsync,fdatasync:error=EIO", "pwrite64:error=EIO"] {
        let mut met = 0;
        for nth in 1..=MAX_CALLS {
            let mut server = Server::start(&[]);
            server.stop();
            start_with_log_fault(&mut server, &format!("{fault}:when={nth}"));
            let mut saved = vec!["last".to_owned()];
            for number in 0..4 {
                let subject = format!("mail {number}");
                let mut client = send_mail(&server, &subject);
                let reply = client.read_reply().expect("a reply");
                match reply.code {
                    250 => saved.push(subject),
                    _ => assert!(reply.text().starts_with("451 4.3.0 "), "{}", reply.text()),
                }
            }
            let has_met = fs::read_to_string(server.path("trace"))
                .expect("a trace")
                .contains("INJECTED");
            if !has_met {
                break;
            }
            met += 1;
            // The server recovers without intervention.
            send_mail(&server, "last").expect("250 ");
            server.kill();
            server.start_again();
            let stored = stored_subjects(&server);
            for subject in &saved {
                assert!(
                    stored.contains(subject),
                    "{fault} {nth}: {subject} got a 250; stored: {stored:?}"
                );
            }
        }
        note!("{fault}: failed at each of the first {met} calls");
        assert!(met >= 3, "{fault} was met {met} times");
    }
}

#[test]
fn concurrent_mails_share_fsyncs_and_a_single_mail_gets_its_own() {
    let mut server = Server::start(&[]);
    server.stop();
    // The delay of a hard disk.
    let slow = "inject=fsync,fdatasync:delay_exit=15000";
    server.start_again_with(under_strace(&["-e", "trace=fsync,fdatasync", "-e", slow]));
    let syncs = || {
        let trace = fs::read_to_string(server.path("trace")).unwrap_or_default();
        trace.lines().filter(|line| line.contains("sync(")).count()
    };
    for number in 1..=5 {
        send_mail(&server, "alone").expect("250 ");
        assert!(syncs() >= number, "{} syncs for {number} mails", syncs());
    }
    let before = syncs();
    let sent: Vec<String> = (0..50).map(|number| format!("mail {number}")).collect();
    for _ in 0..4 {
        for (subject, code) in deliver_together(&server, &sent) {
            assert_eq!(code, 250, "{subject}");
        }
    }
    let shared = syncs() - before;
    note!("200 mails of 50 clients: {shared} syncs");
    assert!((1..=50).contains(&shared), "{shared} syncs for 200 mails");
}

/// Restarts the server under strace, which injects this fault into calls on the write-ahead log.
fn start_with_log_fault(server: &mut Server, fault: &str) {
    let log_file = server.path("goguerrilla.db-wal");
    let inject = format!("inject={fault}");
    server.start_again_with(under_strace(&[
        "-P",
        &log_file.to_string_lossy(),
        "-e",
        &inject,
    ]));
}

/// The maximum number of calls that are made to fail, one in each round.
const MAX_CALLS: usize = 14;
