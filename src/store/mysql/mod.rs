//! Stores rows in MySQL or MariaDB, and bodies in Redis if Redis is configured.
//!
//! Each batch is one transaction. The class of an error decides whether the batch is retried, split or refused. If the answer
//! to a COMMIT does not arrive, the rows are looked up by their hashes before anything is sent again: a mail is stored once or
//! gets 451, and never gets 250 while the outcome is unknown.

pub(crate) mod auto_increment;
mod backoff;
mod batch_failure;
mod batch_part;
mod binary_log;
mod body_store;
mod call_timeout;
mod connect_error;
pub(crate) mod connect_failure;
mod connect_options;
pub(crate) mod connection;
mod connector;
mod driver_connection;
pub(crate) mod driver_panic;
pub(crate) mod error;
mod error_text;
pub(crate) mod galera;
pub(crate) mod hanging;
pub(crate) mod host_state;
pub mod hosts;
pub(crate) mod insert;
mod named_connection;
mod number;
pub mod pool;
pub mod probe;
mod reader;
mod settings;
pub(crate) mod table_info;
pub(crate) mod table_warnings;
mod tls;
pub(crate) mod unfilled_column;
pub(crate) mod unknown_commit;
mod writer_connection;

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
    /// Time at which the current batch fails if it is not saved yet.
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
        self.deadline = Instant::now() + BATCH_TIMEOUT;
        let pending_bodies = self.bodies.begin_body_write(batch);
        // Inserts the rows while Redis stores the bodies; if Redis fails, the INSERTs are rolled back and run again.
        let mut inserted =
            (pending_bodies.as_ref()).map(|_| self.insert_batch_part(batch, &BodiesInRedis::Redis));
        let metrics = self.connector.health().metrics();
        let bodies_in = (self.bodies).finish_body_write(batch, pending_bodies.as_ref(), metrics);
        if !matches!(bodies_in, BodiesInRedis::Redis)
            && let Some(Ok(mut connection)) = inserted.take()
        {
            connection.roll_back();
            self.connection = Some(connection).filter(|connection| !connection.broken);
        }
        let outcomes = save_bisecting(batch, &mut |part| {
            self.commit_batch_part(part, &bodies_in, inserted.take())
        });
        // Returns the connection to the pool, which replaces a broken one.
        self.connection = None;
        outcomes
    }
}

/// Maximum time for a batch, including all retries; after this time its clients get 451.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
