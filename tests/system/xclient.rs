//! XCLIENT: the given address appears in the row, in Received and in the log, and counts for the limit per address.

use testkit::steps::newest_mail;
use testkit::{Server, test};

const TRUSTED: (&str, &str) = ("GM_TRUSTED_PROXIES", "127.0.0.1,::1");

#[test]
fn swaks_sets_the_client_address_with_xclient() {
    let server = Server::start(&[TRUSTED]);
    let address = server.address.to_string();
    for (given, stored) in [
        ("192.0.2.1", "192.0.2.1"),
        ("IPV6:2001:db8::1", "2001:db8::1"),
    ] {
        let program = [
            "swaks",
            "--config",
            "--server",
            &address,
            "--helo",
            "client.test",
        ];
        let xclient = ["--xclient-addr", given, "--xclient-name", "c.test"];
        let envelope = ["--from", "a@client.test", "--to", "u@ours.test"];
        crate::clients::run(&server, &program, &[xclient, envelope].concat());
        assert_eq!(newest_mail(&server).ip_addr, stored);
    }
}
