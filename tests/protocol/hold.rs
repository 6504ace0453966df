//! GM_HOLD_SECONDS: a mail waits with its connection while the store is unavailable.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use goguerrilla::{Config, Mail, SaveError, SaveMail, SavedId};
use nix::sys::signal::Signal;
use rusqlite::Connection;

use testkit::load::{Load, assert_no_loss_or_duplicate, stored_markers};
use testkit::status::{get, wait_for_metric};
use testkit::steps::{reload, send_mail, stored_subjects, wait_until_draining};
use testkit::{Client, Server, assert_took, incompressible, let_time_pass, test, wait_for};

const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");
const HELD: &str = "goguerrilla_mails_held";
/// A hold that is longer than every test.
const LONG_HOLD: (&str, &str) = ("GM_HOLD_SECONDS", "300");

#[test]
fn sqlite_file_locked_for_five_seconds_under_load_defers_no_mail() {
    let server = Server::start(&[STATUS, ("GM_HOLD_SECONDS", "60")]);
    let load = Load::start(server.address, 20, "hold");
    load.wait_for_more(50);
    let other = lock(&server);
    wait_for_metric(&server, HELD, 20.0);
    let (status, reason) = get(&server, "/readyz");
    assert_eq!(status, 503, "{reason}");
    let_time_pass(Duration::from_secs(5), "the file is locked");
    other.execute_batch("ROLLBACK").expect("valid statements");
    load.wait_for_more(50);
    let account = load.stop();
    assert_eq!(account.temporary_failures(), "none");
    assert_eq!((account.unanswered.len(), account.cut), (0, 0));
    let stored = stored_markers(Path::new(&server.path("goguerrilla.db")));
    assert_no_loss_or_duplicate(&account, &stored);
    wait_for_metric(&server, HELD, 0.0);
    assert_eq!(get(&server, "/readyz").0, 200);
}

#[test]
fn mail_gets_451_when_its_time_is_over_and_other_clients_are_answered_meanwhile() {
    let server = Server::start(&[STATUS, ("GM_HOLD_SECONDS", "3")]);
    let other = lock(&server);
    let sent_at = Instant::now();
    let mut waiting = send_mail(&server, "not saved in time");
    wait_for_metric(&server, HELD, 1.0);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("NOOP", "250 2.0.0 ");
    waiting.expect("451 4.3.0 ");
    let waited = sent_at.elapsed();
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    assert_took(waited, Duration::from_secs(3));
    wait_for_metric(&server, HELD, 0.0);
    let log = server.wait_for_log(" not_saved ");
    assert!(log.contains("another program holds its lock"), "{log}");
    other.execute_batch("ROLLBACK").expect("valid statements");
    send_mail(&server, "later").expect("250 2.0.0 ");
    assert_eq!(stored_subjects(&server), ["later"]);
}

#[test]
fn waiting_mails_get_451_when_three_quarters_of_the_slots_are_taken() {
    let server = Server::start(&[STATUS, LONG_HOLD, ("GM_MAX_CLIENTS", "20")]);
    let other = lock(&server);
    let mut waiting: Vec<Client> = (0..10).map(|_| send_mail(&server, "waits")).collect();
    wait_for_metric(&server, HELD, 10.0);
    // Half of the slots are taken; each mail keeps its whole time.
    waiting[0].expect_silence(Duration::from_secs(3));
    waiting.extend((0..5).map(|_| server.client()));
    for client in &mut waiting[..10] {
        client.expect("451 4.3.0 ");
    }
    // So the clients that leave make room for others, although the store is still locked.
    drop(waiting);
    wait_for_metric(&server, "goguerrilla_connections_active", 0.0);
    let mut next = send_mail(&server, "waits again");
    next.expect_silence(Duration::from_secs(1));
    other.execute_batch("ROLLBACK").expect("valid statements");
    next.expect("250 2.0.0 ");
    assert_eq!(stored_subjects(&server), ["waits again"]);
}

#[test]
fn waiting_mail_of_a_client_that_left_is_never_saved() {
    let server = Server::start(&[STATUS, LONG_HOLD]);
    let other = lock(&server);
    let leaving = send_mail(&server, "left");
    wait_for_metric(&server, HELD, 1.0);
    drop(leaving);
    server.wait_for_log("the client disconnected before its mail was saved");
    wait_for_metric(&server, HELD, 0.0);
    other.execute_batch("ROLLBACK").expect("valid statements");
    send_mail(&server, "later").expect("250 2.0.0 ");
    assert_eq!(stored_subjects(&server), ["later"]);
}

#[test]
fn mail_waits_for_at_most_ten_seconds_during_a_shutdown() {
    let mut server = Server::start(&[STATUS, LONG_HOLD]);
    let other = lock(&server);
    let sent_at = Instant::now();
    let mut waiting = send_mail(&server, "waits");
    wait_for_metric(&server, HELD, 1.0);
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    waiting.expect_silence(Duration::from_secs(2));
    waiting.expect("451 4.3.0 ");
    let waited = sent_at.elapsed();
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
    assert!(server.wait().success());
    assert_took(sent_at.elapsed(), Duration::from_secs(10));
    drop(other);
    assert!(server.list().is_empty());
}

#[test]
fn waiting_mail_is_saved_during_a_shutdown_if_the_store_is_back() {
    let mut server = Server::start(&[STATUS, LONG_HOLD]);
    let other = lock(&server);
    let mut waiting = send_mail(&server, "waits");
    wait_for_metric(&server, HELD, 1.0);
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    other.execute_batch("ROLLBACK").expect("valid statements");
    waiting.expect("250 2.0.0 ");
    assert!(server.wait().success());
    assert_eq!(stored_subjects(&server), ["waits"]);
}

#[test]
fn waiting_mails_count_in_the_memory_budget() {
    let server = Server::start(&[STATUS, LONG_HOLD, ("GM_MAX_MEMORY", "300000")]);
    let other = lock(&server);
    let mut first = server.client();
    first.begin_data("a@client.test", "u@ours.test");
    first.send([&incompressible(100_000)[..], b".\r\n"].concat());
    wait_for_metric(&server, HELD, 1.0);
    let mut second = server.client();
    second.begin_data("a@client.test", "u@ours.test");
    second.send([&incompressible(100_000)[..], b".\r\n"].concat());
    let mut third = server.client();
    third.begin_data("a@client.test", "u@ours.test");
    third.send([&incompressible(125_000)[..], b".\r\n"].concat());
    third.expect("452 4.3.1 ");
    third.command("NOOP", "250");
    other.execute_batch("ROLLBACK").expect("valid statements");
    first.expect("250 2.0.0 ");
}

#[test]
fn reload_changes_how_long_a_mail_waits() {
    let server = Server::start(&[STATUS, ("GM_HOLD_SECONDS", "1")]);
    let other = lock(&server);
    send_mail(&server, "short").expect("451 4.3.0 ");
    reload(&server, &[STATUS, LONG_HOLD]);
    let mut waiting = send_mail(&server, "long");
    waiting.expect_silence(Duration::from_secs(4));
    other.execute_batch("ROLLBACK").expect("valid statements");
    waiting.expect("250 2.0.0 ");
}

#[test]
fn mail_that_the_store_refuses_does_not_wait() {
    let server = Server::start(&[LONG_HOLD]);
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON new_mail WHEN NEW.subject = 'poison'
                   BEGIN SELECT RAISE(ABORT, 'poisoned'); END";
    let database = Connection::open(server.path("goguerrilla.db")).expect("the file is there");
    database.execute_batch(trigger).expect("valid statements");
    send_mail(&server, "poison").expect("451 4.3.0 ");
    send_mail(&server, "good").expect("250 2.0.0 ");
}

#[test]
fn mail_waits_for_a_store_of_an_embedding_program_and_only_while_it_is_unavailable() {
    for (failures, error, want) in [
        (6, SaveError::unavailable("closed"), "250 2.0.0 "),
        (1, SaveError::full("full"), "452 4.3.1 "),
        (1, SaveError::refused("refused"), "451 4.3.0 "),
    ] {
        let saved = Arc::new(AtomicUsize::new(0));
        let store = FailingStore {
            failures: Arc::new(AtomicUsize::new(failures)),
            error,
            saved: Arc::clone(&saved),
        };
        let config = Config::builder()
            .listen("127.0.0.1:0".parse().expect("an address"))
            .host_name("mx.test")
            .hold_time(Duration::from_secs(300))
            .build()
            .expect("a configuration");
        let server = goguerrilla::Server::builder(config)
            .store(move || Ok(store.clone()))
            .bind()
            .expect("a server");
        let (address, handle) = (server.local_addrs()[0], server.handle());
        let running = thread::spawn(|| server.run());
        let mut client = Client::connect(address);
        client.expect("220 ");
        let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: x\r\n\r\n");
        assert!(reply.text().starts_with(want), "{}", reply.text());
        assert_eq!(saved.load(Ordering::SeqCst), usize::from(reply.code == 250));
        wait_for("no mail to wait", || {
            (handle.metrics().mails_held == 0).then_some(())
        });
        client.command("QUIT", "221");
        handle.shutdown();
        running.join().expect("no panic").expect("threads");
    }
}

/// A store whose first attempts fail.
#[derive(Clone)]
struct FailingStore {
    failures: Arc<AtomicUsize>,
    error: SaveError,
    saved: Arc<AtomicUsize>,
}

impl SaveMail for FailingStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(self.error.clone());
        }
        self.saved.fetch_add(1, Ordering::SeqCst);
        Ok(SavedId::from(mail))
    }
}

/// Locks the SQLite file, as another program that writes to it does.
fn lock(server: &Server) -> Connection {
    let other = Connection::open(server.path("goguerrilla.db")).expect("the file is there");
    other
        .busy_timeout(Duration::from_secs(20))
        .expect("a connection");
    other
        .execute_batch("BEGIN IMMEDIATE")
        .expect("an unlocked file");
    other
}
