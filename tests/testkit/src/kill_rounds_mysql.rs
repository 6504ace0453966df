//! Rounds of kill -9 of the server and of MariaDB under load.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::feed_ledger::FeedLedger;
use crate::mariadb::MariaDb;
use crate::old_rows::{IS_MAIL, Removal};
use crate::redis::Redis;
use crate::soak_settings::{STREAM, TlsDatabases};
use crate::{
    assert_took, let_time_pass, short_mail, stuffed, wait_for, wait_for_within, without_trace,
};

/// The processes that are killed in a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Server,
    Database,
    Both,
}

/// A sender's record of its mails, by subject.
#[derive(Default)]
struct Ledger {
    sent: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    /// Mails whose final dot was sent but not answered; sending them again may store them twice.
    unanswered: BTreeSet<String>,
    /// Mails to send again.
    left: Vec<String>,
}

/// Runs rounds of kill -9 with these victims in turn, each after at least `mails_of_a_round` mails were acknowledged.
pub fn kill_and_check(victims: &[Victim], rounds: usize, mails_of_a_round: usize) {
    run_rounds(victims, rounds, mails_of_a_round, None);
}

/// Does the same with bodies and feed in Redis, TLS to both databases, hold and retention. In the last round the victim is
/// killed while the server removes old rows.
pub fn kill_and_check_with_soak_settings(
    victims: &[Victim],
    rounds: usize,
    mails_of_a_round: usize,
) {
    let databases = TlsDatabases::start();
    run_rounds(victims, rounds, mails_of_a_round, Some(&databases));
}

fn run_rounds(
    victims: &[Victim],
    rounds: usize,
    mails_of_a_round: usize,
    everything: Option<&TlsDatabases>,
) {
    let mut database = everything.map_or_else(MariaDb::start, TlsDatabases::start_mariadb);
    let settings = everything.map_or_else(Vec::new, TlsDatabases::settings);
    let redis = everything.map(|databases| &databases.redis.redis);
    let mut removal = Removal::default();
    let mut server = database.server(&settings);
    let mut ledgers: Vec<Ledger> = (0..SENDERS).map(|_| Ledger::default()).collect();
    for (round, victim) in (0..rounds).zip(victims.iter().cycle()) {
        let victim = *victim;
        let (stop, saved) = (AtomicBool::new(false), AtomicUsize::new(0));
        if everything.is_some() {
            removal.begin_round(&database);
        }
        thread::scope(|scope| {
            for (name, ledger) in ledgers.iter_mut().enumerate() {
                let (address, stop, saved) = (server.address, &stop, &saved);
                scope.spawn(move || {
                    send_until(ledger, address, &format!("{round}-{name}"), stop, saved)
                });
            }
            // Varies the moment of the kill.
            wait_for_within("some mails", ROUND_LIMIT, || {
                let goal = mails_of_a_round + round % 10 * 7;
                (saved.load(Ordering::SeqCst) >= goal).then_some(())
            });
            match everything {
                Some(_) if round + 1 == rounds => removal.wait_for_server(&database),
                Some(_) => removal.start_prune(&server, &database),
                None => {}
            }
            if victim != Victim::Database {
                server.kill();
            }
            if victim != Victim::Server {
                database.kill();
                database.run();
            }
            if victim == Victim::Database {
                let before = saved.load(Ordering::SeqCst);
                wait_for("mail to be saved again", || {
                    (saved.load(Ordering::SeqCst) > before + 20).then_some(())
                });
            }
            stop.store(true, Ordering::SeqCst);
        });
        removal.kill_prune();
        if victim != Victim::Database {
            let started_at = Instant::now();
            server = database.server(&settings);
            drop(server.client());
            assert_took(started_at.elapsed(), RESTART_TIME);
        }
        // Checking every mail after each of many rounds would take longer than the rounds themselves.
        if rounds <= 20 || round % 10 == 9 {
            check_database(&database, redis, &ledgers, round + 1);
        }
    }
    // Sends the remaining mails; after that every mail is acknowledged.
    let stop = AtomicBool::new(true);
    for ledger in &mut ledgers {
        send_until(ledger, server.address, "", &stop, &AtomicUsize::new(0));
        assert_eq!(ledger.left, Vec::<String>::new());
        assert_eq!(ledger.sent, ledger.acknowledged);
    }
    check_database(&database, redis, &ledgers, rounds);
    if let Some(redis) = redis {
        removal.finish(&server, &database);
        // The server writes entries after the replies.
        assert!(server.stop().success());
        let mails = format!("SELECT hash, subject FROM new_mail WHERE {IS_MAIL}");
        let feed = FeedLedger::of_stream(redis, STREAM);
        feed.assert_each_has_a_row(&database.rows(&mails));
    }
}

/// Sends the mails left over from earlier rounds, then new mails until `stop` is set or the server is gone.
fn send_until(
    ledger: &mut Ledger,
    address: SocketAddr,
    name: &str,
    stop: &AtomicBool,
    saved: &AtomicUsize,
) {
    let Ok(mut connection) = Connection::open(address) else {
        return;
    };
    for number in 0.. {
        let subject = match ledger.left.pop() {
            Some(subject) => subject,
            None if stop.load(Ordering::SeqCst) => return,
            None => format!("{name}-{number}"),
        };
        ledger.sent.insert(subject.clone());
        match connection.deliver(&subject) {
            Outcome::Saved => {
                ledger.acknowledged.insert(subject);
                saved.fetch_add(1, Ordering::SeqCst);
            }
            Outcome::Deferred => {
                ledger.left.push(subject);
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                // The server answers at once while the database is down, and closes after 100 commands without a mail.
                let_time_pass(Duration::from_millis(5), "the pause of a client");
                match Connection::open(address) {
                    Ok(opened) => connection = opened,
                    Err(_) => return,
                }
            }
            Outcome::NotSent => {
                ledger.left.push(subject);
                return;
            }
            Outcome::Unanswered => {
                ledger.unanswered.insert(subject.clone());
                ledger.left.push(subject);
                return;
            }
        }
    }
}

/// Asserts acknowledged ⊆ stored ⊆ sent, that only unanswered mails are stored twice, and that each content is
/// complete.
fn check_database(database: &MariaDb, redis: Option<&Redis>, ledgers: &[Ledger], round: usize) {
    let rows = rows(database, redis);
    let mut stored: BTreeMap<&str, usize> = BTreeMap::new();
    for (subject, stream) in &rows {
        *stored.entry(subject).or_default() += 1;
        let mail = crate::store::inflate(stream);
        assert_eq!(without_trace(&mail), short_mail(subject), "round {round}");
    }
    let all = |of: fn(&Ledger) -> &BTreeSet<String>| -> BTreeSet<&str> {
        let each = ledgers.iter().flat_map(of);
        each.map(String::as_str).collect()
    };
    let (sent, acknowledged) = (all(|one| &one.sent), all(|one| &one.acknowledged));
    let unanswered = all(|one| &one.unanswered);
    let lost = acknowledged
        .iter()
        .filter(|subject| !stored.contains_key(*subject));
    let lost: Vec<&&str> = lost.collect();
    let mut twice = 0;
    for (subject, count) in &stored {
        assert!(
            sent.contains(subject),
            "round {round}: {subject} was not sent"
        );
        if *count > 1 {
            assert!(
                unanswered.contains(subject),
                "round {round}: {subject} stored {count} times"
            );
            twice += count - 1;
        }
    }
    assert!(twice <= unanswered.len(), "round {round}: {twice} twice");
    crate::note!(
        "MariaDB, {round} rounds of kill -9: {} sent, {} acknowledged, {} stored, {} lost, {twice} doubled, \
         {} without a reply",
        sent.len(),
        acknowledged.len(),
        rows.len(),
        lost.len(),
        unanswered.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
}

/// Returns subject and zlib stream of each mail, without the rows of `old_rows`; bodies in Redis are fetched from there.
pub fn rows(database: &MariaDb, redis: Option<&Redis>) -> Vec<(String, Vec<u8>)> {
    let all = format!("SELECT subject, hash, body, mail FROM new_mail WHERE {IS_MAIL}");
    let rows: Vec<(String, String, String, Vec<u8>)> = database.rows(&all);
    let (elsewhere, here): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|(_, _, body, _)| body == "redis");
    let mut whole: Vec<(String, Vec<u8>)> = here
        .into_iter()
        .map(|(subject, _, _, stream)| (subject, stream))
        .collect();
    for rows in elsewhere.chunks(1_000) {
        let hashes = rows.iter().map(|(_, hash, _, _)| hash.as_str());
        let words: Vec<&str> = ["MGET"].into_iter().chain(hashes).collect();
        let redis = redis.expect("bodies in Redis need a Redis");
        let streams: Vec<Vec<u8>> = redis.command(&words);
        let subjects = rows.iter().map(|(subject, ..)| subject.clone());
        whole.extend(subjects.zip(streams));
    }
    whole
}

enum Outcome {
    Saved,
    Deferred,
    NotSent,
    Unanswered,
}

/// A client whose connection may be lost at any time.
struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let reader = BufReader::new(socket);
        let mut connection = Connection { reader };
        connection.reply()?;
        connection.say(b"HELO client.test\r\n")?;
        connection.reply()?;
        Ok(connection)
    }

    fn deliver(&mut self, subject: &str) -> Outcome {
        let asked = self
            .say(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n")
            .and_then(|()| Ok([self.reply()?, self.reply()?, self.reply()?]));
        match asked {
            Ok([250, 250, 354]) => {}
            Ok(codes) => panic!("{codes:?}"),
            Err(_) => return Outcome::NotSent,
        }
        let replied = self
            .say(&stuffed(&short_mail(subject)))
            .and_then(|()| self.reply());
        match replied {
            Ok(250) => Outcome::Saved,
            Ok(451) => Outcome::Deferred,
            Ok(code) => panic!("{code}"),
            Err(_) => Outcome::Unanswered,
        }
    }

    fn say(&mut self, octets: &[u8]) -> io::Result<()> {
        self.reader.get_ref().write_all(octets)
    }

    /// Reads a one-line reply and returns its code.
    fn reply(&mut self) -> io::Result<u16> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let is_whole = line.ends_with("\r\n");
        let code = line.get(..3).and_then(|code| code.parse().ok());
        code.filter(|_| is_whole)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

pub fn rounds() -> usize {
    env::var("GUERRILLA_TEST_ROUNDS")
        .map_or(3, |rounds| rounds.parse().expect("a number of rounds"))
}

/// The expected time from the start of the program to the first greeting.
const RESTART_TIME: Duration = Duration::from_millis(200);
/// The time limit for the mails of a long round on a busy machine.
const ROUND_LIMIT: Duration = Duration::from_secs(120);

/// Number of concurrent connections.
const SENDERS: usize = 8;
