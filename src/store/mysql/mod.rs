//! Stores rows in MySQL or MariaDB, and bodies in Redis if Redis is configured.
//!
//! Each batch is one transaction. The class of an error decides whether the batch is retried, split or refused. If the answer
//! to a COMMIT does not arrive, the rows are looked up by their hashes before anything is sent again: a mail is stored once or
//! gets 451, and never gets 250 while the outcome is unknown.
//!
//! All waits of a mail, besides those of a COMMIT in doubt, which `unknown_commit` lists:
//!
//! ```text
//! wait                                              longest time
//! the store is unavailable                          GM_HOLD_SECONDS from the end of the mail (`queue::hold`); 0 s if that is 0
//! in the queue of a store that is available         30 s (`MAX_QUEUE_TIME`); until its outcome 32 s more
//!                                                   (`MAX_TIME_AFTER_CLAIM`)
//! a connection from the pool, before the mails of   0.9 s, with several hosts 5 s (`CONNECTION_TIMEOUT`,
//! the batch are taken from the queue                `CONNECTION_TIMEOUT_OF_SEVERAL_HOSTS`); ends at once if the store is down
//! retries of a batch after a lock or a deadlock     1 s (`SHORT_RETRY_TIME`), then GM_HOLD_SECONDS; 5 s if that is 0
//! retries of a batch after a lost connection        1 s (`SHORT_RETRY_TIME`), with several hosts 5 s or until each had
//!                                                   one attempt; ends at once if every host refuses connections
//! the batch until its COMMIT is sent                20 s (`BATCH_TIMEOUT`)
//! one statement, also a COMMIT                      10 s (`CALL_TIMEOUT`); with several hosts about 3 s if the host does not
//!                                                   answer its check either, 1 s to 1.5 s if another host has become
//!                                                   the primary (`probe`)
//! a lock of a row or of the table                   1 s, then the batch is retried (`SESSION_SETTINGS`)
//! pause between two attempts to save                0.05 s to 1 s (`MIN_RETRY_PAUSE`, `MAX_RETRY_PAUSE` of `backoff`); between
//!                                                   two attempts of the queue 0.05 s to 0.25 s
//! pause between two attempts to connect             1 s (`MAX_RETRY_PAUSE` of `pool`)
//! Redis                                             0.2 s per batch
//! ```

pub(crate) mod auto_increment;
mod backoff;
mod batch_failure;
mod batch_part;
mod binary_log;
mod body_store;
mod call_timeout;
mod commit_lookup_server;
mod connect_error;
pub(crate) mod connect_failure;
mod connect_options;
pub(crate) mod connection;
mod connector;
mod driver_connection;
pub(crate) mod driver_panic;
pub(crate) mod error;
pub(crate) mod error_text;
pub(crate) mod galera;
pub(crate) mod group_replication;
pub(crate) mod hanging;
pub(crate) mod host_state;
pub mod hosts;
pub(crate) mod insert;
mod named_connection;
mod number;
pub mod pool;
pub mod probe;
mod reader;
pub mod recipients;
mod settings;
pub(crate) mod table_info;
pub(crate) mod table_warnings;
mod tls;
mod transaction_size;
pub(crate) mod unfilled_column;
pub(crate) mod unknown_commit;
mod writer_connection;

use std::sync::Arc;
use std::time::{Duration, Instant};

use r2d2::Pool;

pub use body_store::BodyStore;
pub use reader::MySqlReader;
pub use table_info::TableInfo;

use self::error::MySqlErrorClass;
use self::pool::{Connector, PooledDbConnection};
use self::writer_connection::ConnectionWaitLimit;
use super::redis::BodiesInRedis;
use super::{SaveError, SaveMail, SavedId};
use crate::mail::Mail;
use crate::store::queue::bisect::save_bisecting;

/// The MySQL store of one writer thread.
pub struct MySqlStore {
    connector: Connector,
    pool: Pool<Connector>,
    bodies: BodyStore,
    connection: Option<PooledDbConnection>,
    /// Time at which the current batch began.
    began_at: Instant,
    /// Time after which no COMMIT of the current batch is sent, and its look-up ends.
    deadline: Instant,
}

impl MySqlStore {
    /// Creates a store. All writers share `pool`. The store does not connect yet.
    pub fn new(connector: Connector, pool: Pool<Connector>, bodies: BodyStore) -> MySqlStore {
        MySqlStore {
            connector,
            pool,
            bodies,
            connection: None,
            began_at: Instant::now(),
            deadline: Instant::now(),
        }
    }
}

impl SaveMail for MySqlStore {
    fn prepare_batch(&mut self) -> Result<(), SaveError> {
        let connection = self
            .begin_transaction(ConnectionWaitLimit::WhileNotDown)
            .map_err(|failure| match failure.class {
                MySqlErrorClass::Full => SaveError::full(failure.text),
                _ => SaveError::unavailable(failure.text),
            })?;
        self.connection = Some(connection);
        Ok(())
    }

    fn cancel_batch(&mut self) {
        // This connection still has an open transaction. The pool therefore closes it and opens another one.
        self.connection = None;
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let mut outcomes = self.save_batch(std::slice::from_ref(mail));
        outcomes
            .pop()
            .unwrap_or_else(|| Err(SaveError::unavailable("no outcome")))
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        self.began_at = Instant::now();
        self.deadline = self.began_at + BATCH_TIMEOUT;
        let pending_bodies = self.bodies.begin_body_write(batch);
        // Inserts the rows while Redis stores the bodies; if Redis fails, the INSERTs are rolled back and run again.
        let mut inserted =
            (pending_bodies.as_ref()).map(|_| self.insert_batch_part(batch, &BodiesInRedis::Redis));
        let bodies_in = (self.bodies).finish_body_write(batch, pending_bodies.as_ref());
        if !matches!(bodies_in, BodiesInRedis::Redis)
            && let Some(Ok(mut connection)) = inserted.take()
        {
            connection.roll_back();
            self.connection = Some(connection).filter(|connection| !connection.broken);
        }
        let bodies_in = Arc::new(bodies_in);
        let outcomes = save_bisecting(batch, &mut |part| {
            self.commit_batch_part(part, &bodies_in, inserted.take())
        });
        // Returns the connection to the pool, which replaces a broken one.
        self.connection = None;
        let saved = std::iter::zip(batch, &outcomes).filter(|(_, outcome)| outcome.is_ok());
        bodies_in.count_saved_bodies(
            saved.map(|(mail, _)| mail),
            self.connector.health().metrics(),
        );
        outcomes
    }
}

/// Maximum time from the start of a batch until its COMMIT is sent, or until the look-up of an unanswered COMMIT ends; after
/// this time its clients get 451.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
