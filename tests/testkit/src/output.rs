//! What a test prints: shown if it fails, or at once with `--nocapture`.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, panic};

thread_local! {
    /// The output of the test that runs in this thread.
    static OUTPUT: RefCell<Option<String>> = const { RefCell::new(None) };
}

static IS_SHOWN_AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Adds a line to the output of the test, in the form of `println!`.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::record(&::std::format!($($text)*)) };
}

/// Adds a line to the output of the test. Prints it at once with `--nocapture`, in a thread that the test started, and
/// outside of tests.
pub fn record(line: &str) {
    let is_kept = OUTPUT.with_borrow_mut(|output| {
        let output = output.as_mut()?;
        output.push_str(line);
        output.push('\n');
        Some(())
    });
    if is_kept.is_none() || IS_SHOWN_AT_ONCE.load(Ordering::Relaxed) {
        eprintln!("{line}");
    }
}

/// Runs a test. Returns what it returned, or its panic, and its output.
pub(crate) fn capture<T>(test: impl FnOnce() -> T) -> (std::thread::Result<T>, String) {
    OUTPUT.set(Some(String::new()));
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(test));
    (outcome, OUTPUT.take().unwrap_or_default())
}

/// Records each panic with its location instead of printing it, so that the messages of concurrent tests are not mixed.
pub(crate) fn record_panics(is_shown_at_once: bool) {
    IS_SHOWN_AT_ONCE.store(is_shown_at_once, Ordering::Relaxed);
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
