//! SIGHUP: the configuration is read again, all or nothing, while mail is received.

use testkit::mariadb::{MariaDb, with_hosts};
use testkit::steps::reload;
use testkit::test;

#[test]
fn reload_with_another_database_applies_to_new_sessions() {
    let (one, other) = (MariaDb::start(), MariaDb::start());
    let server = one.server(&[]);
    let mut before = server.client();
    before.begin_data("a@client.test", "u@ours.test");
    reload(&server, &with_hosts(&other.address().to_string(), &[]));
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: second\r\n");
    assert_eq!(reply.code, 250);
    assert_eq!(before.send_content(b"Subject: first\r\n").0.code, 250);
    let subjects = |database: &MariaDb| database.rows::<String>("SELECT subject FROM new_mail");
    assert_eq!(
        (subjects(&one), subjects(&other)),
        (vec!["first".to_owned()], vec!["second".to_owned()])
    );
}
