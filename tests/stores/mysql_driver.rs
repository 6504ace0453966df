//! Malformed answers of a database server, and accounts whose login once failed in the driver: each is an ordinary
//! error, and service recovers without a restart.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use testkit::mariadb::{MariaDb, PASSWORD, USER, with_hosts};
use testkit::redis::{FakeBehavior, FakeRedis};
use testkit::status::figures;
use testkit::{
    AT_ONCE, Server, assert_took, binary, let_time_pass, run_in, short_mail, test, wait_for,
    wait_for_within, write_config,
};

const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");
/// Maximum time until mail is saved after the cause is removed: ten times the expected ten seconds.
const MAX_RECOVERY_TIME: Duration = Duration::from_secs(100);

/// A malformed answer, and the state of the connection in which the server sends it.
#[derive(Clone, Copy, Debug)]
enum MalformedAnswer {
    /// Sent instead of the greeting.
    Greeting(&'static [u8]),
    /// Packets sent after the client's answer to the greeting, one for each packet of the client.
    Login(&'static [&'static [u8]]),
    /// Sent after a regular login, in answer to each statement.
    Statement(&'static [u8]),
    /// The same, with octets that are not a packet.
    StatementOctets(&'static [u8]),
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

/// Answers that make the driver panic, or that may do so.
const MALFORMED_ANSWERS: &[MalformedAnswer] = &[
    MalformedAnswer::Greeting(b""),
    MalformedAnswer::Greeting(b"\0\0\0\0"),
    MalformedAnswer::Greeting(b"\x01\0\0\0\x0a"),
    MalformedAnswer::Greeting(b"\x64\0\0\0\x0a8.0.1"),
    MalformedAnswer::Greeting(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    MalformedAnswer::Greeting(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    MalformedAnswer::Login(&[b""]),
    MalformedAnswer::Login(&[b"\x01"]),
    MalformedAnswer::Login(&[b"\x01\x04", b""]),
    MalformedAnswer::Login(&[b"\x01\x04", b"\x01"]),
    MalformedAnswer::Login(&[b"\x01\x04", b"\x01no key"]),
    MalformedAnswer::Login(&[
        b"\x01\x04",
        b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ]),
    MalformedAnswer::Login(&[b"\xfe"]),
    MalformedAnswer::Login(&[b"\xfe\0"]),
    MalformedAnswer::Login(&[b"\xfeclient_ed25519\0", b""]),
    MalformedAnswer::Login(&[b"\xfeclient_ed25519\0short\0", b"\x01"]),
    MalformedAnswer::Login(&[b"\xfeparsec\0", b""]),
    MalformedAnswer::Login(&[b"\xfeparsec\0abcdefgh\0", b"\x01P\xff"]),
    MalformedAnswer::Login(&[b"\xfemysql_old_password\0", b""]),
    MalformedAnswer::Login(&[
        b"\xfecaching_sha2_password\0abcdefghijklmnopqrst\0",
        b"\x01",
    ]),
    MalformedAnswer::Login(&[b"\xfeno_such_plugin\0abc\0"]),
    MalformedAnswer::Login(&[b"\xff"]),
    MalformedAnswer::Statement(b""),
    MalformedAnswer::Statement(b"\x01"),
    MalformedAnswer::Statement(b"\xff"),
    MalformedAnswer::Statement(b"\xfb"),
    MalformedAnswer::Statement(b"\xfe"),
    MalformedAnswer::Statement(OK),
    MalformedAnswer::Statement(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff"),
    MalformedAnswer::StatementOctets(b"\x20\0\0\x01\x01"),
    MalformedAnswer::StatementOctets(b"\x01\0\0\x01\x01\x03\0\0\x02abc\x05\0\0\x03\xfe\0\0\x02\0"),
];

/// A proxy that forwards to a database, or sends a malformed answer itself.
struct FakeDatabase {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    upstream: SocketAddr,
    malformed: Mutex<Option<MalformedAnswer>>,
    sockets: Mutex<Vec<TcpStream>>,
}

impl FakeDatabase {
    fn start(upstream: SocketAddr) -> FakeDatabase {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let state = Arc::new(State {
            upstream,
            malformed: Mutex::new(None),
            sockets: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&state);
        // The thread ends with the test process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&accepting);
                let kept = client.try_clone().expect("a socket");
                lock(&state.sockets).push(kept);
                thread::spawn(move || state.serve(client));
            }
        });
        FakeDatabase { address, state }
    }

    /// Sets the answer for further connections, or forwards again; closes all open connections.
    fn answer(&self, malformed: Option<MalformedAnswer>) {
        *lock(&self.state.malformed) = malformed;
        for socket in lock(&self.state.sockets).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) {
        let malformed = *lock(&self.malformed);
        // A client may disconnect at any time.
        let _ = match malformed {
            None => self.forward(&client),
            Some(malformed) => answer(&mut client, malformed),
        };
        let _ = client.shutdown(Shutdown::Both);
    }

    fn forward(&self, client: &TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.upstream)?;
        lock(&self.sockets).push(server.try_clone()?);
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        io::copy(&mut &server, &mut &*client).map(drop)
    }
}

fn answer(client: &mut TcpStream, malformed: MalformedAnswer) -> io::Result<()> {
    let packets = match malformed {
        MalformedAnswer::Greeting(octets) => return client.write_all(octets),
        MalformedAnswer::Login(packets) => packets,
        MalformedAnswer::Statement(_) | MalformedAnswer::StatementOctets(_) => &[OK],
    };
    // If the client expects more than that, the connection is closed: a hanging server is another fault.
    client.set_read_timeout(Some(Duration::from_millis(200)))?;
    write_packet(client, 0, &greeting())?;
    for packet in packets {
        let number = read_packet(client)?;
        write_packet(client, number + 1, packet)?;
    }
    loop {
        let number = read_packet(client)?;
        match malformed {
            MalformedAnswer::Statement(packet) => write_packet(client, number + 1, packet)?,
            MalformedAnswer::StatementOctets(octets) => return client.write_all(octets),
            // Nothing follows the last packet.
            MalformedAnswer::Greeting(_) | MalformedAnswer::Login(_) => return Ok(()),
        }
    }
}

/// Returns a greeting of MySQL 8 that requests caching_sha2_password.
fn greeting() -> Vec<u8> {
    let capabilities: u32 = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
    let [low0, low1, high0, high1] = capabilities.to_le_bytes();
    let mut packet = b"\x0a8.0.36\0\x07\0\0\0abcdefgh\0".to_vec();
    packet.extend([low0, low1, 45, 2, 0, high0, high1, 21]);
    packet.extend([0; 10]);
    packet.extend(b"ijklmnopqrst\0caching_sha2_password\0");
    packet
}

fn write_packet(client: &mut TcpStream, number: u8, packet: &[u8]) -> io::Result<()> {
    let length = (packet.len() as u32).to_le_bytes();
    let head = [length[0], length[1], length[2], number];
    client.write_all(&[&head, packet].concat())
}

fn read_packet(client: &mut TcpStream) -> io::Result<u8> {
    let mut head = [0; 4];
    client.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]);
    let mut packet = vec![0; length as usize];
    client.read_exact(&mut packet)?;
    Ok(head[3])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asserts that a command exits with status 1 and prints a single line.
fn assert_fails_in_one_line(server: &Server, arguments: &[&str], of: &str) {
    let output = Command::new(binary())
        .args(arguments)
        .arg("-config=goguerrilla.conf")
        .current_dir(server.folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let output_text = [output.stdout, output.stderr].concat();
    let output_text = String::from_utf8(output_text).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{of}: {output_text}");
    // `check` also warns that all users can read the configuration.
    let mut lines = output_text
        .lines()
        .filter(|line| !line.starts_with("warning: goguerrilla.conf: "));
    let line = lines.next().expect("a line");
    assert!(
        lines.next().is_none() && line.contains("MYSQL_"),
        "{of}: {arguments:?}: {output_text}"
    );
    assert!(
        !output_text.contains(PASSWORD) && !output_text.contains("RUST_BACKTRACE"),
        "{of}: {output_text}"
    );
}

fn panics_of_the_driver(server: &Server) -> f64 {
    figures(server)["goguerrilla_panics_total{component=\"database\"}"]
}

fn deliver(server: &Server) -> (u16, Duration) {
    let mut client = server.client();
    client.set_reply_timeout(Duration::from_secs(60));
    client.begin_data("a@client.test", "u@ours.test");
    let (reply, took) = client.send_content(&short_mail("any"));
    (reply.code, took)
}

fn wait_until_saved(server: &Server, of: &str) {
    wait_for_within(
        &format!("mail to be saved after {of}"),
        MAX_RECOVERY_TIME,
        || (deliver(server).0 == 250).then_some(()),
    );
}

#[test]
fn malformed_database_answers_defer_mail_and_service_recovers() {
    let database = MariaDb::start();
    let fake = FakeDatabase::start(database.address());
    let server = database.server_at(&fake.address.to_string(), &[STATUS]);
    assert_eq!(deliver(&server).0, 250);
    for malformed in MALFORMED_ANSWERS {
        let of = format!("{malformed:?}");
        // A connection that committed less than 20 ms ago is reused without a ping, and a batch in progress on it would
        // be retried for 20 s.
        let_time_pass(
            Duration::from_millis(100),
            "the time in which a connection is used without a ping",
        );
        fake.answer(Some(*malformed));
        let (code, took) = deliver(&server);
        assert!(
            code == 451 && took < AT_ONCE * 10,
            "{of}: {code} after {took:?}"
        );
        let (code, took) = deliver(&server);
        assert!(
            code == 451 && took < AT_ONCE * 10,
            "{of}: {code} after {took:?}"
        );
        for arguments in [&["check"][..], &["list"], &["show", &"0".repeat(32)]] {
            assert_fails_in_one_line(&server, arguments, &of);
        }
        fake.answer(None);
        wait_until_saved(&server, &of);
    }
    assert!(panics_of_the_driver(&server) > 5.0);
    let log = server.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" panicked "))
        .collect();
    assert!(
        !lines.is_empty() && lines.len() <= MALFORMED_ANSWERS.len(),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .all(|line| line.contains(" component=database ")),
        "{lines:#?}"
    );
    let output = server.output();
    assert!(
        !output.contains("RUST_BACKTRACE") && !output.contains("thread "),
        "{output}"
    );
}

#[test]
fn host_with_malformed_answers_fails_over_to_the_next_host() {
    let (first, second) = (MariaDb::start(), MariaDb::start());
    let fake = FakeDatabase::start(first.address());
    let hosts = format!("{},{}", fake.address, second.address());
    let server = Server::start(&with_hosts(&hosts, &[STATUS]));
    assert_eq!(deliver(&server).0, 250);
    for malformed in [
        MalformedAnswer::Login(&[b"\x01"]),
        MalformedAnswer::Statement(b""),
    ] {
        fake.answer(Some(malformed));
        wait_until_saved(&server, "the first host's end");
        let before = first.count();
        assert_eq!(deliver(&server).0, 250);
        assert_eq!(first.count(), before, "the second host saves the mail");
        fake.answer(None);
        // The host comes up again only if the thread that checks the hosts is still running.
        let are_all_up = |log: &str| {
            log.matches(" db_host_up ").count() == log.matches(" db_host_down ").count()
        };
        wait_for_within(
            "the first host to be up again",
            Duration::from_secs(60),
            || are_all_up(&server.log()).then_some(()),
        );
        wait_for("mail to go to the first host", || {
            assert_eq!(deliver(&server).0, 250);
            (first.count() > before).then_some(())
        });
    }
}

#[test]
fn malformed_commit_answer_is_looked_up_and_stored_once() {
    // The COMMIT has arrived at the database, but its answer is malformed.
    let database = MariaDb::start();
    let fake = CommitSpoiler::start(database.address());
    let server = database.server_at(&fake.address.to_string(), &[]);
    assert_eq!(deliver(&server).0, 250);
    for answer in [
        &b"\0\0\0\x01"[..],
        b"\x01\0\0\x01\0",
        b"\x01\0\0\x01\x01",
        b"\x02\0\0\x01\xff\x01",
    ] {
        let before = database.count();
        *lock(&fake.answer) = Some(answer);
        let (code, took) = deliver(&server);
        assert!(lock(&fake.answer).is_none(), "the answer was sent");
        assert_eq!(code, 250, "{answer:?} after {took:?}");
        assert_eq!(database.count(), before + 1, "{answer:?}");
    }
    server.wait_for_log(" commit_resolved ");
}

/// A proxy that forwards everything except the answer to one COMMIT.
struct CommitSpoiler {
    address: SocketAddr,
    answer: Arc<Mutex<Option<&'static [u8]>>>,
}

impl CommitSpoiler {
    fn start(upstream: SocketAddr) -> CommitSpoiler {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let answer: Arc<Mutex<Option<&'static [u8]>>> = Arc::default();
        let given = Arc::clone(&answer);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let given = Arc::clone(&given);
                thread::spawn(move || forward_spoiling(&client, upstream, &given));
            }
        });
        CommitSpoiler { address, answer }
    }
}

fn forward_spoiling(
    client: &TcpStream,
    upstream: SocketAddr,
    answer: &Arc<Mutex<Option<&'static [u8]>>>,
) -> io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    let spoiled_answer = Arc::new(Mutex::new(None));
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (answer, observed) = (Arc::clone(answer), Arc::clone(&spoiled_answer));
    thread::spawn(move || -> io::Result<()> {
        let mut octets = vec![0; 65_536];
        loop {
            let count = from_client.read(&mut octets)?;
            if octets[..count].ends_with(b"\x03COMMIT") {
                *lock(&observed) = lock(&answer).take();
            }
            to_server.write_all(&octets[..count])?;
            if count == 0 {
                return to_server.shutdown(Shutdown::Both);
            }
        }
    });
    let mut octets = vec![0; 65_536];
    loop {
        let count = (&server).read(&mut octets)?;
        if count == 0 {
            return client.shutdown(Shutdown::Both);
        }
        match lock(&spoiled_answer).take() {
            Some(answer) => (&mut &*client).write_all(answer)?,
            None => (&mut &*client).write_all(&octets[..count])?,
        }
    }
}

#[test]
fn mariadb_ed25519_account_can_log_in() {
    let database = MariaDb::start();
    database.sql("INSTALL SONAME 'auth_ed25519'");
    database.sql(&format!(
        "ALTER USER {USER}@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')"
    ));
    let server = database.server(&[]);
    wait_until_saved(&server, "the start");
    let (is_ok, output_text) = server.check();
    assert!(is_ok, "{output_text}");
    assert_eq!(server.list().len() as u64, database.count());

    let wrong = database.server(&[("MYSQL_PASS", "another")]);
    let (code, took) = deliver(&wrong);
    assert!(code == 451 && took < AT_ONCE * 10, "{code} after {took:?}");
    assert_fails_in_one_line(&wrong, &["check"], "a wrong password");
}

#[test]
fn password_too_long_for_rsa_login_is_a_one_line_error() {
    let database = MariaDb::start();
    // The server requests the password encrypted with an RSA key of 2,048 bits.
    let fake = FakeDatabase::start(database.address());
    fake.answer(Some(MalformedAnswer::Login(&[b"\x01\x04", KEY])));
    let long = "x".repeat(214);
    let hosts = fake.address.to_string();
    let server = Server::start(&with_hosts(&hosts, &[STATUS, ("MYSQL_PASS", &long)]));
    let started_at = Instant::now();
    assert_eq!(deliver(&server).0, 451);
    assert_took(started_at.elapsed(), AT_ONCE);
    assert_fails_in_one_line(&server, &["check"], "a long password");
    assert!(panics_of_the_driver(&server) > 0.0);
    let log = server.wait_for_log("shorten MYSQL_PASS");
    assert!(!log.contains("xxxx") && !server.output().contains("xxxx"));
}

#[test]
fn commands_say_that_a_database_did_not_answer_and_what_to_do() {
    let database = FakeRedis::start(FakeBehavior::Hangs);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let host = database.address();
    write_config(
        folder.path(),
        &[
            ("GM_STORE", "mysql"),
            ("MYSQL_HOST", &host),
            ("MYSQL_DB", "mail"),
            ("REDIS_INTERFACE", ""),
        ],
    );
    const HASH: &str = "0123456789abcdef0123456789abcdef";
    // Each waits for the time limit of a call to the database.
    thread::scope(|scope| {
        for command in [&["list"][..], &["show", HASH], &["prune", "--days=1"]] {
            let folder = folder.path();
            scope.spawn(move || {
                let error = run_in(folder, command).expect_err("no database answers");
                assert_eq!(
                    error,
                    "goguerrilla: MYSQL_HOST: the database did not answer in time; see whether the database answers and \
                     no firewall drops its packets, or correct MYSQL_HOST\n",
                    "{command:?}"
                );
            });
        }
    });
}

/// A public key, after the octet of a packet with more authentication data.
const KEY: &[u8] = b"\x01-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAjc7VZUyUrC2t/1HvCLQl
U/Nd9yxZJGwwRhtpKINxl0WddaL01gBfJfkISE3gNSp3UYGDxW8Jy4aVZXpRb58K
OEF0u7YU8eKmEzRltjwVSf/txXg+lw+w0FSwbFdtVqDNeFTAKg7FFp3HwTTXqqSo
j9TMvvpdLTObAish5LtdL1qBhoQKCiTdQKSFGjqS3il66IVxAyD/V9aiZY3D7kUQ
RDDL8xD/mqrk9xBVr7fmsKyoG6AHioWLjwJ8S0U04dogXd3PQrP0w8psIGdtEv/E
LapV6kLyG/BCMd0tICYGewEFoNZ8KQyyaHFZVaqiVsccBSH+oxPhkioGndhUilYn
EwIDAQAB
-----END PUBLIC KEY-----
";
