//! Long tests of the same kind as those of `protocol/durability.rs`, with hold, feed and retention.

use testkit::kill_rounds::kill_and_check_with_soak_settings;
use testkit::test;

#[test]
fn soak_of_sqlite() {
    kill_and_check_with_soak_settings(50, 1_000);
}
