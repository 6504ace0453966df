//! A failed attempt to save part of a batch, and the end of its transaction.

use super::MySqlStore;
use super::error::ErrorClass;
use super::pool::PooledDbConnection;
use super::unknown_commit::{UnknownCommit, is_certainly_rolled_back};

/// A failed attempt to save part of a batch.
pub struct BatchFailure {
    /// What the error means for the batch.
    pub class: ErrorClass,
    /// The error as text for the log.
    pub text: String,
    /// The COMMIT whose outcome is unknown; `None` if no COMMIT was sent or it was certainly rolled back.
    pub unknown_commit: Option<Box<UnknownCommit>>,
}

impl BatchFailure {
    /// Returns the failure of a batch that got no connection.
    pub fn unreachable(text: &str) -> BatchFailure {
        BatchFailure {
            class: ErrorClass::ConnectionLost,
            text: format!("the database cannot be reached: {text}"),
            unknown_commit: None,
        }
    }

    /// Returns the failure of a batch whose deadline has passed.
    pub fn deadline_passed() -> BatchFailure {
        BatchFailure {
            class: ErrorClass::ConnectionLost,
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
        let class = ErrorClass::classify(error);
        match class {
            ErrorClass::Schema => {
                let connector = &self.connector;
                let _ = connection.with_timeout(|conn| {
                    connector.refresh_table_info(conn);
                    Ok(())
                });
                connection.broken = true;
            }
            ErrorClass::Busy | ErrorClass::ValueOutOfRange => connection.broken = true,
            ErrorClass::ReadOnly => {
                let hosts = self.connector.hosts();
                hosts.mark_standby(connection.server.host, &error.to_string());
                connection.broken = true;
            }
            // The host is marked as down even if it answered a moment ago, because another host may save the batch sooner.
            ErrorClass::ConnectionLost | ErrorClass::NotReady => {
                let hosts = self.connector.hosts();
                hosts.mark_down(connection.server.host, &error.to_string());
                connection.broken = true;
            }
            // While the outcome of the COMMIT is unknown, it is also unknown whether the connection still has an open
            // transaction.
            _ if commit.is_some() && !is_certainly_rolled_back(error) => connection.broken = true,
            ErrorClass::Retry | ErrorClass::Full | ErrorClass::NoMemory | ErrorClass::Mail => {
                connection.roll_back();
            }
            ErrorClass::IdsUsedUp => connection.roll_back(),
        }
        BatchFailure {
            class,
            text: match class {
                ErrorClass::IdsUsedUp => self
                    .connector
                    .report_ids_used_up(error, &connection.table_info),
                ErrorClass::Schema => format!(
                    "{error}; `goguerrilla check` names the fix, `goguerrilla schema` prints the table"
                ),
                _ => error.to_string(),
            },
            unknown_commit: commit.filter(|_| !is_certainly_rolled_back(error)),
        }
    }
}
