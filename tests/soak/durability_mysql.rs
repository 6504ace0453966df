//! Long tests of the same kind as those of `stores/durability_mysql.rs`, with hold, feed, retention and TLS to the databases.

use testkit::kill_rounds_mysql::{Victim, kill_and_check_with_soak_settings};
use testkit::test;

#[test]
fn soak_of_mariadb_and_redis() {
    let victims = [Victim::Server, Victim::Database, Victim::Both];
    // The server survives a third of the rounds.
    kill_and_check_with_soak_settings(&victims, 75, 700);
}
