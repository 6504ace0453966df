//! A progress bar on standard error, if that is a terminal and the program has a store.

#[cfg(any(feature = "sqlite", feature = "mysql"))]
use std::io::{self, IsTerminal};

#[cfg(any(feature = "sqlite", feature = "mysql"))]
use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar; dropping it removes the bar from the terminal.
pub struct Progress {
    #[cfg(any(feature = "sqlite", feature = "mysql"))]
    bar: Option<ProgressBar>,
}

#[cfg(any(feature = "sqlite", feature = "mysql"))]
impl Progress {
    /// Shows the bar if standard error is a terminal. `count` returns the number of rows to remove and is only called then.
    pub fn start(count: impl FnOnce() -> Option<u64>) -> Progress {
        let bar = io::stderr().is_terminal().then(|| match count() {
            Some(rows) => {
                // The template is constant and valid; without it the bar has the style of the library.
                let style = ProgressStyle::with_template(TEMPLATE)
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(rows).with_style(style)
            }
            None => ProgressBar::new_spinner(),
        });
        Progress { bar }
    }

    /// Records removed rows.
    pub fn add(&self, rows: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(rows);
        }
    }
}

#[cfg(any(feature = "sqlite", feature = "mysql"))]
impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(not(any(feature = "sqlite", feature = "mysql")))]
impl Progress {
    /// Shows nothing: a program without a store has no rows to remove.
    pub fn start(_: impl FnOnce() -> Option<u64>) -> Progress {
        Progress {}
    }

    /// Records nothing.
    pub fn add(&self, _: u64) {}
}

#[cfg(any(feature = "sqlite", feature = "mysql"))]
const TEMPLATE: &str = "{wide_bar} {human_pos}/{human_len} rows, {eta} left";
