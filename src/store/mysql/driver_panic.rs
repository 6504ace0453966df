//! Catches panics of the driver, which panics at some malformed answers of a server.

use std::fmt;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::metrics::{Component, Metrics};
use crate::panics;
use crate::sync::lock;

/// Runs a call of the driver and turns a panic into an error, which is counted in `metrics`. After a panic the
/// connection must not be used again.
///
/// # Errors
/// The error of the call, or its panic.
pub fn catch_panic<T>(
    metrics: &Metrics,
    call: impl FnOnce() -> mysql::Result<T>,
) -> mysql::Result<T> {
    panics::catch_and_count_panic(metrics, Component::Database, call).unwrap_or_else(|text| {
        log_driver_panic_unless_recent(&text);
        Err(mysql::Error::IoError(io::Error::other(DriverPanic(text))))
    })
}

/// Returns whether the error is a caught panic.
pub fn is_panic(error: &mysql::Error) -> bool {
    let mysql::Error::IoError(error) = error else {
        return false;
    };
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<DriverPanic>())
}

/// The text of a caught panic, as an error.
#[derive(Debug)]
struct DriverPanic(String);

impl fmt::Display for DriverPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the database driver cannot handle what the server answered, or this account over this connection: {}",
            self.0
        )
    }
}

impl std::error::Error for DriverPanic {}

/// Logs a panic of the driver. Does nothing if the last logged panic has the same text and is more recent than
/// [`REPEAT_AFTER`], because each attempt to connect may cause the same panic again.
fn log_driver_panic_unless_recent(text: &str) {
    static LAST: Mutex<Option<(String, Instant)>> = Mutex::new(None);
    let mut last = lock(&LAST);
    let is_repeated = (last.as_ref())
        .is_some_and(|(last_text, at)| last_text == text && at.elapsed() < REPEAT_AFTER);
    if !is_repeated {
        *last = Some((text.to_owned(), Instant::now()));
        drop(last);
        log::error!(component = Component::Database.as_str(), reason = text; "panicked");
    }
}

/// Time in which the same panic is not logged again.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
