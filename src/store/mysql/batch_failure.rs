//! A failed attempt to save part of a batch, and the end of its transaction.

use super::MySqlStore;
use super::error::MySqlErrorClass;
use super::error_text::{error_text, error_words};
use super::pool::PooledDbConnection;
use super::unknown_commit::UnknownCommit;

/// A failed attempt to save part of a batch.
pub struct BatchFailure {
    /// What the error means for the batch.
    pub class: MySqlErrorClass,
    /// The error as text for the log.
    pub text: String,
    /// The COMMIT whose outcome is unknown; `None` if no COMMIT was sent or it was certainly rolled back.
    pub unknown_commit: Option<Box<UnknownCommit>>,
}

impl BatchFailure {
    /// Returns the failure of a batch that got no connection.
    pub fn database_unreachable_failure(text: &str) -> BatchFailure {
        BatchFailure {
            class: MySqlErrorClass::ConnectionLost,
            text: format!("the database cannot be reached: {text}"),
            unknown_commit: None,
        }
    }

    /// Returns the failure of a batch whose deadline has passed.
    pub fn batch_deadline_failure() -> BatchFailure {
        BatchFailure {
            class: MySqlErrorClass::ConnectionLost,
            text: "the database took too long".to_owned(),
            unknown_commit: None,
        }
    }
}

impl MySqlStore {
    /// Ends a transaction that failed with `error`: rolls it back or marks `connection` as broken, so that no part of the
    /// transaction remains. Also updates the state of the host. `commit` is the COMMIT that failed; `None` if another statement
    /// failed.
    pub(super) fn roll_back_or_break_connection(
        &mut self,
        mut connection: PooledDbConnection,
        error: &mysql::Error,
        commit: Option<Box<UnknownCommit>>,
    ) -> BatchFailure {
        let class = MySqlErrorClass::classify_mysql_error(error);
        let unknown_commit = commit.filter(|commit| !commit.is_certainly_rolled_back(error));
        match class {
            MySqlErrorClass::Schema => {
                let connector = &self.connector;
                let _ = connection.call_driver_with_timeout(|conn| {
                    connector.refresh_table_info(conn);
                    Ok(())
                });
                connection.broken = true;
            }
            MySqlErrorClass::Busy | MySqlErrorClass::ValueOutOfRange => connection.broken = true,
            MySqlErrorClass::ReadOnly => {
                let hosts = self.connector.hosts();
                hosts.mark_standby(connection.server.host, &error.to_string());
                connection.broken = true;
            }
            // The host is marked as down even if it answered a moment ago, because another host may save the batch sooner.
            MySqlErrorClass::ConnectionLost | MySqlErrorClass::NotReady => {
                let hosts = self.connector.hosts();
                hosts.mark_down(connection.server.host, &error_text(error));
                connection.broken = true;
            }
            // While the outcome of the COMMIT is unknown, it is also unknown whether the connection still has an open
            // transaction.
            _ if unknown_commit.is_some() => connection.broken = true,
            MySqlErrorClass::Retry
            | MySqlErrorClass::Full
            | MySqlErrorClass::NoMemory
            | MySqlErrorClass::Mail
            | MySqlErrorClass::TooLarge => {
                connection.roll_back();
            }
            MySqlErrorClass::IdsUsedUp => connection.roll_back(),
        }
        BatchFailure {
            class,
            text: match class {
                MySqlErrorClass::IdsUsedUp => self
                    .connector
                    .mark_store_out_of_mail_ids(error, &connection.table_info),
                MySqlErrorClass::Schema => format!(
                    "{error}; `goguerrilla check` names the fix, `goguerrilla schema` prints the table"
                ),
                MySqlErrorClass::TooLarge => error_words(error),
                _ => error_text(error),
            },
            unknown_commit,
        }
    }
}
