//! SIGTERM and SIGINT: idle clients are disconnected at once, messages in progress are finished, and no 250 is false.

use std::time::Duration;

use nix::sys::signal::Signal;

use testkit::steps::wait_until_draining;
use testkit::{Server, test, under_strace};

#[test]
fn client_that_just_received_354_is_not_treated_as_idle_at_shutdown() {
    // Replies reach the client at once, but the thread that sent them continues 0.3 s later.
    let slow = "inject=sendto:delay_exit=300000";
    let strace = under_strace(&["-e", "trace=sendto", "-e", slow]);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let mut server = Server::start_with(folder, &[], strace);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n");
    for reply in ["250", "250", "354"] {
        client.expect(reply);
    }
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    // In this time the thread reaches its read and finds no input.
    client.expect_silence(Duration::from_millis(600));
    client.send("Subject: just begun\r\n.\r\n");
    client.expect("250 2.0.0 ");
    client.expect("421 4.3.2 ");
    client.expect_close();
    assert!(server.wait().success());
    assert_eq!(server.list().len(), 1);
}
