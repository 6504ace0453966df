//! Clients that keep delivering mail and record the outcome of each mail.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::old_rows::IS_MAIL;
use super::store::inflate;
use super::{TEST_TIMEOUT, let_time_pass, wait_for, wait_for_within};

/// Several clients that deliver mails until they are stopped; each mail has a unique marker as Subject.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the clients sent and the replies they got.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Markers of mails whose final dot may have been sent.
    pub sent: Vec<String>,
    /// Markers of mails that got 250.
    pub acknowledged: Vec<String>,
    /// Markers of mails that got 4xx.
    pub deferred: Vec<String>,
    /// Markers of mails whose connection ended before the reply.
    pub unanswered: Vec<String>,
    /// The number of replies by command and code; the greeting counts as a command.
    pub replies: BTreeMap<(&'static str, u16), usize>,
    /// Connections that could not be opened, or that ended before the reply to QUIT.
    pub cut: usize,
    /// The shortest and the longest time from the final dot to its reply, by code.
    pub reply_times: BTreeMap<u16, (Duration, Duration)>,
}

impl Account {
    /// Asserts that every reply had the expected code or a 4xx code.
    pub fn assert_only_expected_replies(&self) {
        for ((command, code), count) in &self.replies {
            let (_, expected_code) = DIALOGUE
                .iter()
                .find(|(one, _)| one == command)
                .expect("a known command");
            let is_fine = code == expected_code || (400..500).contains(code);
            assert!(is_fine, "{command:?} was answered {code}, {count} times");
        }
    }

    /// Describes the 4xx replies by command.
    pub fn temporary_failures(&self) -> String {
        let describe = |((command, code), count): (&(&str, u16), &usize)| {
            (400..500)
                .contains(code)
                .then(|| format!("{count} × {code} to {command}"))
        };
        let all: Vec<String> = self.replies.iter().filter_map(describe).collect();
        match all.is_empty() {
            true => "none".to_owned(),
            false => all.join(", "),
        }
    }
}

struct Shared {
    address: SocketAddr,
    mails_per_connection: usize,
    stop: AtomicBool,
    account: Mutex<Account>,
    acknowledged: AtomicUsize,
}

impl Load {
    /// Starts `clients` threads, whose markers begin with `prefix`. Each reconnects whenever its connection ends.
    pub fn start(address: SocketAddr, clients: usize, prefix: &str) -> Load {
        let shared = Shared::new(address, MAILS_PER_CONNECTION);
        let threads = (0..clients)
            .map(|client| {
                let (shared, prefix) = (Arc::clone(&shared), format!("{prefix}-{client}"));
                thread::spawn(move || shared.deliver(&prefix))
            })
            .collect();
        Load { shared, threads }
    }

    /// Starts `rate` mails a second, each on a connection and a thread of its own, whether earlier ones have their reply
    /// or not.
    pub fn start_paced(address: SocketAddr, rate: u32, prefix: &str) -> Load {
        let shared = Shared::new(address, 1);
        let (all, prefix) = (Arc::clone(&shared), prefix.to_owned());
        let pace = move || {
            let started_at = Instant::now();
            let mut threads = Vec::new();
            for number in 0.. {
                let due_at = started_at + Duration::from_secs(1) * number / rate;
                let_time_pass(
                    due_at.saturating_duration_since(Instant::now()),
                    "the time until the next mail is due",
                );
                if all.stop.load(Ordering::SeqCst) {
                    break;
                }
                let (shared, prefix) = (Arc::clone(&all), format!("{prefix}-{number}"));
                let thread = thread::Builder::new().stack_size(PACED_STACK);
                let deliver = move || shared.deliver_once(&prefix);
                threads.push(thread.spawn(deliver).expect("a thread"));
            }
            for thread in threads {
                thread.join().expect("no panic in a client");
            }
        };
        let threads = vec![thread::spawn(pace)];
        Load { shared, threads }
    }

    /// Waits until this many more mails have been acknowledged.
    pub fn wait_for_more(&self, count: usize) {
        self.wait_for(self.acknowledged() + count);
    }

    /// Waits until this many more mails have been acknowledged. Fails after `time_limit`.
    pub fn wait_for_more_within(&self, count: usize, time_limit: Duration) {
        let goal = self.acknowledged() + count;
        wait_for_within("mails to be acknowledged", time_limit, || {
            (self.acknowledged() >= goal).then_some(())
        });
    }

    /// Waits until this many mails have been acknowledged in total.
    pub fn wait_for(&self, goal: usize) {
        wait_for("mails to be acknowledged", || {
            (self.acknowledged() >= goal).then_some(())
        });
    }

    /// Returns the number of mails acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Returns the account of the mails so far.
    pub fn account(&self) -> Account {
        self.shared.account.lock().expect("no panic").clone()
    }

    /// Lets each client finish its mail and returns the account, after asserting that all replies were expected.
    pub fn stop(self) -> Account {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no panic in a client");
        }
        let account = self.shared.account.lock().expect("no panic").clone();
        account.assert_only_expected_replies();
        account
    }
}

impl Shared {
    fn new(address: SocketAddr, mails_per_connection: usize) -> Arc<Shared> {
        Arc::new(Shared {
            address,
            mails_per_connection,
            stop: AtomicBool::new(false),
            account: Mutex::default(),
            acknowledged: AtomicUsize::new(0),
        })
    }

    fn deliver_once(&self, prefix: &str) {
        if let Err(error) = self.deliver_on_one_connection(prefix, &mut 0)
            && error.kind() != io::ErrorKind::Other
        {
            self.account(|account| account.cut += 1);
        }
    }

    fn deliver(&self, prefix: &str) {
        let mut number = 0;
        while !self.stop.load(Ordering::SeqCst) {
            if let Err(error) = self.deliver_on_one_connection(prefix, &mut number) {
                if error.kind() != io::ErrorKind::Other {
                    self.account(|account| account.cut += 1);
                }
                // The server is unavailable. Without a pause the clients would take processor time from its restart.
                let_time_pass(Duration::from_millis(2), "the pause of a client");
            }
        }
    }

    fn deliver_on_one_connection(&self, prefix: &str, number: &mut usize) -> io::Result<()> {
        let mut client = PlainClient::open(self.address)?;
        let greeting = client.read_code()?;
        self.expect_code("greeting", greeting)?;
        self.send_command(&mut client, "EHLO client.test")?;
        for _ in 0..self.mails_per_connection {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            *number += 1;
            let marker = format!("{prefix}-{number}");
            for command in ["MAIL FROM:<a@client.test>", "RCPT TO:<u@ours.test>", "DATA"] {
                self.send_command(&mut client, command)?;
            }
            self.account(|account| account.sent.push(marker.clone()));
            let ended_at = Instant::now();
            let answered = client
                .send(content_of(&marker).as_bytes())
                .and_then(|()| client.send(b".\r\n"))
                .and_then(|()| client.read_code());
            self.account(|account| {
                match &answered {
                    Ok(250) => account.acknowledged.push(marker),
                    Ok(_) => account.deferred.push(marker),
                    Err(_) => account.unanswered.push(marker),
                }
                if let Ok(code) = answered {
                    let took = ended_at.elapsed();
                    let times = account.reply_times.entry(code).or_insert((took, took));
                    *times = (times.0.min(took), times.1.max(took));
                }
            });
            let code = answered?;
            if code == 250 {
                self.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            // A deferred mail does not end the connection.
            let _ = self.expect_code(".", code);
        }
        self.send_command(&mut client, "QUIT")
    }

    fn send_command(&self, client: &mut PlainClient, command: &'static str) -> io::Result<()> {
        client.send(format!("{command}\r\n").as_bytes())?;
        let code = client.read_code()?;
        self.expect_code(command, code)
    }

    /// Records a reply. Returns an error if its code was not the expected one.
    fn expect_code(&self, command: &'static str, code: u16) -> io::Result<()> {
        self.account(|account| *account.replies.entry((command, code)).or_default() += 1);
        match DIALOGUE.contains(&(command, code)) {
            true => Ok(()),
            false => Err(io::Error::other(format!("{code} to {command}"))),
        }
    }

    fn account(&self, note: impl FnOnce(&mut Account)) {
        note(&mut self.account.lock().expect("no panic"));
    }
}

/// Returns the content for a marker. A marker that ends in `+300` adds about 300 octets, which compress to half their
/// size.
pub fn content_of(marker: &str) -> String {
    let mut content = format!("Subject: {marker}\r\n\r\nThis is {marker}.\r\n");
    let more = marker
        .rsplit_once('+')
        .and_then(|(_, octets)| octets.parse().ok());
    let end = content.len() + more.unwrap_or(0);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = String::new();
    // The block is longer than zlib's window.
    while block.len() < (end - content.len()).min(65_536) {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block += &format!("{state:016x}\r\n");
    }
    while content.len() < end {
        content += &block;
    }
    content
}

/// Counts the rows of each marker in an SQLite file, without those of `old_rows`, and checks each content.
pub fn stored_markers(file: &Path) -> HashMap<String, usize> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let database = Connection::open_with_flags(file, flags).expect("a file that exists");
    database.busy_timeout(TEST_TIMEOUT).expect("an open file");
    let mut select = database
        .prepare(&format!(
            "SELECT subject, mail FROM new_mail WHERE {IS_MAIL}"
        ))
        .expect("a table of mails");
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let mut markers = HashMap::new();
    for row in rows.expect("a file that can be read") {
        let (marker, body): (String, Vec<u8>) = row.expect("a row that can be read");
        let mail = inflate(&body);
        assert_eq!(super::without_trace(&mail), content_of(&marker).as_bytes());
        *markers.entry(marker).or_default() += 1;
    }
    markers
}

/// Asserts acknowledged ⊆ stored ⊆ sent and that no mail is stored twice.
pub fn assert_no_loss_or_duplicate(account: &Account, stored: &HashMap<String, usize>) {
    for marker in &account.acknowledged {
        assert_eq!(stored.get(marker), Some(&1), "{marker} got a 250");
    }
    for (marker, count) in stored {
        assert_eq!(*count, 1, "{marker} was sent once");
    }
    let sent: std::collections::HashSet<_> = account.sent.iter().collect();
    for marker in stored.keys() {
        assert!(sent.contains(marker), "{marker} was not sent");
    }
}

/// A client for servers that may end at any moment: it returns errors instead of panicking.
pub struct PlainClient {
    reader: BufReader<TcpStream>,
}

impl PlainClient {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<PlainClient> {
        let mut client = PlainClient::open(address)?;
        client.read_code_of(220)?;
        Ok(client)
    }

    fn open(address: SocketAddr) -> io::Result<PlainClient> {
        let socket = TcpStream::connect_timeout(&address, TEST_TIMEOUT)?;
        socket.set_read_timeout(Some(TEST_TIMEOUT))?;
        socket.set_nodelay(true)?;
        let reader = BufReader::new(socket);
        Ok(PlainClient { reader })
    }

    /// Sends octets unchanged.
    pub fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(octets)
    }

    /// Reads a whole reply and returns its code.
    pub fn read_code(&mut self) -> io::Result<u16> {
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let (code, rest) = line
                .split_at_checked(3)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            if rest.starts_with(' ') && rest.ends_with("\r\n") {
                return code.parse().map_err(|_| io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// Sends a command and returns an error unless the reply has this code.
    pub fn command(&mut self, line: &str, code: u16) -> io::Result<()> {
        self.send(line.as_bytes())?;
        self.read_code_of(code)
    }

    fn read_code_of(&mut self, wanted: u16) -> io::Result<()> {
        match self.read_code()? {
            code if code == wanted => Ok(()),
            code => Err(io::Error::other(format!("{code} instead of {wanted}"))),
        }
    }
}

/// The number of mails after which a client reconnects, so that accepting connections is under load as well.
const MAILS_PER_CONNECTION: usize = 5;
/// Octets of stack of a client that delivers one mail: thousands may wait for their reply at once.
const PACED_STACK: usize = 256 * 1024;
/// The commands of a client with the expected reply codes.
const DIALOGUE: &[(&str, u16)] = &[
    ("greeting", 220),
    ("EHLO client.test", 250),
    ("MAIL FROM:<a@client.test>", 250),
    ("RCPT TO:<u@ours.test>", 250),
    ("DATA", 354),
    (".", 250),
    ("QUIT", 221),
];
