//! Durability with MariaDB: after kill -9 under load every acknowledged mail is in the database exactly once.
//!
//! Like an MTA, a client that got no reply or a 451 sends its mail again. GUERRILLA_TEST_ROUNDS is the number of rounds of
//! each test; the default is small, to keep the suite short.

use testkit::kill_rounds_mysql::{Victim, kill_and_check, rounds};
use testkit::test;

#[test]
fn acknowledged_mail_survives_kill_9_of_the_server() {
    kill_and_check(&[Victim::Server], rounds(), 30);
}

#[test]
fn acknowledged_mail_survives_kill_9_of_mariadb() {
    kill_and_check(&[Victim::Database], rounds(), 30);
}

#[test]
fn acknowledged_mail_survives_kill_9_of_server_and_mariadb() {
    kill_and_check(&[Victim::Both], rounds(), 30);
}
