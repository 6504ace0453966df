//! Long tests of the same kind as those of `stores/promise_mysql.rs`.

use testkit::kill_rounds_mysql::{Victim, kill_and_check};
use testkit::redis::Redis;
use testkit::test;

#[test]
fn soak_of_mariadb_and_redis() {
    let redis = Redis::start();
    let victims = [Victim::Server, Victim::Database, Victim::Both];
    // The server survives a third of the rounds.
    kill_and_check(&victims, 75, 700, Some(&redis));
}
