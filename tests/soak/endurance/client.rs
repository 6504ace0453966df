//! A client that delivers mail in one session after another, each with its own number of mails and its own way to end.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::SockRef;
use testkit::load::content_of;
use testkit::{TEST_TIMEOUT, stuffed, tls};

/// What all clients share.
pub struct Shared {
    pub address: SocketAddr,
    pub implicit_tls_address: SocketAddr,
    pub config: Arc<ClientConfig>,
    pub contents: Contents,
    /// The number of mails after which the clients end.
    pub goal: usize,
    /// Mails that got 250, and their recipients.
    pub acknowledged: AtomicUsize,
    pub acknowledged_rows: AtomicUsize,
    /// Mails whose sender left before the reply, and their recipients.
    pub unanswered: AtomicUsize,
    pub unanswered_rows: AtomicUsize,
    /// Mails that got 451.
    pub deferred: AtomicUsize,
    pub sessions: AtomicUsize,
    /// Each client holds the read lock during a mail, and from the end of a session to the start of the next one. With the write
    /// lock, each client has one open session and sends no mail.
    pub gate: RwLock<()>,
}

impl Shared {
    /// Runs one client until the goal is reached.
    pub fn run_client(&self, number: usize) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ ((number as u64 + 1) << 40));
        let mut session = self.open(number);
        for _ in 0..LARGEST_MAILS_AT_THE_START {
            let _guard = self.gate.read().expect("no panic in another client");
            self.deliver(&mut session, self.contents.largest(), &mut random);
        }
        loop {
            for _ in 0..=random.below(MOST_MAILS_OF_A_SESSION) {
                let _guard = self.gate.read().expect("no panic in another client");
                if self.acknowledged.load(Ordering::SeqCst) >= self.goal {
                    return session.quit();
                }
                let content = self.contents.any(&mut random);
                self.deliver(&mut session, content, &mut random);
            }
            let _guard = self.gate.read().expect("no panic in another client");
            self.end(session, &mut random);
            session = self.open(number);
        }
    }

    /// Opens a session: the clients differ in TLS and in how they send content.
    fn open(&self, number: usize) -> Session {
        self.sessions.fetch_add(1, Ordering::SeqCst);
        let sends_chunks = number % 2 == 1;
        let mut session = match number % 8 {
            3 => Session::over_tls(connect(self.implicit_tls_address), &self.config),
            _ => Session::over(Stream::Plain(connect(self.address))),
        };
        session.expect("220");
        session.command("EHLO client.test", "250");
        if number % 8 == 6 {
            session.command("STARTTLS", "220");
            let Stream::Plain(socket) = session.stream.into_inner() else {
                unreachable!("this session is not encrypted yet");
            };
            session = Session::over_tls(socket, &self.config);
            session.command("EHLO client.test", "250");
        }
        session.sends_chunks = sends_chunks;
        session
    }

    /// Delivers one mail; some have several recipients, and some have one that is refused.
    fn deliver(&self, session: &mut Session, content: &Content, random: &mut Random) {
        let recipients = match random.below(100) {
            0 => 10,
            1..=10 => 3,
            _ => 1,
        };
        let is_one_refused = random.below(200) == 0;
        if random.below(1_000) == 0 {
            session.command("MAIL FROM:<a@client.test> SIZE=100000000", "552");
        }
        session.send_envelope(recipients, is_one_refused, random);
        session.send_content(content);
        if session.read_code() == 451 {
            // The disk was busy for longer than GM_HOLD_SECONDS; the sender delivers the mail again.
            self.deferred.fetch_add(1, Ordering::SeqCst);
            return;
        }
        self.acknowledged_rows
            .fetch_add(recipients, Ordering::SeqCst);
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends a session in one of the ways in which sessions end.
    fn end(&self, mut session: Session, random: &mut Random) {
        match random.below(12) {
            0 => {}
            1 => session.reset(),
            2 => {
                session.send_envelope(1, false, random);
                session.send(b"Subject: never finished\r\n\r\nThe sender leaves ");
            }
            3 => {
                session.send_envelope(1, false, random);
                session.send(b"Subject: never finished\r\n\r\nThe sender resets ");
                session.reset();
            }
            4 => {
                session.send_envelope(1, false, random);
                session.send_content(self.contents.any(random));
                self.unanswered.fetch_add(1, Ordering::SeqCst);
                self.unanswered_rows.fetch_add(1, Ordering::SeqCst);
                session.reset();
            }
            5 => session.make_errors_until_the_end(),
            _ => session.quit(),
        }
    }
}

/// The content of mails, made once, in both forms.
pub struct Contents(Vec<Content>);

struct Content {
    data: Vec<u8>,
    chunk: Vec<u8>,
}

impl Contents {
    /// Makes several mails of each size.
    pub fn make() -> Contents {
        let marker = |number: usize, octets: usize| format!("endurance-{number}+{octets}");
        let contents = SIZES.iter().flat_map(|&(octets, _)| {
            (0..CONTENTS_OF_A_SIZE).map(move |number| content_of(&marker(number, octets)))
        });
        let make = |content: String| Content {
            data: stuffed(content.as_bytes()),
            chunk: [
                format!("BDAT {} LAST\r\n", content.len()).as_bytes(),
                content.as_bytes(),
            ]
            .concat(),
        };
        Contents(contents.map(make).collect())
    }

    fn largest(&self) -> &Content {
        self.0.last().expect("several sizes")
    }

    fn any(&self, random: &mut Random) -> &Content {
        let point = random.below(PARTS);
        let size = SIZES.iter().position(|&(_, below)| point < below);
        let size = size.expect("the last size has the rest");
        &self.0[size * CONTENTS_OF_A_SIZE + random.below(CONTENTS_OF_A_SIZE)]
    }
}

/// A session after its greeting.
struct Session {
    stream: BufReader<Stream>,
    sends_chunks: bool,
    /// What is sent, kept for its memory.
    commands: String,
    line: Vec<u8>,
}

impl Session {
    fn over(stream: Stream) -> Session {
        Session {
            stream: BufReader::new(stream),
            sends_chunks: false,
            commands: String::new(),
            line: Vec::new(),
        }
    }

    fn over_tls(socket: TcpStream, config: &Arc<ClientConfig>) -> Session {
        let connection = tls::connection(Arc::clone(config));
        Session::over(Stream::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    fn send(&mut self, octets: &[u8]) {
        let stream = self.stream.get_mut();
        let sent = stream.write_all(octets).and_then(|()| stream.flush());
        sent.expect("the server reads");
    }

    fn command(&mut self, line: &str, code: &str) {
        self.send(format!("{line}\r\n").as_bytes());
        self.expect(code);
    }

    /// Reads a whole reply, which must have this code.
    fn expect(&mut self, code: &str) {
        self.read_reply(|found| found == code);
    }

    /// Reads the reply to a mail, which must have the code 250 or 451, and returns its code.
    fn read_code(&mut self) -> u16 {
        self.read_reply(|found| ["250", "451"].contains(&found));
        match self.line.starts_with(b"250") {
            true => 250,
            false => 451,
        }
    }

    /// Reads a whole reply, whose code must be an expected one.
    fn read_reply(&mut self, is_expected: impl Fn(&str) -> bool) {
        loop {
            self.line.clear();
            let read = self.stream.read_until(b'\n', &mut self.line);
            read.expect("a reply");
            let line = str::from_utf8(&self.line).expect("ASCII");
            let code = line.get(..3).expect("a reply before the end");
            assert!(is_expected(code), "unexpected: {line}");
            if line.as_bytes().get(3) == Some(&b' ') {
                return;
            }
        }
    }

    /// Sends MAIL, RCPT and, without chunks, DATA in one write. With chunks the replies are read here too.
    fn send_envelope(&mut self, recipients: usize, is_one_refused: bool, random: &mut Random) {
        let mut commands = std::mem::take(&mut self.commands);
        commands.clear();
        commands.push_str("MAIL FROM:<a@client.test>\r\n");
        for _ in 0..recipients {
            let user = random.below(USERS);
            let _ = write!(commands, "RCPT TO:<user{user}@ours.test>\r\n");
        }
        if is_one_refused {
            commands.push_str("RCPT TO:<user@other.test>\r\n");
        }
        if !self.sends_chunks {
            commands.push_str("DATA\r\n");
        }
        self.send(commands.as_bytes());
        self.commands = commands;
        for _ in 0..=recipients {
            self.expect("250");
        }
        if is_one_refused {
            self.expect("550");
        }
        if !self.sends_chunks {
            self.expect("354");
        }
    }

    fn send_content(&mut self, content: &Content) {
        match self.sends_chunks {
            true => self.send(&content.chunk),
            false => self.send(&content.data),
        }
    }

    fn quit(mut self) {
        self.command("QUIT", "221");
    }

    fn reset(self) {
        let socket = SockRef::from(self.stream.get_ref().socket());
        let linger = socket.set_linger(Some(Duration::ZERO));
        linger.expect("an open socket");
    }

    /// Sends unknown commands until the server ends the session.
    fn make_errors_until_the_end(mut self) {
        // The server may end it before it has read them all.
        let stream = self.stream.get_mut();
        let _ = stream.write_all(&b"WHAT\r\n".repeat(100));
        let _ = stream.flush();
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(octets),
            Stream::Tls(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the server accepts");
    socket.set_nodelay(true).expect("an open socket");
    let time_limit = Some(TEST_TIMEOUT);
    socket.set_read_timeout(time_limit).expect("an open socket");
    socket
}

/// Pseudorandom numbers (xorshift64), the same in every run.
struct Random(u64);

impl Random {
    /// Returns a number below `sides`.
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % sides
    }
}

/// The sizes of contents in octets, and below which of [`PARTS`] equally likely numbers each is chosen: on average 430 octets.
const SIZES: [(usize, usize); 5] = [
    (200, 9_000),
    (1_000, 9_850),
    (4_000, 9_990),
    (20_000, 9_999),
    (60_000, PARTS),
];
const PARTS: usize = 10_000;
const CONTENTS_OF_A_SIZE: usize = 8;
/// The memory that the allocator keeps for each of its arenas depends on how many clients send the largest mail at once. Without
/// these mails that would happen at any time, and the series would rise for millions of mails.
const LARGEST_MAILS_AT_THE_START: usize = 50;
const MOST_MAILS_OF_A_SESSION: usize = 100;
const USERS: usize = 100_000;
