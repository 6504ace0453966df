//! The one way in which the driver is called: it panics where a server answers what no server should.

use std::fmt;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::metrics::Component;
use crate::panics;
use crate::sync::lock;

/// Calls the driver. A panic in it becomes an error of the connection, which must not be used again.
///
/// # Errors
/// What the call returned, or the panic.
pub fn guarded<T>(call: impl FnOnce() -> mysql::Result<T>) -> mysql::Result<T> {
    panics::catch(Component::Database, call).unwrap_or_else(|text| {
        log_once(&text);
        Err(mysql::Error::IoError(io::Error::other(DriverPanic(text))))
    })
}

/// Returns whether the error is a panic that was caught.
pub fn is_panic(error: &mysql::Error) -> bool {
    let mysql::Error::IoError(error) = error else {
        return false;
    };
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<DriverPanic>())
}

/// Why a connection is of no use any more.
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

/// Logs a panic unless the last line was the same a short while ago: each try to connect may repeat it.
fn log_once(text: &str) {
    static LAST: Mutex<Option<(String, Instant)>> = Mutex::new(None);
    let mut last = lock(&LAST);
    let is_repeated =
        (last.as_ref()).is_some_and(|(said, at)| said == text && at.elapsed() < REPEAT_AFTER);
    if !is_repeated {
        *last = Some((text.to_owned(), Instant::now()));
        drop(last);
        log::error!(component = Component::Database.as_str(), reason = text; "panicked");
    }
}

/// How long the same panic is not logged again.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
