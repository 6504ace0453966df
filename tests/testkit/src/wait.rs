//! Waits for something observable, the few pauses of tests in which time itself is tested, and bounds for durations.
//!
//! Only this file calls `thread::sleep`; `protocol::waits` lists the pauses.

use std::thread;
use std::time::{Duration, Instant};

/// The default time limit for waits and replies.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Calls `ask` until it returns a value. Fails after [`TEST_TIMEOUT`].
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_for_within(what, TEST_TIMEOUT, ask)
}

/// Calls `ask` until it returns a value. Fails after `time_limit`.
pub fn wait_for_within<T>(what: &str, time_limit: Duration, ask: impl FnMut() -> Option<T>) -> T {
    wait_at_most(time_limit, ask)
        .unwrap_or_else(|| panic!("waited longer than {time_limit:?} for {what}"))
}

/// Calls `ask` until it returns a value, or returns `None` after `time_limit`.
pub fn wait_at_most<T>(time_limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started_at = Instant::now();
    loop {
        // The time is taken first, so that the last answer is not older than the limit.
        let is_over = started_at.elapsed() >= time_limit;
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if is_over {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Calls `check`, which asserts something, repeatedly for this time.
pub fn check_for(time: Duration, mut check: impl FnMut()) {
    let _: Option<()> = wait_at_most(time, || {
        check();
        None
    });
}

/// Lets time pass because time itself is tested: a timeout, a data rate, or a slow peer. `reason` says which.
pub fn let_time_pass(time: Duration, reason: &str) {
    assert!(!reason.is_empty(), "a pause needs a reason");
    thread::sleep(time);
}

/// Asserts that something that usually takes `expected` took less than ten times as long, because the tests run unoptimized
/// next to other programs.
#[track_caller]
pub fn assert_took(took: Duration, expected: Duration) {
    assert!(
        took < expected * 10,
        "took {took:?}, more than ten times the expected {expected:?}"
    );
}

/// The usual time of an action that waits for no timeout, in an unoptimized build on a busy machine. Ten times as long is still
/// less than the shortest timeout of a store, 5 s.
pub const AT_ONCE: Duration = Duration::from_millis(400);

/// The pause between two questions of a wait.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_with_the_first_answer_or_at_its_limit() {
        let mut asked = 0;
        let answer = wait_at_most(TEST_TIMEOUT, || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer, Some(3));
        assert_eq!(wait_at_most(Duration::ZERO, || None::<()>), None);
        assert_eq!(wait_at_most(Duration::ZERO, || Some(1)), Some(1));
    }

    #[test]
    #[should_panic(expected = "more than ten times the expected 10ms")]
    fn duration_of_ten_times_the_expected_value_fails() {
        assert_took(Duration::from_millis(99), Duration::from_millis(10));
        assert_took(Duration::from_millis(100), Duration::from_millis(10));
    }
}
