//! Memory is used only for content that is held, never for declared sizes, and all of it is released.

use testkit::mariadb::MariaDb;
use testkit::redis::Redis;
use testkit::steps::cost_of_mail;
use testkit::{incompressible, note, test};

#[test]
fn one_hundred_recipients_of_a_large_mail_need_little_memory_with_mysql() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = database.server(&[
        ("REDIS_INTERFACE", &redis.address()),
        ("GSMTP_MAX_SIZE", "2000000"),
    ]);
    cost_of_mail(&server, 1, &incompressible(1 << 20));
    let (_, grown) = cost_of_mail(&server, 100, &incompressible(1 << 20));
    note!("1 MiB to 100: {grown} KiB more");
    assert!(grown < 32_768, "{grown} KiB");
    assert_eq!(database.number("SELECT COUNT(*) FROM new_mail"), 101);
}
