//! Long tests of the same kind as those of `protocol/promise.rs`.

use testkit::kill_rounds::kill_and_check;
use testkit::test;

#[test]
fn soak_of_sqlite() {
    kill_and_check(50, 1_000);
}
