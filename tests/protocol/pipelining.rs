//! Pipelined commands are answered in one write (RFC 2920), and a client that never reads is closed.

use std::io::Write;

use testkit::{Server, TEST_TIMEOUT, connect_with_small_buffers, test};

#[test]
fn pipelining_client_that_never_reads_is_closed_and_uses_no_memory() {
    let server = Server::start(&[
        ("GSMTP_TIMEOUT", "1"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
        ("GM_MAX_RECIPIENTS", "10000"),
    ]);
    let before = server.status_kib("VmHWM");
    let mut socket = connect_with_small_buffers(server.address).expect("the server accepts");
    let timeout = socket.set_write_timeout(Some(TEST_TIMEOUT));
    timeout.expect("an open socket");
    // The replies are longer than the commands, so that the server blocks in a write before the client does.
    let recipients = "RCPT TO:<u@b.test>\r\n".repeat(10_000);
    let commands = format!("EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n{recipients}");
    if let Err(error) = socket.write_all(commands.as_bytes()) {
        let is_over = matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        );
        assert!(is_over, "{error}");
    }
    server.wait_for_log(" reason=write_timeout ");
    let grown = server.status_kib("VmHWM") - before;
    assert!(grown < 2_048, "{grown} KiB");
}
