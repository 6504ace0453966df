//! Passwords of MariaDB and Redis in files: used at start and by the commands, and read again at SIGHUP.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::mariadb::{MariaDb, PASSWORD, USER, with_hosts};
use testkit::redis::Redis;
use testkit::{Server, needs_root, test};

const NEW_PASSWORD: &str = "s3cr3t: @/%\u{fc}";
/// The new password as the URL of a Redis client contains it.
const NEW_PASSWORD_IN_URL: &str = "s3cr3t%3A%20%40%2F%25%C3%BC";
const NOBODY: &str = "65534";

#[test]
fn passwords_of_files_are_used_and_read_again_at_sighup() {
    let mut redis = Redis::start_with(&["--requirepass", PASSWORD]);
    redis.set_password(PASSWORD);
    let database = MariaDb::start();
    let folder = TempDir::new().expect("a temporary folder");
    let interface = redis.address();
    write_passwords(&folder, PASSWORD);
    let server = Server::start_in(
        folder,
        &settings(&database.address().to_string(), &interface, &[]),
    );
    assert_saved_in_redis(&server, &redis, 1);

    set_passwords(&database, &redis);
    redis.set_password(NEW_PASSWORD_IN_URL);
    write_passwords(&server.folder, NEW_PASSWORD);
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" - reload\n");
    assert_saved_in_redis(&server, &redis, 2);

    let (is_good, checked) = server.check();
    assert!(is_good, "{checked}");
    let listed = server.command(&["list", "-config=goguerrilla.conf"]);
    let listed = listed.expect("the password of the file");
    let all = format!(
        "{checked}{}{}",
        String::from_utf8_lossy(&listed),
        server.output()
    );
    assert!(!all.contains("s3cr3t"), "{all}");
}

#[test]
fn password_file_that_only_root_may_read_is_kept_at_sighup() {
    needs_root();
    let database = MariaDb::start();
    let folder = TempDir::new().expect("a temporary folder");
    write_passwords(&folder, PASSWORD);
    chown(folder.path(), Some(65_534), Some(65_534)).expect("permitted for root");
    let drop = [("GUID", NOBODY), ("SGID", NOBODY)];
    let hosts = database.address().to_string();
    let server = Server::start_in(folder, &settings(&hosts, "", &drop));
    let warning = "MYSQL_PASS_FILE: user 65534 cannot read password.mysql: Permission denied (os error 13); a changed password \
                   will not be loaded before the next start; make user 65534 the owner of the file";
    assert!(server.log().contains(warning), "{}", server.log());
    // The configuration of this test is readable, and another key changes.
    let config = server.path("goguerrilla.conf");
    let text = fs::read_to_string(&config).expect("a configuration");
    let text = text.replace("\"mx.test\"", "\"mx2.test\"");
    fs::write(&config, text).expect("a file is written");
    server.signal(Signal::SIGHUP);
    let log = server.wait_for_log(" - reload\n");
    assert!(log.contains(" error - password_refused "), "{log}");
    assert!(log.contains("kept=\"the old password\""), "{log}");
    let mut client = server.client();
    client.command("EHLO client.test", "250-mx2.test");
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: x\r\n");
    assert_eq!(reply.code, 250, "{}", reply.text());

    // Its owner can read it.
    chown(server.path("password.mysql"), Some(65_534), None).expect("permitted for root");
    server.signal(Signal::SIGHUP);
    testkit::wait_for("a second reload", || {
        (server.log().matches(" - reload\n").count() == 2).then_some(())
    });
    assert_eq!(server.log().matches(" password_refused ").count(), 1);
}

fn settings<'a>(
    hosts: &'a str,
    interface: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut settings = with_hosts(hosts, more);
    settings.extend([
        ("MYSQL_PASS", ""),
        ("MYSQL_PASS_FILE", "password.mysql"),
        ("REDIS_INTERFACE", interface),
        ("REDIS_PASS_FILE", "password.redis"),
    ]);
    settings
}

fn write_passwords(folder: &TempDir, password: &str) {
    for name in ["password.mysql", "password.redis"] {
        let file = folder.path().join(name);
        fs::write(&file, format!("{password}\n")).expect("a file is written");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a file of this test");
    }
}

fn set_passwords(database: &MariaDb, redis: &Redis) {
    database.sql(&format!(
        "ALTER USER {USER}@'%' IDENTIFIED BY '{NEW_PASSWORD}'"
    ));
    redis.command::<()>(&["CONFIG", "SET", "requirepass", NEW_PASSWORD]);
}

fn assert_saved_in_redis(server: &Server, redis: &Redis, count: usize) {
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: x\r\n");
    assert_eq!(reply.code, 250, "{}", reply.text());
    assert_eq!(redis.bodies().len(), count, "{}", server.log());
}
