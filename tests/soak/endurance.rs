//! Millions of mails through one process, whose memory, threads and descriptors must not grow: `make endurance`.
//!
//! Everything that could accumulate something is on: TLS, several recipients, sessions that end in all ways, old rows that are
//! removed, a reader of the feed, scrapes of the metrics, and reloads.

mod client;
#[path = "../../benches/machine.rs"]
mod machine;
mod samples;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use testkit::feed::FeedReader;
use testkit::status::{STATUS, address, figures_at};
use testkit::tls::{TlsServer, config_trusting};
use testkit::{Server, TEST_TIMEOUT, note, test, wait_for, wait_for_within, write_config};

use self::client::{Contents, Shared};
use self::samples::{Sample, Samples};

#[test]
fn soak_of_memory_threads_and_descriptors() {
    let goal = env::var("GUERRILLA_TEST_MAILS").map_or(DEFAULT_MAILS, |mails| {
        mails.parse().expect("GUERRILLA_TEST_MAILS is a number")
    });
    let mut run = Run::start(goal);
    let samples = run.take_samples();
    samples.publish(goal);
    run.stop_removing_rows();
    let rows = run.check_counts();
    run.feed.check_and_end(rows);
    assert!(run.tls.server.stop().success());
    samples.assert_flat();
}

/// A server, its clients, and what is read from it meanwhile.
struct Run {
    tls: TlsServer,
    status: SocketAddr,
    feed: Feed,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    /// The sockets that are open if each client has a session, and nothing else.
    sockets: usize,
}

impl Run {
    fn start(goal: usize) -> Run {
        let tls = TlsServer::start(&SETTINGS);
        let server = &tls.server;
        insert_old_rows(server);
        let status = address(server);
        let feed = Feed::open(server, status);
        let sockets = server.sockets() + CLIENTS;
        let shared = Arc::new(Shared {
            address: server.address,
            implicit_tls_address: tls.implicit_tls_address,
            config: config_trusting(&[&tls.pair.chain]),
            contents: Contents::make(),
            goal,
            acknowledged: AtomicUsize::new(0),
            acknowledged_rows: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            unanswered_rows: AtomicUsize::new(0),
            deferred: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            gate: Default::default(),
        });
        let clients = (0..CLIENTS).map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.run_client(number))
        });
        let clients = clients.collect();
        Run {
            tls,
            status,
            feed,
            shared,
            clients,
            sockets,
        }
    }

    /// Takes samples at equal numbers of mails, until the clients have ended.
    fn take_samples(&mut self) -> Samples {
        let mut samples = Samples::new();
        for number in 1..=SAMPLES {
            let due_at = self.shared.goal * number / SAMPLES;
            wait_for_within("mails to be acknowledged", LONGEST_STEP, || {
                let has_ended = self.clients.iter().any(JoinHandle::is_finished);
                let acknowledged = self.shared.acknowledged.load(Ordering::SeqCst);
                let is_early = has_ended && acknowledged < self.shared.goal;
                assert!(!is_early, "a client failed after {acknowledged} mails");
                (acknowledged >= due_at).then_some(())
            });
            if number < SAMPLES {
                samples.push(self.sample());
            }
            if number % RELOAD_EVERY == RELOAD_EVERY / 2 {
                self.rotate_log();
                self.reload();
            }
            if number % 10 == 0 {
                note!("{}", samples.describe_last());
            }
        }
        for client in self.clients.drain(..) {
            client.join().expect("no panic in a client");
        }
        samples
    }

    /// Measures memory under load, and then threads and descriptors while each client has one open session.
    fn sample(&self) -> Sample {
        let server = &self.tls.server;
        let resident_kib = server.status_kib("VmRSS");
        let _alone = self.shared.gate.write().expect("no panic in a client");
        let mut open = 0;
        wait_for("ended sessions to be closed", || {
            open = server.sockets();
            (open == self.sockets).then_some(())
        });
        let (threads, descriptors) = (server.threads(), server.descriptors());
        let figures = figures_at(self.status);
        let rows = figures[ROWS] + OLD_ROWS as f64 - figures[PRUNED];
        Sample {
            mails: self.shared.acknowledged.load(Ordering::SeqCst),
            resident_kib,
            threads,
            descriptors,
            rows: rows as usize,
        }
    }

    /// Renames the log as logrotate does, and sends SIGUSR1.
    fn rotate_log(&self) {
        let server = &self.tls.server;
        fs::rename(server.path("log"), server.path("log.1")).expect("a log");
        server.signal(Signal::SIGUSR1);
        wait_for("the new log", || server.path("log").exists().then_some(()));
    }

    fn reload(&self) {
        let before = figures_at(self.status)[RELOADED];
        self.tls.server.signal(Signal::SIGHUP);
        wait_for("the configuration to be applied", || {
            (figures_at(self.status)[RELOADED] > before).then_some(())
        });
    }

    /// Waits until old rows were removed, and ends their removal, so that the rows can be counted.
    fn stop_removing_rows(&self) {
        wait_for_within("old rows to be removed", REMOVAL_LIMIT, || {
            (figures_at(self.status)[PRUNED] >= OLD_ROWS as f64).then_some(())
        });
        let server = &self.tls.server;
        let file = server.path("goguerrilla.conf");
        let text = fs::read_to_string(&file).expect("a configuration");
        let mut config: HashMap<String, String> = serde_json::from_str(&text).expect("JSON");
        config.insert("GM_KEEP_DAYS".to_owned(), "0".to_owned());
        let config: Vec<(&str, &str)> = config
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        write_config(server.folder.path(), &config);
        self.reload();
    }

    /// Checks that the table has the rows of all acknowledged mails, except for those that were removed.
    /// Returns the number of saved rows.
    fn check_counts(&self) -> usize {
        let server = &self.tls.server;
        let database = Connection::open(server.path("goguerrilla.db")).expect("a file");
        database.busy_timeout(TEST_TIMEOUT).expect("an open file");
        let count = || -> i64 {
            let sql = "SELECT count(*) FROM new_mail";
            let rows = database.query_row(sql, [], |row| row.get(0));
            rows.expect("a table of mails")
        };
        // The transaction in which the removal was stopped may still be running.
        let figures = wait_for("the number of rows to be that of the metrics", || {
            let (figures, rows) = (figures_at(self.status), count());
            (figures[ROWS] + OLD_ROWS as f64 - figures[PRUNED] == rows as f64).then_some(figures)
        });
        let figure = |name: &str| figures[name] as usize;
        let Shared {
            acknowledged,
            acknowledged_rows,
            unanswered,
            unanswered_rows,
            deferred,
            sessions,
            ..
        } = &*self.shared;
        let load = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        note!(
            "{} mails acknowledged in {} sessions, {} without a reply, {} deferred; {} saved, with {} rows; {} rows removed, {} left",
            load(acknowledged),
            load(sessions),
            load(unanswered),
            load(deferred),
            figure(SAVED),
            figure(ROWS),
            figure(PRUNED),
            count(),
        );
        let within = |least: &AtomicUsize, more: &AtomicUsize| {
            let least = load(least);
            least..=least + load(more)
        };
        assert!(within(acknowledged, unanswered).contains(&figure(SAVED)));
        assert!(within(acknowledged_rows, unanswered_rows).contains(&figure(ROWS)));
        let panics = figures
            .iter()
            .filter(|(name, _)| name.starts_with("goguerrilla_panics_total"));
        for (name, count) in panics {
            assert_eq!(*count, 0.0, "{name}");
        }
        figure(ROWS)
    }
}

/// A reader of the feed, which connects again if it was too slow.
struct Feed {
    counts: Arc<FeedCounts>,
}

#[derive(Default)]
struct FeedCounts {
    entries: AtomicUsize,
    lost_connections: AtomicUsize,
    is_over: AtomicBool,
}

impl Feed {
    fn open(server: &Server, status: SocketAddr) -> Feed {
        let counts = Arc::new(FeedCounts::default());
        let mut reader = FeedReader::open(server, "/feed");
        assert_eq!(reader.code, 200);
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            loop {
                while let Some(line) = reader.next_line() {
                    if line.starts_with("data: ") {
                        shared.entries.fetch_add(1, Ordering::SeqCst);
                    }
                }
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                shared.lost_connections.fetch_add(1, Ordering::SeqCst);
                let socket = TcpStream::connect(status).expect("a status endpoint");
                reader = FeedReader::over(socket, "GET /feed HTTP/1.1\r\nHost: localhost\r\n\r\n");
            }
        });
        Feed { counts }
    }

    /// Checks that the reader got an entry for each row, unless it was too slow. The end of the server ends its thread.
    fn check_and_end(&self, rows: usize) {
        let FeedCounts {
            entries,
            lost_connections,
            is_over,
        } = &*self.counts;
        wait_for("the entries of all rows", || {
            let is_complete = entries.load(Ordering::SeqCst) >= rows;
            (is_complete || lost_connections.load(Ordering::SeqCst) > 0).then_some(())
        });
        is_over.store(true, Ordering::SeqCst);
        let (entries, lost) = (
            entries.load(Ordering::SeqCst),
            lost_connections.load(Ordering::SeqCst),
        );
        note!("{entries} entries of the feed; its reader was too slow {lost} times");
        assert!(entries == rows || lost > 0 && entries < rows);
    }
}

/// Inserts rows that are older than GM_KEEP_DAYS from the start.
fn insert_old_rows(server: &Server) {
    let database = Connection::open(server.path("goguerrilla.db")).expect("a file");
    database.busy_timeout(TEST_TIMEOUT).expect("an open file");
    let insert = "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash,
                    content_type, recipient, has_attach, ip_addr, attach_info)
                  WITH RECURSIVE mails(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM mails WHERE number < ?1)
                  SELECT datetime('now', '-40 days'), '', '', '', 'gzencode', '', randomblob(500), 0,
                    lower(hex(randomblob(16))), '', '', 0, '', '' FROM mails";
    database.execute(insert, [OLD_ROWS]).expect("rows");
}

/// Mail is kept for a minute: in a run of an hour most rows are removed.
const SETTINGS: [(&str, &str); 6] = [
    STATUS,
    ("GM_ALLOWED_HOSTS", "ours.test"),
    ("GM_FEED", "http"),
    ("GM_HOLD_SECONDS", "10"),
    ("GM_KEEP_DAYS", "0.0007"),
    ("GM_MAX_CLIENTS", "100"),
];
/// The number of mails of `make soak`; `make endurance` sends five million.
const DEFAULT_MAILS: usize = 200_000;
/// Clients that each have one session at a time.
const CLIENTS: usize = 48;
const SAMPLES: usize = 200;
/// The number of samples between two reloads. The removal of old rows begins a minute after each.
const RELOAD_EVERY: usize = 20;
const OLD_ROWS: u32 = 10_000;
/// How long a two-hundredth of the mails may take.
const LONGEST_STEP: Duration = Duration::from_secs(600);
/// How long it may take until the old rows of the start are removed: a minute passes until the first round begins.
const REMOVAL_LIMIT: Duration = Duration::from_secs(600);
const SAVED: &str = "goguerrilla_mails_total{outcome=\"saved\"}";
const ROWS: &str = "goguerrilla_recipients_saved_total";
const PRUNED: &str = "goguerrilla_pruned_rows_total";
const RELOADED: &str = "goguerrilla_reloads_total{what=\"configuration\",outcome=\"applied\"}";
