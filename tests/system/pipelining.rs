//! Pipelined commands are answered in one write (RFC 2920), and a client that never reads is closed.

use std::fs;

use tempfile::TempDir;

use testkit::{Server, binary, test, wait_for};

#[test]
fn replies_to_pipelined_commands_are_sent_in_one_write() {
    let folder = TempDir::new().expect("a temporary folder");
    let calls = folder.path().join("calls");
    let mut server = Server::start_with(folder, &[], |command| {
        let mut traced = testkit::command("strace");
        // With -D the child process is the server itself, and strace traces it.
        traced.args([
            "-D",
            "-f",
            "-s",
            "2000",
            "-e",
            "trace=sendto,sendmsg,write,writev",
            "-o",
        ]);
        traced.arg(&calls).arg(binary()).args(command.get_args());
        traced
    });
    let mut client = server.client();
    let group = "EHLO c\r\nRSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@ours.test>\r\nRCPT TO:<v@ours.test>\r\nDATA\r\n";
    client.send(group);
    for code in [
        "250-",
        "250 2.0.0 ",
        "250 2.1.0 ",
        "250 2.1.5 ",
        "250 2.1.5 ",
        "354 ",
    ] {
        client.expect(code);
    }
    client.send("x\r\n.\r\nNOOP\r\nVRFY u\r\nQUIT\r\n");
    for code in [
        "250 2.0.0 OK : queued as ",
        "250 2.0.0 ",
        "252 2.5.0 ",
        "221 2.0.0 ",
    ] {
        client.expect(code);
    }
    client.expect_close();
    assert!(server.stop().success());
    let calls = wait_for("the last line of the log to be traced", || {
        let calls = fs::read_to_string(&calls).ok()?;
        Some(calls).filter(|calls| calls.contains(" stopped"))
    });
    // Three digits and a space or hyphen; log lines begin with a date instead.
    let is_reply = |text: &str| {
        let text = text.as_bytes();
        text.len() > 3 && text[..3].iter().all(u8::is_ascii_digit) && matches!(text[3], b' ' | b'-')
    };
    let writes: Vec<&str> = calls
        .lines()
        .filter_map(|line| line.split_once('"'))
        .map(|(_, text)| text)
        .filter(|text| is_reply(text))
        .collect();
    assert_eq!(writes.len(), 3, "{writes:#?}");
    for (write, last) in writes.iter().zip(["220 ", "\\r\\n354 ", "\\r\\n221 "]) {
        assert!(write.contains(last), "{writes:#?}");
    }
}
