//! Transcripts of sessions, as in RFC 5321 appendix D, and the player that compares a server with them.
//!
//! ```text
//! # what this shows                   a comment
//! # set GSMTP_MAX_SIZE=200            a key of the server's configuration
//! S: 220 mx.test ESMTP                one line of a reply; `*` matches any text
//! S* 250                              a whole reply that starts with this text
//! S- close                            the server closes the connection
//! C: NOOP                             a line; CR LF is added
//! C! NOOP\rQUIT\x00\r\n               octets with escapes; nothing is added
//! C* 2047 x                           octets with escapes, repeated
//! C~ 300                              the server sends nothing for this many milliseconds
//! C- finish                           the client shuts down its sending side; `C- reset` resets the connection
//! M! Subject: x\r\n                   the content that the 250 above has acknowledged
//! ```
//!
//! Consecutive client lines are sent in one write. Without `M!` the expected content is what the client sent between
//! 354 and the next CR LF . CR LF, without the first dot of each line. If neither side closes at the end of a dialogue,
//! the player sends QUIT and expects only its 221.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;
use std::{fs, mem};

use socket2::SockRef;

use super::store::{StoredMail, mails_after};
use super::{Client, Reply, Server, wait_for, without_trace};

/// A transcript.
pub struct Dialog {
    pub name: String,
    pub settings: Vec<(String, String)>,
    steps: Vec<(usize, Step)>,
}

enum Step {
    Send(Vec<u8>),
    Line(String),
    Beginning(String),
    Silence(Duration),
    ServerCloses,
    ClientFinishes,
    ClientResets,
    Content(Vec<u8>),
}

impl Dialog {
    /// Returns whether the session is not logged: the client disconnects without having sent anything.
    fn is_not_logged(&self) -> bool {
        let is_send = |(_, step): &(usize, Step)| matches!(step, Step::Send(_));
        let leaves =
            |(_, step): &(usize, Step)| matches!(step, Step::ClientFinishes | Step::ClientResets);
        !self.steps.iter().any(is_send) && self.steps.iter().any(leaves)
    }

    /// Reads a file. Panics on a line that is not part of the format.
    pub fn load(file: &Path) -> Dialog {
        let name = file.file_stem().expect("a file name").to_string_lossy();
        let text = fs::read_to_string(file).expect("a text file");
        let mut dialog = Dialog {
            name: name.into_owned(),
            settings: Vec::new(),
            steps: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(setting) = line.strip_prefix("# set ") {
                let (key, value) = setting.split_once('=').expect("KEY=VALUE");
                dialog.settings.push((key.to_owned(), value.to_owned()));
            } else if !line.is_empty() && !line.starts_with('#') {
                let step = Step::parse(line)
                    .unwrap_or_else(|| panic!("{}:{}: {line}", dialog.name, index + 1));
                dialog.steps.push((index + 1, step));
            }
        }
        dialog
    }
}

impl Step {
    fn parse(line: &str) -> Option<Step> {
        let (who, text) = line.split_at_checked(2)?;
        let text = text.strip_prefix(' ').unwrap_or(text);
        Some(match (who, text) {
            ("S:", text) => Step::Line(text.to_owned()),
            ("S*", text) => Step::Beginning(text.to_owned()),
            ("S-", "close") => Step::ServerCloses,
            ("C:", text) => Step::Send(format!("{text}\r\n").into_bytes()),
            ("C!", text) => Step::Send(unescape(text)?),
            ("C*", text) => {
                let (times, text) = text.split_once(' ')?;
                Step::Send(unescape(text)?.repeat(times.parse().ok()?))
            }
            ("C~", text) => Step::Silence(Duration::from_millis(text.parse().ok()?)),
            ("C-", "finish") => Step::ClientFinishes,
            ("C-", "reset") => Step::ClientResets,
            ("M!", text) => Step::Content(unescape(text)?),
            _ => return None,
        })
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        octets.push(match rest.next()? {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(octets)
}

/// A server, with the number of sessions and mails that have been checked.
pub struct DialogServer {
    server: Server,
    sessions: usize,
    last_mail_id: i64,
}

impl DialogServer {
    /// Starts a server with the settings of a dialogue.
    pub fn new(settings: &[(String, String)]) -> DialogServer {
        let settings: Vec<(&str, &str)> = settings
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        DialogServer {
            server: Server::start(&settings),
            sessions: 0,
            last_mail_id: 0,
        }
    }

    /// Plays a dialogue, then checks the store and the log and that a new client is greeted.
    pub fn play(&mut self, dialog: &Dialog) -> Result<(), String> {
        let at = Cell::new(0);
        let played = catch_unwind(AssertUnwindSafe(|| {
            let acknowledged = DialogPlayer::new(&self.server).play(dialog, &at);
            self.check_store_and_log(dialog, &acknowledged);
        }));
        played.map_err(|panic| {
            let (name, line) = (&dialog.name, at.get());
            format!(
                "tests/dialogs/{name}.dialog:{line}: {}\n---- log of the server\n{}",
                text_of(&*panic),
                self.server.log()
            )
        })
    }

    fn check_store_and_log(&mut self, dialog: &Dialog, acknowledged: &[ExpectedMail]) {
        self.server.client().command("QUIT", "221 2.0.0 ");
        self.sessions += if dialog.is_not_logged() { 1 } else { 2 };
        // After the end of a session nothing more of it can reach the store.
        wait_for("both sessions to end", || {
            let ended = self.server.log().matches(" disconnected ").count();
            (ended == self.sessions).then_some(())
        });
        let rows = mails_after(&self.server.path("goguerrilla.db"), self.last_mail_id);
        self.last_mail_id = rows.last().map_or(self.last_mail_id, |row| row.mail_id);
        check_store(&rows, acknowledged);
        check_log(&self.server.log());
    }
}

/// Asserts that the store contains exactly the acknowledged mails, octet for octet.
fn check_store(rows: &[StoredMail], acknowledged: &[ExpectedMail]) {
    let mut acknowledged = acknowledged.iter().peekable();
    let mut current = None;
    let mut recipients = HashSet::new();
    for row in rows {
        if let Some(promise) = acknowledged.next_if(|promise| promise.hash == row.hash) {
            current = Some(promise);
            recipients.clear();
        }
        let promise = current.unwrap_or_else(|| panic!("not acknowledged, but stored: {row:?}"));
        assert!(
            recipients.insert(row.recipient.as_str()),
            "a second row for {}",
            row.recipient
        );
        let content = without_trace(&row.mail);
        assert!(
            content == promise.content,
            "{} contains {}\nexpected {}",
            row.hash,
            content.escape_ascii(),
            promise.content.escape_ascii()
        );
    }
    let lost: Vec<&str> = acknowledged.map(|promise| promise.hash.as_str()).collect();
    assert!(lost.is_empty(), "acknowledged, but not stored: {lost:?}");
}

/// Asserts that the log has no control characters, whatever the client sent.
fn check_log(log: &str) {
    let hostile = log.chars().find(|c| c.is_control() && *c != '\n');
    assert!(hostile.is_none(), "the log contains {hostile:?}");
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without text").to_owned()
}

/// A mail that was acknowledged with 250.
struct ExpectedMail {
    hash: String,
    content: Vec<u8>,
}

struct DialogPlayer {
    client: Client,
    /// The lines of the current reply that no step has checked yet.
    lines: Vec<String>,
    unsent: Vec<u8>,
    /// The octets sent since the last 354.
    data: Vec<u8>,
    acknowledged: Vec<ExpectedMail>,
    closed: bool,
}

impl DialogPlayer {
    fn new(server: &Server) -> DialogPlayer {
        DialogPlayer {
            client: Client::connect(server.address),
            lines: Vec::new(),
            unsent: Vec::new(),
            data: Vec::new(),
            acknowledged: Vec::new(),
            closed: false,
        }
    }

    fn play(mut self, dialog: &Dialog, at: &Cell<usize>) -> Vec<ExpectedMail> {
        let mut content_is_given = false;
        for (line, step) in &dialog.steps {
            at.set(*line);
            if let Step::Content(octets) = step {
                let promise = self.acknowledged.last_mut().expect("a 250 before M!");
                if !mem::replace(&mut content_is_given, true) {
                    promise.content.clear();
                }
                promise.content.extend_from_slice(octets);
                continue;
            }
            content_is_given = false;
            self.step(step);
        }
        self.finish();
        self.acknowledged
    }

    fn step(&mut self, step: &Step) {
        if let Step::Send(octets) = step {
            self.unsent.extend_from_slice(octets);
            return;
        }
        self.send();
        match step {
            Step::Line(pattern) => {
                if self.lines.is_empty() {
                    self.lines = self.next_reply().lines;
                }
                let line = self.lines.remove(0);
                assert!(matches(pattern, &line), "found {line}");
            }
            Step::Beginning(beginning) => {
                self.expect_end_of_reply();
                let text = self.next_reply().text();
                assert!(text.starts_with(beginning), "found {text}");
            }
            Step::Silence(how_long) => {
                self.expect_end_of_reply();
                self.client.expect_silence(*how_long);
            }
            Step::ServerCloses => {
                self.expect_end_of_reply();
                self.client.expect_close();
                self.closed = true;
            }
            Step::ClientFinishes => {
                self.client.finish_sending();
                self.client.expect_close();
                self.closed = true;
            }
            Step::ClientResets => {
                let socket = SockRef::from(self.client.socket());
                socket
                    .set_linger(Some(Duration::ZERO))
                    .expect("an open socket");
                self.closed = true;
            }
            Step::Send(_) | Step::Content(_) => {}
        }
    }

    fn send(&mut self) {
        let octets = mem::take(&mut self.unsent);
        if !octets.is_empty() {
            self.client.send(&octets);
            self.data.extend_from_slice(&octets);
        }
    }

    fn next_reply(&mut self) -> Reply {
        let reply = self.client.read_reply().expect("a reply, not the end");
        if reply.code == 354 {
            self.data.clear();
        }
        if let Some(hash) = reply.text().strip_prefix("250 2.0.0 OK : queued as ") {
            let is_hash = hash.len() == 32 && hash.bytes().all(|octet| octet.is_ascii_hexdigit());
            assert!(is_hash, "not a hash: {hash}");
            let hash = hash.to_owned();
            let content = until_end_of_mail(&self.data);
            self.acknowledged.push(ExpectedMail { hash, content });
        }
        reply
    }

    fn expect_end_of_reply(&self) {
        assert!(self.lines.is_empty(), "more lines: {:?}", self.lines);
    }

    /// Asserts that the server sends nothing unsolicited at the end.
    fn finish(&mut self) {
        self.send();
        self.expect_end_of_reply();
        if !self.closed {
            self.client.command("QUIT", "221 2.0.0 ");
            self.client.expect_close();
        }
    }
}

/// Returns the content up to the end of data. Reads line by line, where only CR LF ends a line; deliberately simpler
/// than the server's reader.
fn until_end_of_mail(data: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut rest = data;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let line = &rest[..end];
        if line == b"." {
            break;
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        content.extend_from_slice(b"\r\n");
        rest = &rest[end + 2..];
    }
    content
}

/// Returns whether `text` matches `pattern`, in which `*` matches any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, others)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut pieces = others.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(found) => rest = &rest[found + piece.len()..],
            None => return false,
        }
    }
    true
}
