//! Panic handling: one line per panic, and catching panics of code such as a database driver.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::thread;

use crate::metrics::{self, Component};

thread_local! {
    /// Depth of nested calls of [`catch`] on this thread.
    static CATCH_DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Description of a panic, passed from the panic hook to the [`catch`] that catches it.
    static DESCRIPTION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls `run`. If it panics, counts the panic and returns its description in one line; the panic hook then prints nothing.
///
/// # Errors
/// The panic's message, with its source location if [`install_hook`] was called.
pub fn catch<T>(component: Component, run: impl FnOnce() -> T) -> Result<T, String> {
    CATCH_DEPTH.set(CATCH_DEPTH.get() + 1);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    CATCH_DEPTH.set(CATCH_DEPTH.get() - 1);
    outcome.map_err(|payload| {
        metrics::PANICS.count(component);
        let description = DESCRIPTION.with_borrow_mut(Option::take);
        description.unwrap_or_else(|| one_line(message(&*payload)))
    })
}

/// Replaces the panic hook of the whole process by one that prints a single line. Only the program calls this, not the
/// library.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        let text = describe(info);
        // A panic can occur while the thread's local variables are being destroyed.
        let is_caught = CATCH_DEPTH.try_with(Cell::get).is_ok_and(|depth| depth > 0);
        if is_caught {
            let _ = DESCRIPTION.try_with(|description| *description.borrow_mut() = Some(text));
            return;
        }
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        // Not written to the log, because this thread may hold the lock of the log.
        let _ = writeln!(
            std::io::stderr(),
            "goguerrilla: thread {name} panicked: {text}"
        );
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = one_line(message(info.payload()));
    match info.location() {
        Some(location) => format!(
            "{message} ({}:{})",
            without_build_folder(location.file()),
            location.line()
        ),
        None => message,
    }
}

/// Returns the path of a source file without the folder of the build.
fn without_build_folder(file: &str) -> &str {
    let start = file.find("/registry/src/").map(|at| at + 14);
    let below = start.and_then(|start| file.get(start..));
    let in_crate = below.and_then(|below| below.split_once('/'));
    in_crate.map_or(file, |(_, path)| path)
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message")
}

/// Replaces control characters and limits the length: a message may contain text that a database server sent.
fn one_line(text: &str) -> String {
    let chars = text.chars().take(MAX_MESSAGE_CHARS);
    chars
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Maximum length of a panic's message in characters.
const MAX_MESSAGE_CHARS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_panic_message_is_one_short_line() {
        assert_eq!(catch(Component::Database, || 7), Ok(7));
        let long = format!("two\nlines {}", "x".repeat(1_000));
        let caught = catch(Component::Database, || panic!("{long}"));
        let text = caught.expect_err("a panic");
        assert!(text.starts_with("two lines xxx"), "{text}");
        assert_eq!(text.chars().count(), MAX_MESSAGE_CHARS);
    }

    #[test]
    fn panic_location_omits_the_build_folder() {
        let file = "/home/a/.cargo/registry/src/index-1/mysql-28/src/conn/mod.rs";
        assert_eq!(without_build_folder(file), "mysql-28/src/conn/mod.rs");
        assert_eq!(without_build_folder("src/panics.rs"), "src/panics.rs");
    }
}
