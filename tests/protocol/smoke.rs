//! The simplest test of the whole program: one mail is received, listed and shown.

use testkit::{Server, test, without_trace};

#[test]
fn mail_is_received_and_shown_octet_for_octet() {
    let mut server = Server::start(&[]);
    let content = b"Subject: hello\r\n\r\n.dot\r\n\0 \r \n\r\n";
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", content);
    let hash = reply
        .text()
        .strip_prefix("250 2.0.0 OK : queued as ")
        .expect("saved")
        .to_owned();
    let mails = server.list();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0]["hash"], hash.as_str());
    assert_eq!(mails[0]["to"], "u@primary.test");
    assert_eq!(mails[0]["recipient"], "u@ours.test");
    assert_eq!(without_trace(&server.show(&hash)), content);
    assert!(server.stop().success());
}
