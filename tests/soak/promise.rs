//! Long tests of the same kind as those of `protocol/promise.rs`.

use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::SockRef;

use testkit::kill_rounds::kill_and_check;
use testkit::load::{Load, assert_no_loss_or_duplicate, content_of, stored_markers};
use testkit::{Server, test};

#[test]
fn soak_of_sqlite() {
    kill_and_check(50, 1_000);
}
