//! Removes old rows from a table in MySQL or MariaDB, through a connection of its own.
//!
//! One receiver does it: a round holds a named lock of the database. Galera does not share such locks among its nodes; there
//! two receivers may remove rows at once, and one of them then gets a deadlock, which only means that the rows are removed.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mysql::Row;
use mysql::prelude::Queryable;

use super::mysql_table::{
    DATE_FORMAT, FIRST_DATE, count_statement, delete_statement, select_oldest_date, why_rows_stay,
};
use super::pace::StepSize;
use super::partitions::{DayPartitions, PartitionChange};
use super::{OldRows, RemovalStep, RetentionError, seconds_rounded_up};
use crate::store::TableName;
use crate::store::mysql::connection::MySqlConnection;
use crate::store::mysql::error::MySqlErrorClass;
use crate::store::mysql::error_text::mysql_read_error_text_and_fix as read_error_text;
use crate::store::mysql::pool::Connector;

/// The old rows of a table in MySQL or MariaDB.
pub struct MySqlOldRows {
    /// Names the hosts that may be used; a host on which a COMMIT hangs gets no statement.
    hosts: Connector,
    connection: MySqlConnection,
    table: TableName,
    cut_off: String,
    /// The date of the oldest row that the last query found. Removed rows stay in the index until the server purges them, so a
    /// query from the first date on would read all of them again.
    oldest: String,
    changes: VecDeque<PartitionChange>,
    /// The error of the first change that the server refused. The other changes are made all the same, and the round ends with
    /// this error.
    failed_change: Option<RetentionError>,
    /// Whether rows are removed, and not only partitions.
    removes_rows: bool,
    size: StepSize,
    empty_steps: u32,
}

/// Who runs a round. This decides how long it waits for the named lock, and whether it removes the old rows of the day of the
/// cut-off time, if that day has a partition of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundCaller {
    /// The server: does not wait for the lock; keeps the old rows of that day until their partition can be dropped, unless
    /// GM_KEEP_DAYS is less than 1.
    Server,
    /// `goguerrilla prune`: waits for the lock for `COMMAND_LOCK_WAIT`; removes each old row.
    Command,
}

impl MySqlOldRows {
    /// Connects with `connector` to the first host that `hosts` allows, checks the table, takes the lock and the cut-off time.
    ///
    /// # Errors
    /// [`RetentionError`].
    pub fn open(
        hosts: &Connector,
        connector: &Connector,
        keep: Duration,
        caller: RoundCaller,
    ) -> Result<MySqlOldRows, RetentionError> {
        let table = connector.table().clone();
        let mut connection = connect(hosts, connector)?;
        let failed = |error: mysql::Error| classify(&error, &table);
        if let Some(reason) = why_rows_stay(&mut connection, &table).map_err(failed)? {
            return Err(RetentionError::Failed(reason));
        }
        take_lock(&mut connection, &table, caller)?;
        prepare_session(&mut connection).map_err(failed)?;
        let clock = Clock::read(&mut connection, keep).map_err(failed)?;
        clock.check()?;
        let partitions = DayPartitions::read(&mut connection, &table).map_err(failed)?;
        let is_exact = caller == RoundCaller::Command || keep < ONE_DAY;
        let day_is_dropped_later = (partitions.as_ref())
            .is_some_and(|partitions| partitions.is_cut_off_in_one_day(clock.cut_off_day));
        let changes =
            partitions.map(|partitions| partitions.changes(clock.today, clock.cut_off_day));
        Ok(MySqlOldRows {
            hosts: hosts.clone(),
            connection,
            table,
            cut_off: clock.cut_off,
            oldest: FIRST_DATE.to_owned(),
            changes: changes.unwrap_or_default().into(),
            failed_change: None,
            removes_rows: is_exact || !day_is_dropped_later,
            size: StepSize::new(STEP_ROWS, STEP_ROWS, STEP_TIME),
            empty_steps: 0,
        })
    }

    /// Makes a change of the partitions. Returns the number of rows that it removed. If the server refuses the change, the error
    /// is kept in `failed_change`.
    fn change_partitions(&mut self, change: &PartitionChange) -> Result<u64, RetentionError> {
        let outcome = change.apply(&mut self.connection, &self.table);
        let is_refused = matches!(outcome, Err(mysql::Error::MySqlError(_)));
        match outcome.map_err(|error| classify(&error, &self.table)) {
            // The ALTER waits for transactions on the table, and mail waits for the ALTER. So it is not tried again at once.
            Err(RetentionError::Busy(reason)) => {
                let fix = "end long transactions on the table; the next round tries again";
                log::warn!(reason = reason, fix = fix; "partitions_busy");
                self.removes_rows = false;
                Ok(0)
            }
            Err(error) if is_refused => {
                self.failed_change.get_or_insert(error);
                Ok(0)
            }
            outcome => outcome,
        }
    }

    /// Removes one transaction's rows. Returns their number; `None` if there are no more.
    fn remove_rows(&mut self) -> Result<Option<u64>, RetentionError> {
        let range = (self.oldest.as_str(), self.cut_off.as_str());
        let select = select_oldest_date(&self.table);
        let oldest: mysql::Result<Option<Row>> = self
            .connection
            .call_driver_with_timeout(|conn| conn.exec_first(select, range));
        let oldest = oldest.map_err(|error| classify(&error, &self.table))?;
        let oldest = oldest.and_then(|row| mysql::from_row_opt::<String>(row).ok());
        let Some(oldest) = oldest else {
            return Ok(None);
        };
        self.oldest = oldest;
        // Not prepared: the limit is part of the text, and the cache of prepared statements would fill.
        let delete = delete_statement(&self.table, self.size.rows())
            .replacen('?', &format!("'{}'", self.oldest), 1)
            .replacen('?', &format!("'{}'", self.cut_off), 1);
        let started_at = Instant::now();
        let removed = self.connection.call_driver_with_timeout(|conn| {
            conn.query_drop(delete)?;
            Ok(conn.affected_rows())
        });
        self.size.adapt(started_at.elapsed());
        let rows = removed.map_err(|error| classify(&error, &self.table))?;
        self.empty_steps = match rows {
            0 => self.empty_steps + 1,
            _ => 0,
        };
        // Another receiver may have removed the rows that were selected; but rows that stay must not keep the round going.
        Ok((self.empty_steps < MAX_EMPTY_STEPS).then_some(rows))
    }

    fn check_host(&self) -> Result<(), RetentionError> {
        let host = self.connection.server.host;
        match self.hosts.is_host_usable(host) {
            true => Ok(()),
            false => {
                let name = self.hosts.hosts().host_as_configured(host);
                Err(RetentionError::Failed(format!(
                    "MYSQL_HOST: {name} is down, or a COMMIT hangs there"
                )))
            }
        }
    }
}

impl OldRows for MySqlOldRows {
    fn cut_off(&self) -> &str {
        &self.cut_off
    }

    fn count(&mut self) -> Result<u64, RetentionError> {
        let sql = count_statement(&self.table);
        let range = (FIRST_DATE, self.cut_off.as_str());
        let count: mysql::Result<Option<u64>> = self
            .connection
            .call_driver(None, |conn| conn.exec_first(sql, range));
        let count = count.map_err(|error| classify(&error, &self.table))?;
        Ok(count.unwrap_or_default())
    }

    fn remove_some(&mut self) -> Result<RemovalStep, RetentionError> {
        self.check_host()?;
        if let Some(change) = self.changes.pop_front() {
            let rows = self.change_partitions(&change)?;
            return Ok(RemovalStep {
                rows,
                is_last: false,
            });
        }
        if let Some(error) = self.failed_change.take() {
            return Err(error);
        }
        let removed = match self.removes_rows {
            true => self.remove_rows()?,
            false => None,
        };
        Ok(RemovalStep {
            rows: removed.unwrap_or_default(),
            is_last: removed.is_none(),
        })
    }
}

/// The time of the database.
struct Clock {
    unix_seconds: u64,
    cut_off: String,
    today: u64,
    cut_off_day: u64,
}

impl Clock {
    fn read(connection: &mut MySqlConnection, keep: Duration) -> mysql::Result<Clock> {
        let seconds = seconds_rounded_up(keep);
        let sql = format!(
            "SELECT UNIX_TIMESTAMP(), TO_DAYS(NOW()), TO_DAYS(NOW() - INTERVAL {seconds} SECOND),
                    DATE_FORMAT(NOW() - INTERVAL {seconds} SECOND, '{DATE_FORMAT}')"
        );
        let row: Option<Row> = connection.call_driver_with_timeout(|conn| conn.query_first(sql))?;
        let values = row.and_then(|row| mysql::from_row_opt(row).ok());
        let (unix_seconds, today, cut_off_day, cut_off) =
            values.ok_or_else(|| std::io::Error::other("the server returned no time"))?;
        Ok(Clock {
            unix_seconds,
            cut_off,
            today,
            cut_off_day,
        })
    }

    /// Compares the database's clock with that of this machine: if one of them is wrong, rows could be removed too early.
    fn check(&self) -> Result<(), RetentionError> {
        let here = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let apart = here.as_secs().abs_diff(self.unix_seconds);
        match apart < MAX_CLOCK_DIFFERENCE.as_secs() {
            true => Ok(()),
            false => Err(RetentionError::Failed(format!(
                "MYSQL_HOST: the clocks of the database and of this machine are {apart} s apart, so no row is removed; set both"
            ))),
        }
    }
}

fn connect(hosts: &Connector, connector: &Connector) -> Result<MySqlConnection, RetentionError> {
    let mut reason = "MYSQL_HOST: no host can be used now".to_owned();
    for host in hosts.hosts().host_indexes_in_try_order() {
        if hosts.is_host_usable(host) {
            match connector.connect_to_mysql_host(host, None) {
                Ok(connection) => return Ok(connection),
                Err(error) => reason = read_error_text(&error, connector.table()),
            }
        }
    }
    Err(RetentionError::Failed(reason))
}

/// Takes the named lock, which the server releases when the connection ends.
fn take_lock(
    connection: &mut MySqlConnection,
    table: &TableName,
    caller: RoundCaller,
) -> Result<(), RetentionError> {
    let seconds = match caller {
        RoundCaller::Server => 0,
        RoundCaller::Command => COMMAND_LOCK_WAIT.as_secs(),
    };
    // MySQL limits the name to 64 characters.
    let sql = format!(
        "SELECT GET_LOCK(CONCAT('goguerrilla prune ', MD5(CONCAT(COALESCE(?, DATABASE()), '.', ?))), {seconds})"
    );
    let name = (table.database_in_table_name(), table.table_part());
    let is_galera = connection.server.galera.is_some();
    let locked: mysql::Result<Option<Row>> =
        connection.call_driver_with_timeout(|conn| conn.exec_first(sql, name));
    match locked {
        Ok(row) => match row.and_then(|row| mysql::from_row_opt::<u8>(row).ok()) {
            Some(1) => Ok(()),
            _ => Err(RetentionError::RemovedElsewhere),
        },
        // pxc_strict_mode forbids such locks.
        Err(mysql::Error::MySqlError(_)) if is_galera => Ok(()),
        Err(error) => Err(classify(&error, table)),
    }
}

/// Sets the session variables: short waits for locks, and no locks of gaps, which an INSERT would have to wait for.
fn prepare_session(connection: &mut MySqlConnection) -> mysql::Result<()> {
    connection.call_driver_with_timeout(|conn| {
        conn.query_drop("SET SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1")
    })?;
    // With statement-based replication InnoDB refuses changes in READ COMMITTED. A server without a binary log may not know
    // the variable.
    let format: mysql::Result<Option<String>> =
        connection.call_driver_with_timeout(|conn| conn.query_first("SELECT @@binlog_format"));
    if matches!(format, Ok(Some(format)) if format.eq_ignore_ascii_case("STATEMENT")) {
        return Ok(());
    }
    let sql = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    connection.call_driver_with_timeout(|conn| conn.query_drop(sql))
}

fn classify(error: &mysql::Error, table: &TableName) -> RetentionError {
    match MySqlErrorClass::classify_mysql_error(error) {
        MySqlErrorClass::Retry | MySqlErrorClass::Busy | MySqlErrorClass::NotReady => {
            RetentionError::Busy(read_error_text(error, table))
        }
        _ if is_missing_right(error) => RetentionError::Failed(format!(
            "{}; grant MYSQL_USER the right DELETE on {table}, and ALTER, CREATE, DROP and INSERT if it has partitions",
            read_error_text(error, table)
        )),
        _ => RetentionError::Failed(read_error_text(error, table)),
    }
}

fn is_missing_right(error: &mysql::Error) -> bool {
    matches!(error, mysql::Error::MySqlError(error) if matches!(error.code, 1142 | 1143 | 1227))
}

/// Maximum number of rows of one transaction. What it writes to disk delays the COMMITs of mails: with 800 rows the 99th
/// percentile of their time rose by 5 ms, with 32 rows by 2 ms.
const STEP_ROWS: usize = 20;
/// Time that a transaction should take at most, because it locks its rows until its end.
const STEP_TIME: Duration = Duration::from_millis(20);
/// Longest time that `prune` waits while a server removes rows.
const COMMAND_LOCK_WAIT: Duration = Duration::from_secs(5);
/// A round ends after this many transactions in a row that removed nothing.
const MAX_EMPTY_STEPS: u32 = 10;
/// With clocks further apart than this, one of them is wrong.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(3_600);
const ONE_DAY: Duration = Duration::from_secs(86_400);
