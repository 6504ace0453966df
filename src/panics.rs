//! Catches panics, for example of a database driver, and prints each panic that is not caught on one line.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::mem;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::thread;

use crate::metrics::{Component, Metrics};

thread_local! {
    /// Depth of nested calls of [`catch_panic`] on this thread.
    static CATCH_DEPTH: Cell<usize> = const { Cell::new(0) };
    /// The message and source location of a panic, which the panic hook passes to the [`catch_panic`] that catches the panic.
    static DESCRIPTION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls `run` like [`catch_panic`], and counts its panic in `metrics` under `component`.
///
/// # Errors
/// As for [`catch_panic`].
pub fn catch_and_count_panic<T>(
    metrics: &Metrics,
    component: Component,
    run: impl FnOnce() -> T,
) -> Result<T, String> {
    catch_panic(run).inspect_err(|_| metrics.panics.count(component))
}

/// Calls `run` and catches its panic. The hook of [`install_panic_hook`] does not print a caught panic.
///
/// # Errors
/// If `run` panics: the message of the panic in one line, with its source location if [`install_panic_hook`] was called.
pub fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    CATCH_DEPTH.set(CATCH_DEPTH.get() + 1);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    CATCH_DEPTH.set(CATCH_DEPTH.get() - 1);
    outcome.map_err(|payload| {
        let description = DESCRIPTION.with_borrow_mut(Option::take);
        let text = description.unwrap_or_else(|| one_line(panic_message(&*payload)));
        // Dropping the payload may panic, and so may dropping the payload of that panic, which is therefore leaked.
        if let Err(second) = panic::catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            mem::forget(second);
        }
        text
    })
}

/// Replaces the panic hook of the whole process by a hook that prints a single line. Only the command line calls this,
/// because a library must not change its program's hook.
pub fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        let text = describe_panic(info);
        // The thread-local variables may already be destroyed if the panic occurs while the thread ends.
        let is_caught = CATCH_DEPTH.try_with(Cell::get).is_ok_and(|depth| depth > 0);
        if is_caught {
            let _ = DESCRIPTION.try_with(|description| *description.borrow_mut() = Some(text));
            return;
        }
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        // The text is not written to the server's log, because the panicking thread may hold the lock of that log.
        let _ = writeln!(
            std::io::stderr(),
            "goguerrilla: thread {name} panicked: {text}"
        );
    }));
}

fn describe_panic(info: &PanicHookInfo<'_>) -> String {
    let message = one_line(panic_message(info.payload()));
    match info.location() {
        Some(location) => format!(
            "{message} ({}:{})",
            without_build_folder(location.file()),
            location.line()
        ),
        None => message,
    }
}

/// Returns the path of a source file without the folder of the Cargo registry on the build machine.
fn without_build_folder(file: &str) -> &str {
    let start = file.find("/registry/src/").map(|at| at + 14);
    let below = start.and_then(|start| file.get(start..));
    let in_crate = below.and_then(|below| below.split_once('/'));
    in_crate.map_or(file, |(_, path)| path)
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message")
}

/// Replaces control characters with spaces and truncates the text to [`MAX_MESSAGE_CHARS`], because a panic message may
/// contain text that a database server sent.
fn one_line(text: &str) -> String {
    let chars = text.chars().take(MAX_MESSAGE_CHARS);
    chars
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Maximum length of the message of a panic, in characters. A longer message is truncated.
const MAX_MESSAGE_CHARS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_panic_message_is_one_short_line() {
        assert_eq!(catch_panic(|| 7), Ok(7));
        let long = format!("two\nlines {}", "x".repeat(1_000));
        let caught = catch_panic(|| panic!("{long}"));
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
