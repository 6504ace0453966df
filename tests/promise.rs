//! Durability with SQLite: a mail that got 250 is stored exactly once, whatever happens to the server.

use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use socket2::SockRef;

use testkit::load::{Account, Load, assert_no_loss_or_duplicate, content_of, stored_markers};
use testkit::{Server, note, test};

#[test]
fn kill_9_neither_loses_nor_duplicates_acknowledged_mail() {
    kill_and_check(20, 1);
}

#[test]
fn soak_of_sqlite() {
    testkit::needs("make soak", std::env::var_os("GOGUERRILLA_SOAK").is_some());
    kill_and_check(50, 1_000);
}

/// Runs rounds of kill -9 under load, each after `mails_of_a_round` more mails were acknowledged, and checks the store.
fn kill_and_check(rounds: usize, mails_of_a_round: usize) {
    let mut server = Server::start(&[]);
    let mut moments = RandomDelays::new();
    let mut slowest_start = Duration::ZERO;
    // Totals of all rounds, because the store also contains the mails of earlier rounds.
    let mut total = Account::default();
    for round in 0..rounds {
        let load = Load::start(server.address, 8, &format!("round{round}"));
        for goal in (1..=mails_of_a_round).step_by(MAILS_PER_WAIT) {
            load.wait_for(goal);
        }
        load.wait_for(mails_of_a_round);
        std::thread::sleep(moments.next_below(Duration::from_millis(120)));
        server.kill();
        let account = load.stop();
        let started_at = Instant::now();
        server.start_again();
        drop(server.client());
        slowest_start = slowest_start.max(started_at.elapsed());
        total.sent.extend(account.sent);
        total.acknowledged.extend(account.acknowledged);
        total.unanswered.extend(account.unanswered);
        // Checking every mail after each of many rounds would take longer than the rounds themselves.
        if rounds <= 20 || round % 10 == 9 {
            assert_no_loss_or_duplicate(&total, &stored_markers(&server.path("goguerrilla.db")));
        }
    }
    assert!(server.stop().success());
    let stored = stored_markers(&server.path("goguerrilla.db"));
    let acknowledged = &total.acknowledged;
    let lost = acknowledged
        .iter()
        .filter(|marker| !stored.contains_key(*marker));
    note!(
        "SQLite, {rounds} rounds of kill -9: {} acknowledged, {} stored, {} lost, {} doubled, {} without a reply, \
         slowest start {slowest_start:?}",
        acknowledged.len(),
        stored.values().sum::<usize>(),
        lost.count(),
        stored.values().filter(|count| **count > 1).count(),
        total.unanswered.len(),
    );
    assert_no_loss_or_duplicate(&total, &stored);
    assert!(acknowledged.len() >= rounds * mails_of_a_round);
    assert!(slowest_start < Duration::from_secs(2), "{slowest_start:?}");
}

#[test]
fn sigterm_under_load_answers_every_final_dot_and_loses_no_mail() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&[]);
        let load = Load::start(server.address, 16, "drained");
        load.wait_for_more(100);
        server.signal(signal);
        assert!(server.wait().success());
        let account = load.stop();
        assert_eq!(account.unanswered, [""; 0], "a final dot was not answered");
        assert_eq!(
            account.deferred, [""; 0],
            "mail was deferred although the store was available"
        );
        let stored = stored_markers(&server.path("goguerrilla.db"));
        assert_no_loss_or_duplicate(&account, &stored);
        assert_eq!(stored.len(), account.acknowledged.len());
    }
}

#[test]
fn client_that_disconnects_after_the_final_dot_has_its_mail_once_or_never() {
    let mut server = Server::start(&[]);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("DATA", "354");
    client.send(content_of("finished"));
    client.send(".\r\n");
    client.finish_sending();
    client.expect("250 2.0.0 ");
    client.expect_close();
    for number in 0..50 {
        let mut client = server.client();
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<a@client.test>", "250");
        client.command("RCPT TO:<u@ours.test>", "250");
        client.command("DATA", "354");
        client.send(content_of(&format!("reset {number}")));
        client.send(".\r\n");
        let socket = SockRef::from(client.socket());
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("an open socket");
    }
    assert!(server.stop().success());
    let stored = stored_markers(&server.path("goguerrilla.db"));
    assert_eq!(stored.get("finished"), Some(&1));
    assert!(stored.values().all(|count| *count == 1), "{stored:?}");
    // Every session is logged, even if the client did not receive the reply.
    let log = server.log();
    assert_eq!(log.matches(" disconnected ").count(), 51);
    assert_eq!(log.matches(" saved ").count(), stored.len());
}

/// Pseudorandom delays before a kill, different in each run. A failure does not depend on exact delays, so they need no
/// fixed seed.
struct RandomDelays(u64);

impl RandomDelays {
    fn new() -> RandomDelays {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        RandomDelays(now.map_or(1, |since| since.as_nanos() as u64 | 1))
    }

    fn next_below(&mut self, ceiling: Duration) -> Duration {
        // Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % ceiling.as_micros() as u64)
    }
}

/// How many mails even a busy machine saves before a wait of the test times out.
const MAILS_PER_WAIT: usize = 100;
