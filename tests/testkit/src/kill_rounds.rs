//! Rounds of kill -9 of a server that stores mail in SQLite.

use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;

use crate::feed_ledger::FeedLedger;
use crate::load::{Account, Load, assert_no_loss_or_duplicate, stored_markers};
use crate::old_rows::{IS_MAIL, Removal, SqliteFile};
use crate::soak_settings::SOAK_SETTINGS;
use crate::{Server, assert_took, let_time_pass};

/// Runs rounds of kill -9 under load, each after `mails_of_a_round` more mails were acknowledged, and checks the store.
pub fn kill_and_check(rounds: usize, mails_of_a_round: usize) {
    run_rounds(rounds, mails_of_a_round, None);
}

/// Does the same with hold, feed and retention turned on. In the last round the server is killed while it removes old rows.
pub fn kill_and_check_with_soak_settings(rounds: usize, mails_of_a_round: usize) {
    run_rounds(rounds, mails_of_a_round, Some(Extras::default()));
}

/// What happens next to the load.
#[derive(Default)]
struct Extras {
    feed: FeedLedger,
    removal: Removal,
}

fn run_rounds(rounds: usize, mails_of_a_round: usize, mut extras: Option<Extras>) {
    let settings = extras.as_ref().map_or(&[][..], |_| SOAK_SETTINGS);
    let mut server = Server::start(settings);
    let file = SqliteFile(server.path("goguerrilla.db"));
    let mut moments = RandomDelays::new();
    let mut slowest_start = Duration::ZERO;
    // Totals of all rounds, because the store also contains the mails of earlier rounds.
    let mut total = Account::default();
    for round in 0..rounds {
        if let Some(extras) = &mut extras {
            extras.feed.read_from(&server);
            extras.removal.begin_round(&file);
        }
        let load = Load::start(server.address, 8, &format!("round{round}"));
        for goal in (1..=mails_of_a_round).step_by(MAILS_PER_WAIT) {
            load.wait_for(goal);
        }
        load.wait_for(mails_of_a_round);
        if let Some(extras) = &mut extras {
            match round + 1 == rounds {
                true => extras.removal.wait_for_server(&file),
                false => extras.removal.start_prune(&server, &file),
            }
        }
        let moment = moments.next_below(Duration::from_millis(120));
        let_time_pass(moment, "the random moment of the kill");
        server.kill();
        if let Some(extras) = &mut extras {
            extras.removal.kill_prune();
            extras.feed.finish_readers();
        }
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
    if let Some(extras) = &extras {
        extras.removal.finish(&server, &file);
    }
    assert!(server.stop().success());
    let stored = stored_markers(&server.path("goguerrilla.db"));
    let acknowledged = &total.acknowledged;
    let lost = acknowledged
        .iter()
        .filter(|marker| !stored.contains_key(*marker));
    crate::note!(
        "SQLite, {rounds} rounds of kill -9: {} acknowledged, {} stored, {} lost, {} doubled, {} without a reply, \
         slowest start {slowest_start:?}",
        acknowledged.len(),
        stored.values().sum::<usize>(),
        lost.count(),
        stored.values().filter(|count| **count > 1).count(),
        total.unanswered.len(),
    );
    assert_no_loss_or_duplicate(&total, &stored);
    if let Some(extras) = &extras {
        extras.feed.assert_each_has_a_row(&mails_in(&file));
    }
    assert!(acknowledged.len() >= rounds * mails_of_a_round);
    // 0.2 s is the expected time from the start of the program to the first greeting.
    assert_took(slowest_start, Duration::from_millis(200));
}

/// Returns hash and subject of each mail.
fn mails_in(file: &SqliteFile) -> Vec<(String, String)> {
    let file = Connection::open(&file.0).expect("a file");
    let mails = format!("SELECT hash, subject FROM new_mail WHERE {IS_MAIL}");
    let mut select = file.prepare(&mails).expect("a table of mails");
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let rows = rows.expect("a file that can be read");
    rows.collect::<Result<_, _>>().expect("rows")
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
