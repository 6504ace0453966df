//! `goguerrilla list --follow`: prints mails as they arrive, until a signal or until nothing reads the output.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::CommandFailure;
use super::list_show::{STREAM_HEADER, mail_as_json_line, mail_as_stream_line};
use crate::config::Config;
use crate::os::signals;
use crate::server;
use crate::store::follow::{FollowedRows, Follower, MAX_FIRST_MAILS};
use crate::store::{ListedMail, StoreReadError};

/// Prints the newest `first` mails, the oldest of them first, and then each mail that arrives; `to` selects a recipient.
///
/// # Errors
/// [`CommandFailure`]: the store cannot be read at the start, or standard output cannot be written. A store that becomes
/// unavailable later is reported on standard error, and opened again until it answers.
pub fn follow_mails(
    config: &Config,
    to: Option<&str>,
    first: u32,
    as_json: bool,
) -> Result<(), CommandFailure> {
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    if first > MAX_FIRST_MAILS {
        let text =
            format!("--limit: expected at most {MAX_FIRST_MAILS} with --follow, but found {first}");
        return Err(CommandFailure { text, status: 2 });
    }
    let interrupted = signals::interrupt_flag().map_err(|error| format!("signals: {error}"))?;
    let store = server::store_factory_of_kind(config.store).map_err(|error| error.to_string())?;
    let open = || store.open_followed_rows(config, to);
    let mut rows = open().map_err(|error| error.to_string())?;
    let follower = Follower::start(&mut *rows, first, Instant::now());
    let mut following = Following {
        rows: Some(rows),
        follower: follower.map_err(|error| error.to_string())?,
        outage: None,
        had_warning: false,
    };
    let mut output = Output {
        as_json,
        interrupted: &interrupted,
    };
    let mut may_go_on = as_json || output.print(STREAM_HEADER.as_bytes())?;
    while may_go_on && !interrupted.load(Ordering::SeqCst) {
        let pause = match following.next_mails(&open) {
            Ok(mails) => {
                may_go_on = output.print_mails(&mails)?;
                match following.follower.has_more() {
                    true => Duration::ZERO,
                    false => POLL_INTERVAL,
                }
            }
            Err(error) => {
                following.report_outage(&error);
                RETRY_INTERVAL
            }
        };
        may_go_on = may_go_on && wait_while_output_is_read(pause, &interrupted);
    }
    Ok(())
}

struct Following {
    rows: Option<Box<dyn FollowedRows>>,
    follower: Follower,
    /// When and with which text the unavailable store was reported the last time.
    outage: Option<(Instant, String)>,
    had_warning: bool,
}

impl Following {
    fn next_mails(
        &mut self,
        open: &dyn Fn() -> Result<Box<dyn FollowedRows>, StoreReadError>,
    ) -> Result<Vec<ListedMail>, StoreReadError> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            closed => {
                let opened = closed.insert(open()?);
                self.follower.restart_clock(Instant::now());
                opened
            }
        };
        let mails = self.follower.next_mails(&mut **rows, Instant::now());
        match &mails {
            Ok(_) => {
                // The warning (some sizes could not be read) is printed once, and again only after a query without one.
                let warning = rows.warning();
                if let Some(warning) = warning.as_ref().filter(|_| !self.had_warning) {
                    print_note(&warning.to_string());
                }
                self.had_warning = warning.is_some();
                if self.outage.take().is_some() {
                    print_note("the store can be read again; mails that arrived meanwhile follow");
                }
            }
            Err(_) => self.rows = None,
        }
        mails
    }

    /// Prints why the store cannot be read, unless the same text was the last one printed, or another one was printed within
    /// `OUTAGE_REPORT_INTERVAL`.
    fn report_outage(&mut self, error: &StoreReadError) {
        let text = error.to_string();
        let is_known = self
            .outage
            .as_ref()
            .is_some_and(|(at, last)| *last == text || at.elapsed() < OUTAGE_REPORT_INTERVAL);
        if !is_known {
            print_note(&format!("{text}; trying again every second"));
            self.outage = Some((Instant::now(), text));
        }
    }
}

struct Output<'a> {
    as_json: bool,
    interrupted: &'a AtomicBool,
}

impl Output<'_> {
    /// Returns false if nothing reads the output any more, or after a signal.
    fn print_mails(&mut self, mails: &[ListedMail]) -> Result<bool, CommandFailure> {
        let line = match self.as_json {
            true => mail_as_json_line,
            false => mail_as_stream_line,
        };
        let lines: String = mails.iter().map(line).collect();
        self.print(lines.as_bytes())
    }

    fn print(&mut self, octets: &[u8]) -> Result<bool, CommandFailure> {
        let mut stdout = io::stdout().lock();
        for part in octets.chunks(UNBLOCKED_OCTETS) {
            if !wait_until_writable(&stdout, self.interrupted) {
                return Ok(false);
            }
            match stdout.write_all(part).and_then(|()| stdout.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => return Err(format!("standard output: {error}").into()),
            }
        }
        Ok(true)
    }
}

/// Waits until [`UNBLOCKED_OCTETS`] can be written without blocking: a blocked write does not end at a signal. Returns false
/// after a signal.
fn wait_until_writable(stdout: &impl AsFd, interrupted: &AtomicBool) -> bool {
    let timeout = PollTimeout::try_from(SIGNAL_CHECK_INTERVAL).unwrap_or(PollTimeout::ZERO);
    while !interrupted.load(Ordering::SeqCst) {
        let mut descriptors = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut descriptors, timeout) {
            // Nothing reads, or a signal arrived.
            Ok(0) | Err(Errno::EINTR) => {}
            // Also an output that is broken, which the write reports.
            Ok(_) | Err(_) => return true,
        }
    }
    false
}

/// Waits, and returns false as soon as the reader of standard output has closed its pipe. A signal ends the wait.
fn wait_while_output_is_read(time: Duration, interrupted: &AtomicBool) -> bool {
    if interrupted.load(Ordering::SeqCst) {
        return false;
    }
    let stdout = io::stdout();
    // POLLERR and POLLHUP are reported although no event is asked for.
    let mut descriptors = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    match poll(&mut descriptors, timeout) {
        Ok(0) => true,
        Ok(_) => false,
        // A signal, whose flag the caller reads.
        Err(_) => true,
    }
}

fn print_note(text: &str) {
    // If standard error is closed, the note is lost.
    let _ = writeln!(io::stderr(), "goguerrilla: {text}");
}

/// A pipe that poll(2) reports as writable takes at least this many octets (PIPE_BUF of Linux).
const UNBLOCKED_OCTETS: usize = 4_096;
/// Interval at which a wait for the reader of the output looks for a signal that arrived just before it.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The pause after a query that found no further mail.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The pause before an unavailable store is opened again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two different reports of an unavailable store, such as those of several hosts.
const OUTAGE_REPORT_INTERVAL: Duration = Duration::from_secs(10);
