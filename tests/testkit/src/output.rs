//! What a test prints: shown if it fails, or at once with `--nocapture`.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, panic};

thread_local! {
    /// The output of the test that runs in this thread.
    static OUTPUT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The output of threads that tests started, which no test can be given; `None` outside of a test run and with `--nocapture`.
static OTHER_THREADS: Mutex<Option<String>> = Mutex::new(None);

/// Adds a line to the output of the test, in the form of `println!`.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::record(&::std::format!($($text)*)) };
}

/// Adds a line to the output of the test, or to that of all threads that tests started. Prints it at once with
/// `--nocapture` and outside of a test run.
pub fn record(line: &str) {
    let mut others = lock();
    let Some(others) = others.as_mut() else {
        return eprintln!("{line}");
    };
    OUTPUT.with_borrow_mut(|output| {
        let output = output.as_mut().unwrap_or(others);
        output.push_str(line);
        output.push('\n');
    });
}

/// Runs a test. Returns what it returned, or its panic, and its output.
pub(crate) fn capture<T>(test: impl FnOnce() -> T) -> (std::thread::Result<T>, String) {
    OUTPUT.set(Some(String::new()));
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(test));
    (outcome, OUTPUT.take().unwrap_or_default())
}

/// Records what tests print, and each panic with its location, so that the messages of concurrent tests are not mixed.
pub(crate) fn start(is_shown_at_once: bool) {
    *lock() = (!is_shown_at_once).then(String::new);
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("a value that is no text");
        record(&format!("panicked at {place}:\n{text}"));
        // Forty frames, of which five are the test's: too long unless it is asked for.
        if env::var_os("RUST_BACKTRACE").is_some_and(|value| value == "full") {
            record(&format!("stack backtrace:\n{}", Backtrace::force_capture()));
        }
    }));
}

/// Returns the output of the threads that tests started.
pub(crate) fn of_other_threads() -> String {
    lock().take().unwrap_or_default()
}

fn lock() -> MutexGuard<'static, Option<String>> {
    OTHER_THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}
