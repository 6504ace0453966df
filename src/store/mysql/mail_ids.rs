//! How much of the range of column `mail_id` is used, and what is said when little or nothing of it is left.

use mysql::Conn;
use mysql::prelude::Queryable;

use super::error::duplicate_id;
use super::error_text::error_words;
use crate::metrics;
use crate::store::TableName;
use crate::store::diagnostic::Diagnostic;

/// The ids of a table whose `mail_id` counts up by itself.
///
/// Two values are equal when [`finding`](MailIds::finding) differs at most in figures: facts that are equal are not logged again.
#[derive(Clone, Copy, Debug)]
pub struct MailIds {
    /// The largest id that the column's type holds.
    largest: u64,
    used: u64,
    is_used_up: bool,
}

impl PartialEq for MailIds {
    fn eq(&self, other: &MailIds) -> bool {
        self.state() == other.state()
    }
}

impl Eq for MailIds {}

impl MailIds {
    /// Creates it from the largest id and the next one, AUTO_INCREMENT in information_schema, and sets the metric.
    ///
    /// MariaDB counts beyond the largest id, MySQL stops there: then the table's last row tells whether that id is used.
    pub fn read(
        connection: &mut Conn,
        table: &TableName,
        largest: u64,
        next: Option<u64>,
    ) -> MailIds {
        // Without a value nothing was inserted yet.
        let next = next.unwrap_or(1);
        let is_used_up = match next.cmp(&largest) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => {
                let last = format!("SELECT MAX(`mail_id`) FROM {table}");
                let last: mysql::Result<Option<Option<String>>> = connection.query_first(last);
                last.is_ok_and(|last| last.flatten() == Some(largest.to_string()))
            }
        };
        let ids = MailIds {
            largest,
            used: next.saturating_sub(1),
            is_used_up,
        };
        ids.set_metric();
        ids
    }

    /// Takes note of an INSERT of so many rows; `first` is the id of the first one, 0 where the server names none.
    pub fn follow(&mut self, first: u64, rows: usize) {
        if first > 0 {
            self.used = first.saturating_add(rows as u64 - 1);
            self.is_used_up = false;
            self.set_metric();
        }
    }

    /// Returns what is wrong; `None` while less than half of the range is used.
    pub fn finding(&self, table: &TableName) -> Option<Diagnostic> {
        let MailIds { used, largest, .. } = self;
        if self.is_used_up {
            return self.shortage(table).map(Diagnostic::error);
        }
        (self.tenths() >= FIRST_TENTH).then(|| {
            Diagnostic::warning(format!(
                "GM_MAIL_TABLE: {} % of the ids of column `mail_id` of {table} are used ({used} of {largest}), and no mail \
                 can be saved once all are; run: {}",
                u128::from(*used) * 100 / u128::from(*largest).max(1),
                self.cure(table)
            ))
        })
    }

    /// Returns why no mail can be saved; `None` while there are ids.
    pub fn shortage(&self, table: &TableName) -> Option<String> {
        self.is_used_up.then(|| {
            format!(
                "GM_MAIL_TABLE: column `mail_id` of {table} has no ids left, so no mail can be saved; run: {}",
                self.cure(table)
            )
        })
    }

    /// Returns whether at least two ids are left. Whether one is left cannot be told on MySQL: its counter stays at the largest
    /// id, also after a transaction used that id and was rolled back.
    pub fn has_more(&self) -> bool {
        self.used.saturating_add(1) < self.largest
    }

    fn cure(&self, table: &TableName) -> String {
        match self.largest {
            // No type is wider: the rows are numbered anew.
            u64::MAX => format!(
                "ALTER TABLE {table} DROP COLUMN `mail_id`, ADD COLUMN `mail_id` bigint unsigned NOT NULL \
                 AUTO_INCREMENT PRIMARY KEY FIRST"
            ),
            _ => widening(table),
        }
    }

    fn tenths(&self) -> u128 {
        u128::from(self.used) * 10 / u128::from(self.largest).max(1)
    }

    /// Returns what two equal values have in common: from half of the range on, the tenth that the ids are in.
    fn state(&self) -> (u64, u128, bool) {
        let tenths = Some(self.tenths()).filter(|tenths| *tenths >= FIRST_TENTH);
        (self.largest, tenths.unwrap_or_default(), self.is_used_up)
    }

    fn set_metric(&self) {
        metrics::MAIL_ID_USED.set_ratio(self.used, self.largest);
    }
}

/// Returns what an error of the counter means, with its cure.
pub fn explain(error: &mysql::Error, table: &TableName, ids: Option<&MailIds>) -> String {
    let words = error_words(error);
    let duplicate = match error {
        mysql::Error::MySqlError(error) => duplicate_id(&error.message),
        _ => None,
    };
    // A counter that stands below existing ids, after a restore for example, is another fault than one at its end.
    if let (Some(duplicate), Some(ids)) = (duplicate, ids)
        && duplicate < ids.largest - ids.largest / 100
    {
        return format!(
            "GM_MAIL_TABLE: column `mail_id` of {table} counts below ids that are used: {words}; to have it count on \
             from the largest one, run: ALTER TABLE {table} AUTO_INCREMENT = 1"
        );
    }
    format!(
        "GM_MAIL_TABLE: column `mail_id` of {table} has no ids left: {words}; run: {}",
        ids.map_or_else(|| widening(table), |ids| ids.cure(table))
    )
}

fn widening(table: &TableName) -> String {
    format!("ALTER TABLE {table} MODIFY `mail_id` bigint unsigned NOT NULL AUTO_INCREMENT")
}

/// Half of the range.
const FIRST_TENTH: u128 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_warned_of_from_half_of_the_range_on() {
        let table = TableName::default();
        let ids = |used, largest, is_used_up| MailIds {
            largest,
            used,
            is_used_up,
        };
        let finding = |ids: MailIds| ids.finding(&table).map(|finding| finding.to_string());
        assert_eq!(finding(ids(63, 127, false)), None);
        assert_eq!(
            finding(ids(64, 127, false)).as_deref(),
            Some(
                "warning: GM_MAIL_TABLE: 50 % of the ids of column `mail_id` of `new_mail` are used (64 of 127), and no \
                 mail can be saved once all are; run: ALTER TABLE `new_mail` MODIFY `mail_id` bigint unsigned NOT NULL \
                 AUTO_INCREMENT"
            )
        );
        let used_up = finding(ids(127, 127, true)).unwrap();
        assert!(
            used_up.starts_with(
                "error: GM_MAIL_TABLE: column `mail_id` of `new_mail` has no ids left"
            )
        );
        let widest = finding(ids(u64::MAX - 1, u64::MAX, false)).unwrap();
        assert!(widest.contains("DROP COLUMN `mail_id`"), "{widest}");

        assert_eq!(ids(1, 127, false), ids(63, 127, false));
        assert_eq!(ids(64, 127, false), ids(70, 127, false));
        assert_ne!(ids(63, 127, false), ids(64, 127, false));
        assert_ne!(ids(70, 127, false), ids(80, 127, false));
        assert_ne!(ids(127, 127, false), ids(127, 127, true));
    }

    #[test]
    fn an_insert_moves_the_used_ids_on() {
        let mut ids = MailIds {
            largest: 127,
            used: 0,
            is_used_up: true,
        };
        ids.follow(0, 5);
        assert_eq!((ids.used, ids.is_used_up), (0, true));
        ids.follow(60, 5);
        assert_eq!((ids.used, ids.is_used_up), (64, false));
        assert!(ids.has_more());
        ids.follow(126, 1);
        assert!(!ids.has_more(), "the last one may be used up");
        ids.follow(u64::MAX, 5);
        assert_eq!(ids.used, u64::MAX);
    }

    #[test]
    fn an_error_of_the_counter_is_told_with_the_cure_that_fits() {
        let table = TableName::default();
        let duplicate = |id: &str| {
            mysql::Error::MySqlError(mysql::MySqlError {
                state: "23000".to_owned(),
                message: format!("Duplicate entry '{id}' for key 'PRIMARY'"),
                code: 1062,
            })
        };
        let ids = MailIds {
            largest: 127,
            used: 127,
            is_used_up: false,
        };
        let last = explain(&duplicate("127"), &table, Some(&ids));
        assert!(last.contains("no ids left"), "{last}");
        assert!(last.ends_with("MODIFY `mail_id` bigint unsigned NOT NULL AUTO_INCREMENT"));
        let middle = explain(&duplicate("12-2026-01-01 00:00:00"), &table, Some(&ids));
        assert!(middle.contains("AUTO_INCREMENT = 1"), "{middle}");
        let unknown = explain(&duplicate("12"), &table, None);
        assert!(unknown.contains("no ids left"), "{unknown}");
    }
}
