//! The used part of column `mail_id`'s range, and the findings when few or no ids are left.

use mysql::Conn;
use mysql::prelude::Queryable;

use super::error::id_in_duplicate_entry_message;
use super::error_text::error_words;
use crate::metrics::Metrics;
use crate::store::TableName;
use crate::store::diagnostic::Diagnostic;

/// The range of an AUTO_INCREMENT column `mail_id`, and how much of it is used.
///
/// Two values are equal if their `id_usage_equality_key` is equal. A finding is therefore logged again for each further tenth
/// of the range, but not for every new id.
#[derive(Clone, Copy, Debug)]
pub struct MailIdRangeUsage {
    /// Largest id that the column's type holds.
    largest: u64,
    used: u64,
    is_used_up: bool,
}

impl PartialEq for MailIdRangeUsage {
    fn eq(&self, other: &MailIdRangeUsage) -> bool {
        self.id_usage_equality_key() == other.id_usage_equality_key()
    }
}

impl Eq for MailIdRangeUsage {}

impl MailIdRangeUsage {
    /// Determines the used part from `largest` and from `next`, the table's AUTO_INCREMENT value.
    ///
    /// When all ids are used, MariaDB's counter is greater than the largest id. MySQL's counter stops at the largest id; the
    /// table's last row then shows whether that id is used.
    pub fn read(
        connection: &mut Conn,
        table: &TableName,
        largest: u64,
        next: Option<u64>,
    ) -> MailIdRangeUsage {
        // The server reports no AUTO_INCREMENT value before the first row is inserted.
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
        MailIdRangeUsage {
            largest,
            used: if is_used_up {
                largest
            } else {
                next.saturating_sub(1)
            },
            is_used_up,
        }
    }

    /// Updates how much of the range is used, after an INSERT of `rows` rows. `first` is the id of the first row; 0 if unknown.
    pub fn record_used_mail_ids(&mut self, first: u64, rows: usize) {
        if first > 0 {
            self.used = first.saturating_add(rows as u64 - 1);
            self.is_used_up = false;
        }
    }

    /// Returns a finding with its fix; `None` while less than half of the range is used.
    pub fn mail_id_shortage_finding(&self, table: &TableName) -> Option<Diagnostic> {
        let MailIdRangeUsage { used, largest, .. } = self;
        if self.is_used_up {
            return self.no_mail_ids_left_reason(table).map(Diagnostic::error);
        }
        (self.used_tenths_of_range() >= FIRST_REPORTED_TENTH).then(|| {
            Diagnostic::warning(format!(
                "GM_MAIL_TABLE: {} % of the ids of column `mail_id` of {table} are used ({used} of {largest}), and no mail \
                 can be saved once all are; run: {}",
                u128::from(*used) * 100 / u128::from(*largest).max(1),
                self.mail_id_alter_statement(table)
            ))
        })
    }

    /// Returns why no mail can be saved; `None` while ids are left.
    pub fn no_mail_ids_left_reason(&self, table: &TableName) -> Option<String> {
        self.is_used_up.then(|| {
            format!(
                "GM_MAIL_TABLE: column `mail_id` of {table} has no ids left, so no mail can be saved; run: {}",
                self.mail_id_alter_statement(table)
            )
        })
    }

    /// Returns whether at least two ids are left. A single remaining id cannot be detected on MySQL: the counter stays at the
    /// largest id, even if the transaction that used this id was rolled back.
    pub fn has_two_free_ids(&self) -> bool {
        self.used.saturating_add(1) < self.largest
    }

    fn mail_id_alter_statement(&self, table: &TableName) -> String {
        match self.largest {
            // No integer type is wider than `bigint unsigned`, so the fix gives new ids to all rows.
            u64::MAX => format!(
                "ALTER TABLE {table} DROP COLUMN `mail_id`, ADD COLUMN `mail_id` bigint unsigned NOT NULL \
                 AUTO_INCREMENT PRIMARY KEY FIRST"
            ),
            _ => widen_mail_id_statement(table),
        }
    }

    fn used_tenths_of_range(&self) -> u128 {
        u128::from(self.used) * 10 / u128::from(self.largest).max(1)
    }

    /// Returns the values that `==` compares: the largest id, the used tenths of the range of ids (0 below half), and whether
    /// all ids are used.
    fn id_usage_equality_key(&self) -> (u64, u128, bool) {
        let tenths =
            Some(self.used_tenths_of_range()).filter(|tenths| *tenths >= FIRST_REPORTED_TENTH);
        (self.largest, tenths.unwrap_or_default(), self.is_used_up)
    }

    /// Sets the metric `goguerrilla_mail_id_used_ratio`: the used share of the range of `mail_id`.
    pub fn update_metric(&self, metrics: &Metrics) {
        metrics.mail_id_used.set_ratio(self.used, self.largest);
    }
}

/// Returns the text of the AUTO_INCREMENT error `error` with the statement that fixes it. `ids` is the range of `mail_id` as
/// last read; `None` if `mail_id` is not an AUTO_INCREMENT column.
pub fn auto_increment_error_text(
    error: &mysql::Error,
    table: &TableName,
    ids: Option<&MailIdRangeUsage>,
) -> String {
    let words = error_words(error);
    let duplicate = match error {
        mysql::Error::MySqlError(error) => id_in_duplicate_entry_message(&error.message),
        _ => None,
    };
    // If the duplicate id is below 99 % of the range, ids are left, but the counter is below existing ids, for example after a
    // restore.
    if let (Some(duplicate), Some(ids)) = (duplicate, ids)
        && duplicate < ids.largest - ids.largest / 100
    {
        return format!(
            "GM_MAIL_TABLE: column `mail_id` of {table} has a counter below used ids: {words}; to set it after \
             the largest id, run: ALTER TABLE {table} AUTO_INCREMENT = 1"
        );
    }
    format!(
        "GM_MAIL_TABLE: column `mail_id` of {table} has no ids left: {words}; run: {}",
        ids.map_or_else(
            || widen_mail_id_statement(table),
            |ids| ids.mail_id_alter_statement(table)
        )
    )
}

fn widen_mail_id_statement(table: &TableName) -> String {
    format!("ALTER TABLE {table} MODIFY `mail_id` bigint unsigned NOT NULL AUTO_INCREMENT")
}

/// A finding is reported if at least this many tenths of the range of `mail_id` are used.
const FIRST_REPORTED_TENTH: u128 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_ids_are_reported_from_half_of_the_range_on() {
        let table = TableName::default();
        let ids = |used, largest, is_used_up| MailIdRangeUsage {
            largest,
            used,
            is_used_up,
        };
        let finding = |ids: MailIdRangeUsage| {
            ids.mail_id_shortage_finding(&table)
                .map(|finding| finding.to_string())
        };
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
    fn insert_updates_the_used_ids() {
        let mut ids = MailIdRangeUsage {
            largest: 127,
            used: 0,
            is_used_up: true,
        };
        ids.record_used_mail_ids(0, 5);
        assert_eq!((ids.used, ids.is_used_up), (0, true));
        ids.record_used_mail_ids(60, 5);
        assert_eq!((ids.used, ids.is_used_up), (64, false));
        assert!(ids.has_two_free_ids());
        ids.record_used_mail_ids(126, 1);
        assert!(!ids.has_two_free_ids(), "the last id may be used");
        ids.record_used_mail_ids(u64::MAX, 5);
        assert_eq!(ids.used, u64::MAX);
    }

    #[test]
    fn auto_increment_error_suggests_the_matching_fix() {
        let table = TableName::default();
        let duplicate = |id: &str| {
            mysql::Error::MySqlError(mysql::MySqlError {
                state: "23000".to_owned(),
                message: format!("Duplicate entry '{id}' for key 'PRIMARY'"),
                code: 1062,
            })
        };
        let ids = MailIdRangeUsage {
            largest: 127,
            used: 127,
            is_used_up: false,
        };
        let last = auto_increment_error_text(&duplicate("127"), &table, Some(&ids));
        assert!(last.contains("no ids left"), "{last}");
        assert!(last.ends_with("MODIFY `mail_id` bigint unsigned NOT NULL AUTO_INCREMENT"));
        let middle =
            auto_increment_error_text(&duplicate("12-2026-01-01 00:00:00"), &table, Some(&ids));
        assert!(middle.contains("AUTO_INCREMENT = 1"), "{middle}");
        let unknown = auto_increment_error_text(&duplicate("12"), &table, None);
        assert!(unknown.contains("no ids left"), "{unknown}");
    }
}
