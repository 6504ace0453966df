//! Partitions by day: drops those that are wholly older than the cut-off time, and makes those of the next days.
//!
//! A partition of a day is made before the first mail of that day is saved, and only as long as the partition that it is split
//! from is empty: MariaDB 10.11 assigns a `mail_id` twice when it copies rows while others are inserted.

use mysql::Row;
use mysql::prelude::Queryable;

use crate::store::TableName;
use crate::store::mysql::connection::MySqlConnection;

/// The partitions of a table that is partitioned with RANGE (TO_DAYS(`date`)), in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayPartitions(Vec<Partition>);

/// The row of information_schema about one partition: name, description (the day after the last one), method, expression, and
/// whether it has no subpartitions.
pub type PartitionRow = (String, String, String, String, bool);

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Partition {
    name: String,
    /// The day after the last one, as TO_DAYS returns it; `None` for MAXVALUE.
    end: Option<u64>,
}

/// A change of the partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionChange {
    /// Drops a partition.
    Drop(String),
    /// Makes a partition that ends before each of these days; `split` is the partition for all later days, if there is one.
    Make {
        /// The partition to split.
        split: Option<String>,
        /// The days before which the new partitions end.
        ends: Vec<u64>,
    },
}

impl DayPartitions {
    /// Reads the partitions of a table; `None` if it is not partitioned by day.
    ///
    /// # Errors
    /// The server returned an error, or the connection broke.
    pub fn read(
        connection: &mut MySqlConnection,
        table: &TableName,
    ) -> mysql::Result<Option<DayPartitions>> {
        let sql = "SELECT PARTITION_NAME, PARTITION_DESCRIPTION, PARTITION_METHOD, PARTITION_EXPRESSION,
                          SUBPARTITION_NAME IS NULL
                   FROM information_schema.PARTITIONS
                   WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? AND PARTITION_NAME IS NOT NULL
                   ORDER BY PARTITION_ORDINAL_POSITION";
        let name = (table.database_in_table_name(), table.table_part());
        let rows: Vec<Row> = connection.call_driver_with_timeout(|conn| conn.exec(sql, name))?;
        let rows = rows.into_iter().map(|row| mysql::from_row_opt(row).ok());
        Ok(DayPartitions::from_rows(rows))
    }

    /// Returns the partitions that the rows describe, in the order of the rows; `None` if one of them is not by day, or if a
    /// row is `None`, because it was not readable.
    pub fn from_rows(
        rows: impl IntoIterator<Item = Option<PartitionRow>>,
    ) -> Option<DayPartitions> {
        let partitions = rows.into_iter().map(|row| {
            let (name, end, method, expression, is_whole) = row?;
            let is_by_day = method == "RANGE" && is_whole && is_days_of_date(&expression);
            let end = match end.as_str() {
                "MAXVALUE" => None,
                end => Some(end.parse().ok()?),
            };
            is_by_day.then_some(Partition { name, end })
        });
        let partitions: Option<Vec<Partition>> = partitions.collect();
        partitions
            .filter(|partitions| !partitions.is_empty())
            .map(DayPartitions)
    }

    /// Returns the changes to make: makes the partitions of `today` and of the next `DAYS_AHEAD` days, and drops each one that
    /// ends on `cut_off_day` or before it, except the last. Those of the next days come first, because mail needs them even if
    /// a partition cannot be dropped.
    pub fn changes(&self, today: u64, cut_off_day: u64) -> Vec<PartitionChange> {
        let DayPartitions(all) = self;
        let is_old = |partition: &&Partition| partition.end.is_some_and(|end| end <= cut_off_day);
        let droppable = all.split_last().map_or(&[][..], |(_, others)| others);
        let drops = droppable.iter().filter(is_old);
        let drops = drops.map(|partition| PartitionChange::Drop(partition.name.clone()));
        self.next_days(today).into_iter().chain(drops).collect()
    }

    /// Returns the change that makes the partitions of `today` and of the next days; `None` if all of them exist.
    fn next_days(&self, today: u64) -> Option<PartitionChange> {
        let DayPartitions(all) = self;
        let last_end = all.iter().filter_map(|partition| partition.end).max()?;
        // The database may return any number.
        let last_made = today.checked_add(1 + DAYS_AHEAD)?;
        let ends: Vec<u64> = (today + 1..=last_made)
            .filter(|end| *end > last_end)
            .collect();
        let later = all.iter().find(|partition| partition.end.is_none());
        let split = later.map(|partition| partition.name.clone());
        (!ends.is_empty()).then_some(PartitionChange::Make { split, ends })
    }

    /// Returns whether the partition with the cut-off time holds this one day only, so that it is dropped as a whole tomorrow.
    pub fn is_cut_off_in_one_day(&self, cut_off_day: u64) -> bool {
        let DayPartitions(all) = self;
        all.windows(2).any(|pair| match pair {
            [before, partition] => {
                let first_day = partition.end.and_then(|end| end.checked_sub(1));
                before.end == Some(cut_off_day) && first_day == Some(cut_off_day)
            }
            _ => false,
        })
    }
}

impl PartitionChange {
    /// Makes the change. Returns the number of rows of a dropped partition, else 0.
    ///
    /// # Errors
    /// The server returned an error, or the connection broke.
    pub fn apply(&self, connection: &mut MySqlConnection, table: &TableName) -> mysql::Result<u64> {
        match self {
            PartitionChange::Drop(dropped) => {
                let name = quoted(dropped);
                let count = format!("SELECT COUNT(*) FROM {table} PARTITION ({name})");
                let rows: Option<u64> =
                    connection.call_driver(None, |conn| conn.query_first(count))?;
                let drop = drop_partition_statement(table, dropped);
                connection.call_driver(None, |conn| conn.query_drop(drop))?;
                Ok(rows.unwrap_or_default())
            }
            PartitionChange::Make { split, ends } => {
                if let Some(later) = split {
                    let sql = format!(
                        "SELECT 1 FROM {table} PARTITION ({}) LIMIT 1",
                        quoted(later)
                    );
                    let row: Option<u64> =
                        connection.call_driver_with_timeout(|conn| conn.query_first(sql))?;
                    if row.is_some() {
                        let fix =
                            "stop the receivers, and run: ALTER TABLE ... REORGANIZE PARTITION";
                        log::warn!(partition = later.as_str(), reason = "holds mail", fix = fix; "partitions_missing");
                        return Ok(0);
                    }
                }
                let names = names_of_days(connection, ends)?;
                let sql = make_partitions_statement(table, split.as_deref(), &names);
                connection.call_driver(None, |conn| conn.query_drop(sql))?;
                Ok(0)
            }
        }
    }
}

/// Returns whether an expression, as information_schema gives it, is TO_DAYS(`date`).
fn is_days_of_date(expression: &str) -> bool {
    let plain: String = expression
        .chars()
        .filter(|c| !matches!(c, '`' | ' '))
        .collect();
    plain.eq_ignore_ascii_case("to_days(date)")
}

/// Returns the name of each new partition, such as p20261130, with the day before which it ends.
fn names_of_days(
    connection: &mut MySqlConnection,
    ends: &[u64],
) -> mysql::Result<Vec<(String, u64)>> {
    let mut names = Vec::new();
    for end in ends {
        let sql = format!("SELECT DATE_FORMAT(FROM_DAYS({end} - 1), 'p%Y%m%d')");
        let name: Option<String> =
            connection.call_driver_with_timeout(|conn| conn.query_first(sql))?;
        names.extend(name.map(|name| (name, *end)));
    }
    Ok(names)
}

/// Returns the statement that drops a partition.
pub fn drop_partition_statement(table: &TableName, name: &str) -> String {
    format!("ALTER TABLE {table} DROP PARTITION {}", quoted(name))
}

/// Returns the statement that makes partitions with these names, each with the day before which it ends.
pub fn make_partitions_statement(
    table: &TableName,
    split: Option<&str>,
    names: &[(String, u64)],
) -> String {
    let days = names
        .iter()
        .map(|(name, end)| format!("PARTITION {} VALUES LESS THAN ({end})", quoted(name)));
    let days = days.collect::<Vec<_>>().join(", ");
    match split {
        Some(later) => {
            let later = quoted(later);
            format!(
                "ALTER TABLE {table} REORGANIZE PARTITION {later} INTO ({days}, PARTITION {later} VALUES LESS THAN MAXVALUE)"
            )
        }
        None => format!("ALTER TABLE {table} ADD PARTITION ({days})"),
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Number of days after today whose partitions are made: a receiver that is down for less than a week leaves no gap.
const DAYS_AHEAD: u64 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(ends: &[(&str, Option<u64>)]) -> DayPartitions {
        let partition = |(name, end): &(&str, Option<u64>)| Partition {
            name: (*name).to_owned(),
            end: *end,
        };
        DayPartitions(ends.iter().map(partition).collect())
    }

    fn dropped(name: &str) -> PartitionChange {
        PartitionChange::Drop(name.to_owned())
    }

    #[test]
    fn partitions_that_are_wholly_older_are_dropped_and_the_next_days_are_made() {
        let table = partitions(&[
            ("past", Some(100)),
            ("p100", Some(101)),
            ("p101", Some(102)),
            ("later", None),
        ]);
        let make = |ends: std::ops::RangeInclusive<u64>| PartitionChange::Make {
            split: Some("later".to_owned()),
            ends: ends.collect(),
        };
        assert_eq!(table.changes(101, 99), [make(103..=109)]);
        assert_eq!(table.changes(101, 100), [make(103..=109), dropped("past")]);
        assert_eq!(
            table.changes(101, 101),
            [make(103..=109), dropped("past"), dropped("p100")]
        );
        // The server was down for a week: the first new partition also takes the days without mail.
        assert_eq!(table.changes(110, 0), [make(111..=118)]);
        assert!(table.is_cut_off_in_one_day(101));
        assert!(!table.is_cut_off_in_one_day(99));
        assert!(!table.is_cut_off_in_one_day(102));
    }

    #[test]
    fn last_partition_is_never_dropped_and_nothing_is_made_ahead_of_time() {
        let table = partitions(&[("p100", Some(101)), ("p101", Some(102))]);
        let made = PartitionChange::Make {
            split: None,
            ends: (201..=208).collect(),
        };
        assert_eq!(table.changes(200, 190), [made, dropped("p100")]);
        assert_eq!(partitions(&[("p", Some(300))]).changes(200, 190), []);
        assert_eq!(partitions(&[("all", None)]).changes(200, 190), []);
    }

    #[test]
    fn nonsense_dates_of_the_database_make_no_partition_and_no_panic() {
        let table = partitions(&[
            ("p100", Some(101)),
            ("p101", Some(u64::MAX)),
            ("later", None),
        ]);
        assert_eq!(table.changes(u64::MAX, 0), []);
        assert_eq!(table.changes(u64::MAX - 1, 101), [dropped("p100")]);
        assert!(!table.is_cut_off_in_one_day(u64::MAX));
    }

    #[test]
    fn statement_quotes_names_and_keeps_the_partition_for_later_days() {
        let table = TableName::default();
        let names = [("p1".to_owned(), 7), ("p2".to_owned(), 8)];
        assert_eq!(
            make_partitions_statement(&table, Some("la`ter"), &names),
            "ALTER TABLE `new_mail` REORGANIZE PARTITION `la``ter` INTO (PARTITION `p1` VALUES LESS THAN (7), PARTITION `p2` \
             VALUES LESS THAN (8), PARTITION `la``ter` VALUES LESS THAN MAXVALUE)"
        );
        assert_eq!(
            make_partitions_statement(&table, None, &names[..1]),
            "ALTER TABLE `new_mail` ADD PARTITION (PARTITION `p1` VALUES LESS THAN (7))"
        );
        assert!(is_days_of_date("to_days(`date`)") && is_days_of_date("TO_DAYS(date)"));
        assert!(!is_days_of_date("to_days(`other`)") && !is_days_of_date("year(`date`)"));
    }
}
