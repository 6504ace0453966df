//! PROXY protocol headers, octet by octet: which client address the session gets, and which connections are closed
//! without a reply.

use testkit::steps::assert_newest_mail_came_from;
use testkit::{Server, test};

const PROXY_PROTOCOL_ON: &[(&str, &str)] = &[
    ("GSMTP_PROXY_PROTOCOL", "Y"),
    ("GM_TRUSTED_PROXIES", "127.0.0.1"),
];

#[test]
fn swaks_sends_proxy_header_versions_1_and_2() {
    let server = Server::start(PROXY_PROTOCOL_ON);
    let address = server.address.to_string();
    let program = [
        "swaks",
        "--config",
        "--server",
        &address,
        "--helo",
        "client.test",
    ];
    let envelope = ["--from", "a@client.test", "--to", "u@ours.test"];
    let v1 = ["--proxy", "TCP4 192.0.2.1 192.0.2.2 1000 25"];
    let v2 = [
        ["--proxy-version", "2"],
        ["--proxy-family", "AF_INET"],
        ["--proxy-source", "192.0.2.1"],
        ["--proxy-source-port", "1000"],
        ["--proxy-dest", "192.0.2.2"],
        ["--proxy-dest-port", "25"],
    ];
    for header in [&v1[..], v2.as_flattened()] {
        crate::clients::run(&server, &program, &[&envelope, header].concat());
        assert_newest_mail_came_from(&server, "192.0.2.1", "ESMTP", header[0]);
    }
}
