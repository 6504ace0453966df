//! The clients: Postfix's smtp-source, and a client that can pipeline.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use testkit::sample_mails;

use crate::program::postfix_tool;

/// The client and its parameters.
pub enum Load {
    /// Sessions of smtp-source, which does not pipeline.
    SmtpSource {
        message: Message,
        keep: bool,
        sessions: usize,
    },
    /// Connections of the built-in client, which send 2 KB messages.
    OwnClient(OwnClient),
}

/// The built-in client.
pub struct OwnClient {
    pub connections: usize,
    /// Whether MAIL, RCPT and DATA are sent in one write.
    pub pipelined: bool,
    /// The number of different recipients.
    pub users: usize,
    pub time: Duration,
}

/// The message to send.
#[derive(Clone, Copy)]
pub enum Message {
    /// 2 KB of text.
    Short,
    /// A base64 attachment of this many lines of 78 octets.
    Base64 { lines: usize },
    /// A newsletter in HTML.
    Html { octets: usize },
}

/// 10 and 100 KB, nearly all of it one base64 attachment.
pub const BASE64_10_KB: Message = Message::Base64 { lines: 125 };
pub const BASE64_100_KB: Message = Message::Base64 { lines: 1_305 };
pub const HTML_10_KB: Message = Message::Html { octets: 10_000 };
pub const HTML_100_KB: Message = Message::Html { octets: 100_000 };

/// The result of a run.
pub struct RunResult {
    pub messages: usize,
    pub time: Duration,
}

impl Load {
    /// Returns a load of 50 sessions of smtp-source.
    pub const fn smtp_source(message: Message, keep: bool) -> Load {
        let sessions = 50;
        Load::SmtpSource {
            message,
            keep,
            sessions,
        }
    }

    /// Sends `count` messages; the built-in client runs for a fixed time instead.
    pub fn run(&self, address: SocketAddr, count: usize) -> RunResult {
        let started_at = Instant::now();
        let messages = match self {
            Load::SmtpSource {
                message,
                keep,
                sessions,
            } => {
                run_smtp_source(address, *message, *keep, *sessions, count);
                count
            }
            Load::OwnClient(client) => client.run(address),
        };
        let time = started_at.elapsed();
        RunResult { messages, time }
    }
}

fn run_smtp_source(
    address: SocketAddr,
    message: Message,
    keep: bool,
    sessions: usize,
    count: usize,
) {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(message.text("\n").as_bytes())
        .expect("a temporary file");
    let mut command = Command::new("timeout");
    command
        .args(["-k", "1", MAX_RUN_SECONDS, &postfix_tool("smtp-source")])
        .args(["-C", "20", "-M", "client.test", "-f", SENDER, "-t", USER])
        .args(["-s", &sessions.to_string(), "-m", &count.to_string(), "-F"])
        .arg(file.path());
    if keep {
        command.arg("-d");
    }
    let status = command
        .arg(address.to_string())
        .stdin(Stdio::null())
        .status()
        .expect("timeout of coreutils starts");
    assert!(status.success(), "{command:?} ended with {status}");
}

impl OwnClient {
    /// Returns the number of messages sent.
    fn run(&self, address: SocketAddr) -> usize {
        let stop_at = Instant::now() + self.time;
        let content = format!("{}.\r\n", Message::Short.text("\r\n"));
        thread::scope(|scope| {
            let send = |number| self.send_until(stop_at, address, &content, number);
            let senders: Vec<_> = (0..self.connections)
                .map(|number| scope.spawn(move || send(number)))
                .collect();
            let sent = senders
                .into_iter()
                .map(|sender| sender.join().expect("a sender that was answered"));
            sent.sum()
        })
    }

    /// Sends over one connection and returns the number of messages.
    fn send_until(
        &self,
        stop_at: Instant,
        address: SocketAddr,
        content: &str,
        number: usize,
    ) -> usize {
        let socket = open(address);
        let mut replies = BufReader::new(&socket);
        let mut say = |commands: &[&str], codes: &[&str]| {
            (&socket)
                .write_all(commands.concat().as_bytes())
                .expect("the server reads");
            for code in codes {
                expect(&mut replies, code);
            }
        };
        say(&[], &["220"]);
        say(&["EHLO client.test\r\n"], &["250"]);
        let mail = format!("MAIL FROM:<{SENDER}>\r\n");
        // Distinct random numbers for each connection.
        let mut random = RandomNumbers(0x9e37_79b9_7f4a_7c15 ^ ((number as u64 + 1) << 40));
        let mut sent = 0;
        while Instant::now() < stop_at {
            let rcpt = match self.users {
                1 => format!("RCPT TO:<{USER}>\r\n"),
                users => format!("RCPT TO:<u{}@example.com>\r\n", random.below(users)),
            };
            if self.pipelined {
                say(&[&mail, &rcpt, "DATA\r\n"], &["250", "250", "354"]);
            } else {
                say(&[&mail], &["250"]);
                say(&[&rcpt], &["250"]);
                say(&["DATA\r\n"], &["354"]);
            }
            say(&[content], &["250"]);
            sent += 1;
        }
        say(&["QUIT\r\n"], &["221"]);
        sent
    }
}

/// Connects to a server, with a limit for the wait for a reply.
pub fn open(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the server accepts");
    socket.set_nodelay(true).expect("an open socket");
    let timeout = Some(Duration::from_secs(20));
    socket.set_read_timeout(timeout).expect("an open socket");
    socket
}

/// Reads a whole reply, which must have this code.
pub fn expect(replies: &mut impl BufRead, code: &str) {
    let mut line = String::new();
    loop {
        line.clear();
        replies.read_line(&mut line).expect("a reply");
        assert!(line.starts_with(code), "expected {code}, but found {line}");
        if line.as_bytes().get(3) == Some(&b' ') {
            return;
        }
    }
}

impl Message {
    /// Returns the message, the same each time, with the given line ends.
    pub fn text(self, line_end: &str) -> String {
        if let Message::Html { octets } = self {
            return sample_mails::html(octets).replace("\r\n", line_end);
        }
        let mut random = RandomNumbers(0x9e37_79b9_7f4a_7c15);
        let mut text = String::new();
        let mut line = |line: &str| {
            let _ = write!(text, "{line}{line_end}");
        };
        line("From: A Sender <sender@client.test>");
        line("To: A User <user@example.com>");
        line("Date: Mon, 01 Jun 2026 12:00:00 +0000");
        line("Message-ID: <20260601120000.1@client.test>");
        line("MIME-Version: 1.0");
        match self {
            Message::Html { .. } => {}
            Message::Short => {
                line("Subject: A few words");
                line("Content-Type: text/plain; charset=us-ascii");
                line("");
                for _ in 0..SHORT_LINES {
                    let words: Vec<&str> = (0..11).map(|_| WORDS[random.below(32)]).collect();
                    line(&words.join(" "));
                }
            }
            Message::Base64 { lines } => {
                line("Subject: A few words and a picture");
                line("Content-Type: multipart/mixed; boundary=\"=_1\"");
                line("");
                line("--=_1");
                line("Content-Type: text/plain; charset=us-ascii");
                line("");
                line("Here it is.");
                line("--=_1");
                line("Content-Type: image/jpeg; name=\"picture.jpg\"");
                line("Content-Disposition: attachment; filename=\"picture.jpg\"");
                line("Content-Transfer-Encoding: base64");
                line("");
                for _ in 0..lines {
                    // Compressed pictures look random, so their base64 uses the whole alphabet.
                    let letters = (0..76).map(|_| BASE64[random.below(64)] as char);
                    line(&letters.collect::<String>());
                }
                line("--=_1--");
            }
        }
        text
    }
}

/// Pseudorandom numbers (xorshift64), the same in every run.
pub struct RandomNumbers(pub u64);

impl RandomNumbers {
    /// Returns a number below `sides`.
    pub fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % sides
    }
}

pub const SENDER: &str = "sender@client.test";
pub const USER: &str = "user@example.com";
/// A run that takes this long has stalled.
const MAX_RUN_SECONDS: &str = "20";
/// About 62 octets each; 2 KB in total with the header section.
const SHORT_LINES: usize = 29;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const WORDS: [&str; 32] = [
    "about", "after", "again", "answer", "before", "between", "day", "every", "for", "from",
    "good", "have", "house", "in", "it", "letter", "little", "morning", "of", "on", "other",
    "people", "see", "that", "the", "there", "to", "under", "was", "we", "with", "write",
];
