//! Rows that are older than the mail of a test, for tests of retention.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mysql::prelude::Queryable;
use rusqlite::Connection;

use crate::galera::Galera;
use crate::mariadb::MariaDb;
use crate::{Server, TEST_TIMEOUT, binary, wait_for_within};

/// The number of days that the servers of these tests keep rows.
pub const KEEP_DAYS: u32 = 30;
/// The condition for rows of mails, as opposed to those of [`OldRows::insert_old_rows`].
pub const IS_MAIL: &str = "subject NOT LIKE '% days old'";

/// A table `new_mail` into which a test puts old rows.
pub trait OldRows {
    /// Runs a statement.
    fn execute(&self, statement: &str);

    /// Returns the single number that a query yields.
    fn number(&self, query: &str) -> u64;

    /// Returns the expression for the time this number of days ago.
    fn days_ago(&self, days: u32) -> String {
        format!("NOW() - INTERVAL {days} DAY")
    }

    /// Returns the expression for a hash that no other row has.
    fn random_hash(&self) -> &'static str {
        "MD5(RAND())"
    }

    /// Inserts rows of this age in days, whose subject tells the age.
    fn insert_old_rows(&self, days: u32, count: u32) {
        let (date, hash) = (self.days_ago(days), self.random_hash());
        for first in (0..count).step_by(1_000) {
            // MySQL has no sequence tables, and limits a recursion to 1,000.
            let rows = (count - first).min(1_000);
            self.execute(&format!(
                "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash, content_type,
                   recipient, has_attach, ip_addr, attach_info)
                 WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {rows})
                 SELECT {date}, '', '', '{days} days old', '', '', '', 0, {hash}, '', '', 0, '', '' FROM numbers"
            ));
        }
    }

    /// Returns the number of rows that are older than this number of days.
    fn rows_older_than(&self, days: u32) -> u64 {
        let date = self.days_ago(days);
        self.number(&format!(
            "SELECT COUNT(*) FROM new_mail WHERE `date` < {date}"
        ))
    }
}

impl OldRows for MariaDb {
    fn execute(&self, statement: &str) {
        self.sql(statement);
    }

    fn number(&self, query: &str) -> u64 {
        MariaDb::number(self, query)
    }
}

/// Node 2 is the one that no test kills.
impl OldRows for Galera {
    fn execute(&self, statement: &str) {
        let done = self.connection(2).query_drop(statement);
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn number(&self, query: &str) -> u64 {
        let number = self.connection(2).query_first(query).expect("a row");
        number.expect("a number")
    }
}

/// The SQLite file of a server.
pub struct SqliteFile(pub PathBuf);

impl SqliteFile {
    fn open(&self) -> Connection {
        let file = Connection::open(&self.0).expect("a file");
        file.busy_timeout(TEST_TIMEOUT).expect("an open file");
        file
    }
}

impl OldRows for SqliteFile {
    fn execute(&self, statement: &str) {
        let done = self.open().execute(statement, []);
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn number(&self, query: &str) -> u64 {
        let number = self.open().query_row(query, [], |row| row.get::<_, i64>(0));
        let number = number.unwrap_or_else(|error| panic!("{query}: {error}"));
        u64::try_from(number).expect("a count")
    }

    fn days_ago(&self, days: u32) -> String {
        format!("datetime('now', '-{days} days')")
    }

    fn random_hash(&self) -> &'static str {
        "lower(hex(randomblob(16)))"
    }
}

/// Old rows that are removed while the server is killed again and again, and slightly younger ones that must stay.
#[derive(Default)]
pub struct Removal {
    prune: Option<Child>,
    too_old: u64,
    kept: u64,
}

impl Removal {
    /// Inserts the rows of a round.
    pub fn begin_round(&mut self, table: &impl OldRows) {
        table.insert_old_rows(KEEP_DAYS + 1, TOO_OLD_ROWS);
        table.insert_old_rows(KEEP_DAYS - 1, KEPT_ROWS);
        self.too_old += u64::from(TOO_OLD_ROWS);
        self.kept += u64::from(KEPT_ROWS);
    }

    /// Starts `goguerrilla prune` and returns when it has removed some rows, in each of four rounds another number, and as a rule
    /// has more to remove.
    pub fn start_prune(&mut self, server: &Server, table: &impl OldRows) {
        let rounds = self.too_old / u64::from(TOO_OLD_ROWS);
        let goal = table.rows_older_than(KEEP_DAYS) - (1 + rounds % 4 * PRUNED_ROWS);
        wait_for_within("prune to remove rows", REMOVAL_LIMIT, || {
            // It ends at once while the database has not noticed yet that an earlier one was killed.
            let is_running = self.prune.as_mut().is_some_and(|child| {
                let ended = child.try_wait();
                ended.expect("a child process").is_none()
            });
            if !is_running {
                self.prune = Some(start_prune(server.folder.path()));
            }
            (table.rows_older_than(KEEP_DAYS) <= goal).then_some(())
        });
    }

    /// Waits until the server has removed some rows by itself, a minute after its start.
    pub fn wait_for_server(&self, table: &impl OldRows) {
        let before = table.rows_older_than(KEEP_DAYS);
        wait_for_within("the server to remove rows", REMOVAL_LIMIT, || {
            (table.rows_older_than(KEEP_DAYS) < before).then_some(())
        });
    }

    /// Kills `prune` if it still runs.
    pub fn kill_prune(&mut self) {
        if let Some(mut child) = self.prune.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets `prune` remove the rest, and asserts that it removes nothing else.
    pub fn finish(&self, server: &Server, table: &impl OldRows) {
        self.assert_only_too_old_rows_are_gone(table);
        // The thread of the server may be removing them, too.
        wait_for_within("prune to end", REMOVAL_LIMIT, || {
            let days = format!("--days={KEEP_DAYS}");
            server.command(&["prune", &days]).ok()
        });
        self.assert_only_too_old_rows_are_gone(table);
        assert_eq!(table.rows_older_than(KEEP_DAYS), 0);
    }

    /// Asserts that every row that is not too old is still there.
    pub fn assert_only_too_old_rows_are_gone(&self, table: &impl OldRows) {
        let too_old = table.rows_older_than(KEEP_DAYS);
        let kept = table.rows_older_than(KEEP_DAYS - 2) - too_old;
        assert_eq!(kept, self.kept, "rows that are not too old");
        assert!(too_old <= self.too_old, "{too_old} of {}", self.too_old);
        crate::note!(
            "{} of {} old rows removed",
            self.too_old - too_old,
            self.too_old
        );
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.kill_prune();
    }
}

fn start_prune(folder: &Path) -> Child {
    Command::new(binary())
        .args(["prune", &format!("--days={KEEP_DAYS}")])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

/// Rows of a round that are too old: several transactions of `prune`.
const TOO_OLD_ROWS: u32 = 2_000;
/// Rows that `prune` removes at least in every fourth round; twice and three times as many in the next two.
const PRUNED_ROWS: u64 = 400;
/// Rows of a round that are old, but not too old.
const KEPT_ROWS: u32 = 20;
/// The longest wait for the first row that is removed: ten times the minute after which a server begins.
const REMOVAL_LIMIT: Duration = Duration::from_secs(600);
