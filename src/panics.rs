//! Panics: caught around code that may panic, such as a database driver, and printed as one line everywhere else.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::thread;

use crate::metrics::{self, Component};

thread_local! {
    /// How many calls of [`catch`] this thread is inside of.
    static CATCHING: Cell<usize> = const { Cell::new(0) };
    /// What the hook has noted of a panic that a call of [`catch`] is about to catch.
    static NOTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `run`. A panic in it is counted and returned as one line of text, and the panic hook prints nothing.
///
/// # Errors
/// The panic's message, and its place in the source where the hook is installed.
pub fn catch<T>(part: Component, run: impl FnOnce() -> T) -> Result<T, String> {
    CATCHING.set(CATCHING.get() + 1);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(CATCHING.get() - 1);
    outcome.map_err(|payload| {
        metrics::PANICS.count(part);
        let noted = NOTED.with_borrow_mut(Option::take);
        noted.unwrap_or_else(|| one_line(message(&*payload)))
    })
}

/// Replaces the hook of the whole process, which prints several lines for each panic: only the program itself does this.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        let text = describe(info);
        // A panic may happen while a thread's local variables are already gone.
        let is_caught = CATCHING.try_with(Cell::get).is_ok_and(|depth| depth > 0);
        if is_caught {
            let _ = NOTED.try_with(|noted| *noted.borrow_mut() = Some(text));
            return;
        }
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        // Not into the log: the panic may have happened while this thread holds the log's lock.
        let _ = writeln!(
            std::io::stderr(),
            "goguerrilla: thread {name} panicked: {text}"
        );
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = one_line(message(info.payload()));
    match info.location() {
        Some(place) => format!("{message} ({}:{})", short(place.file()), place.line()),
        None => message,
    }
}

/// Returns a source file's path without the folder that it was built in.
fn short(file: &str) -> &str {
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

/// Replaces control characters, and cuts a message that repeats what a server has sent.
fn one_line(text: &str) -> String {
    let chars = text.chars().take(MAX_MESSAGE_CHARS);
    chars
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Characters of a panic's message that are kept.
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
        assert_eq!(short(file), "mysql-28/src/conn/mod.rs");
        assert_eq!(short("src/panics.rs"), "src/panics.rs");
    }
}
