//! kill -9 under load, with MariaDB: every 250 that a client saw is in the database, once.
//!
//! A client that got no reply, or a 451, sends its mail again, as senders do. GOGUERRILLA_ROUNDS says how many rounds each test
//! runs; few by default, so that the suite stays short.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::mariadb::MariaDb;
use crate::support::{short_mail, stuffed, wait_for, without_trace};

/// What is ended in a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Server,
    Database,
    Both,
}

/// What a sender knows of its mails, by their subjects.
#[derive(Default)]
struct Ledger {
    sent: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    /// The final dot was sent and nothing came back: whoever sends again may send twice.
    unanswered: BTreeSet<String>,
    /// To be sent again.
    left: Vec<String>,
}

#[test]
fn every_acknowledged_mail_survives_the_servers_end() {
    keep_the_promise(Victim::Server);
}

#[test]
fn every_acknowledged_mail_survives_the_databases_end() {
    keep_the_promise(Victim::Database);
}

#[test]
fn every_acknowledged_mail_survives_the_end_of_both() {
    keep_the_promise(Victim::Both);
}

fn keep_the_promise(victim: Victim) {
    let mut database = MariaDb::start();
    let mut server = database.server(&[]);
    let mut ledgers: Vec<Ledger> = (0..SENDERS).map(|_| Ledger::default()).collect();
    for round in 0..rounds() {
        let (stop, saved) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for (name, ledger) in ledgers.iter_mut().enumerate() {
                let (address, stop, saved) = (server.address, &stop, &saved);
                scope.spawn(move || {
                    send_until(ledger, address, &format!("{round}-{name}"), stop, saved)
                });
            }
            // Not always in the same moment of a commit.
            wait_for("some mails", || {
                (saved.load(Ordering::SeqCst) >= 30 + round * 7).then_some(())
            });
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
        if victim != Victim::Database {
            let started_at = Instant::now();
            server = database.server(&[]);
            drop(server.client());
            let took = started_at.elapsed();
            assert!(took < Duration::from_secs(2), "started again in {took:?}");
        }
        look_up(&database, &ledgers, round);
    }
    // What was left over is saved now, and the count is right in the end.
    let stop = AtomicBool::new(true);
    for ledger in &mut ledgers {
        send_until(ledger, server.address, "", &stop, &AtomicUsize::new(0));
        assert_eq!(ledger.left, Vec::<String>::new());
        assert_eq!(ledger.sent, ledger.acknowledged);
    }
    look_up(&database, &ledgers, rounds());
}

/// Sends what was left over, then new mails until told to stop or the server is gone.
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

/// acknowledged ⊆ stored ⊆ sent, none twice unless its sender heard nothing, each whole.
fn look_up(database: &MariaDb, ledgers: &[Ledger], round: usize) {
    let rows: Vec<(String, Vec<u8>)> = database.rows("SELECT subject, mail FROM new_mail");
    let mut stored: BTreeMap<&str, usize> = BTreeMap::new();
    for (subject, stream) in &rows {
        *stored.entry(subject).or_default() += 1;
        let mail = goguerrilla::mail::inflate(stream, 10_000).expect("a zlib stream");
        assert_eq!(without_trace(&mail), short_mail(subject), "round {round}");
    }
    let all = |of: fn(&Ledger) -> &BTreeSet<String>| -> BTreeSet<&str> {
        let each = ledgers.iter().flat_map(of);
        each.map(String::as_str).collect()
    };
    let (sent, acknowledged) = (all(|one| &one.sent), all(|one| &one.acknowledged));
    let unanswered = all(|one| &one.unanswered);
    for subject in &acknowledged {
        assert!(
            stored.contains_key(subject),
            "round {round}: {subject} lost"
        );
    }
    let mut twice = 0;
    for (subject, count) in &stored {
        assert!(
            sent.contains(subject),
            "round {round}: {subject} from nowhere"
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
    println!(
        "round {round}: {} sent, {} acknowledged, {} stored, {} without a reply, {twice} twice",
        sent.len(),
        acknowledged.len(),
        rows.len(),
        unanswered.len()
    );
}

enum Outcome {
    Saved,
    Deferred,
    NotSent,
    Unanswered,
}

/// A client that takes it as it comes when its server dies.
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

    /// The code of a reply of one line.
    fn reply(&mut self) -> io::Result<u16> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let is_whole = line.ends_with("\r\n");
        let code = line.get(..3).and_then(|code| code.parse().ok());
        code.filter(|_| is_whole)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn rounds() -> usize {
    env::var("GOGUERRILLA_ROUNDS").map_or(3, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Connections that send at once.
const SENDERS: usize = 8;
