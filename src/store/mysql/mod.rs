//! Rows in MySQL or MariaDB, bodies in Redis where there is one.
//!
//! One transaction per batch; what every error means decides what comes next. A COMMIT whose answer did not
//! arrive is looked up by the rows' hashes before anything is sent again: stored once, or 451, never 250 on doubt.

mod binary_log;
mod call_timeout;
pub(crate) mod connection;
mod connector;
pub(crate) mod error;
mod error_text;
pub(crate) mod galera;
pub(crate) mod guard;
pub(crate) mod hanging;
pub mod hosts;
pub(crate) mod insert;
pub(crate) mod mail_ids;
mod number;
pub mod pool;
pub mod probe;
mod reader;
mod settings;
pub(crate) mod table_info;
pub(crate) mod table_warnings;
pub(crate) mod unfilled_column;
pub(crate) mod unknown_commit;

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use r2d2::Pool;

pub use reader::MySqlReader;
pub use table_info::TableInfo;

use self::error::{ErrorClass, is_certainly_rolled_back};
use self::insert::insert_rows;
use self::pool::{Connector, PooledDbConnection};
use self::unknown_commit::UnknownCommit;
use super::redis::cluster::ClusterBodyWriter;
use super::redis::{BodiesIn, BodyWriter, PendingStore};
use super::{SaveError, SaveMail, SavedId};
use crate::mail::Mail;
use crate::metrics::{self, BodyLocation};
use crate::store::queue::bisect::{BatchError, save_bisecting};

/// The store of one writer.
pub struct MySqlStore {
    connector: Connector,
    pool: Pool<Connector>,
    bodies: BodyStore,
    connection: Option<PooledDbConnection>,
    /// When the batch in hand has to be settled, one way or the other.
    deadline: Instant,
}

/// Where bodies go.
pub enum BodyStore {
    /// Into their rows.
    Table,
    /// To one Redis.
    Redis(BodyWriter),
    /// To a Redis Cluster.
    Cluster(ClusterBodyWriter),
}

impl BodyStore {
    /// Gives the bodies of a batch to a Redis, if there is one and it is well; [`settle`](BodyStore::settle) waits for it.
    fn begin_bodies(&mut self, batch: &[Mail]) -> Option<PendingStore> {
        match self {
            BodyStore::Redis(bodies) => bodies.begin_store(batch),
            BodyStore::Table | BodyStore::Cluster(_) => None,
        }
    }

    /// Where the bodies of a batch are.
    fn finish_bodies(&mut self, batch: &[Mail], handed: Option<&PendingStore>) -> BodiesIn {
        let are_stored = match self {
            // The nodes that take theirs are known only now.
            BodyStore::Cluster(bodies) => return bodies.store(batch),
            BodyStore::Redis(bodies) => handed.is_some_and(|one| bodies.finish_store(one)),
            BodyStore::Table => return BodiesIn::Table,
        };
        let count = batch.iter().map(|mail| mail.recipients().len()).sum();
        let (body, placed) = match are_stored {
            true => (BodyLocation::Redis, BodiesIn::Redis),
            false => (BodyLocation::Table, BodiesIn::Table),
        };
        metrics::BODIES.add(body, count);
        placed
    }
}

/// An error of the database, sorted, and where it happened.
struct BatchFailure {
    class: ErrorClass,
    text: String,
    /// The COMMIT was sent: whether it was carried out is not known.
    unknown: Option<Box<UnknownCommit>>,
}

/// How long to wait for a connection.
#[derive(Clone, Copy)]
enum ConnectionWait {
    /// Not at all once the database is known to be down: nobody's mail is in our hands.
    WhileNotDown,
    /// As long as the batch in hand may take.
    UntilDeadline,
}

impl MySqlStore {
    /// A store over a pool that its writers share; reaches for nothing yet.
    pub fn new(connector: Connector, pool: Pool<Connector>, bodies: BodyStore) -> MySqlStore {
        MySqlStore {
            connector,
            pool,
            bodies,
            connection: None,
            deadline: Instant::now(),
        }
    }

    /// Commits all of `part` or nothing, trying again as long as its clients may wait; `inserted` is what the first try
    /// has come to so far.
    fn save_part(
        &mut self,
        part: &[Mail],
        placed: &BodiesIn,
        mut inserted: Option<Result<PooledDbConnection, BatchFailure>>,
    ) -> Result<(), BatchError> {
        let mut pause = MIN_RETRY_PAUSE;
        let (mut misfits, mut read_only) = (0, 0);
        loop {
            if Instant::now() > self.deadline {
                // The clients of what is left of a batch that was split have heard 451, or are about to.
                let error = SaveError::Unavailable(deadline_passed().text);
                return Err(BatchError::Store(error));
            }
            let inserted = (inserted.take()).unwrap_or_else(|| self.insert_part(part, placed));
            let Err(failure) = inserted.and_then(|link| self.commit_part(link)) else {
                return Ok(());
            };
            if let Some(commit) = failure.unknown {
                return self.resolve_unknown_commit(part, placed, &commit);
            }
            let unavailable = SaveError::Unavailable(failure.text.clone());
            match failure.class {
                ErrorClass::Full => return Err(BatchError::Store(SaveError::Full(failure.text))),
                ErrorClass::Schema | ErrorClass::IdsUsedUp => {
                    return Err(BatchError::Store(unavailable));
                }
                ErrorClass::NoMemory => {
                    return Err(BatchError::Mail(SaveError::Full(failure.text)));
                }
                ErrorClass::Mail => {
                    return Err(BatchError::Mail(SaveError::Refused(failure.text)));
                }
                // The table may have changed since this connection read it, and since the idle ones did.
                ErrorClass::ValueOutOfRange if misfits > self.pool.max_size() => {
                    return Err(BatchError::Mail(SaveError::Refused(failure.text)));
                }
                ErrorClass::ValueOutOfRange => misfits += 1,
                ErrorClass::ReadOnly => {
                    read_only += 1;
                    if read_only >= self.connector.hosts().count() {
                        return Err(BatchError::Store(unavailable));
                    }
                }
                ErrorClass::ConnectionLost
                | ErrorClass::Retry
                | ErrorClass::NotReady
                | ErrorClass::Busy => {}
            }
            let is_useless = self
                .connector
                .is_useless(failure.class == ErrorClass::ConnectionLost);
            if Instant::now() + pause > self.deadline || is_useless {
                return Err(BatchError::Store(unavailable));
            }
            if failure.class != ErrorClass::ValueOutOfRange {
                thread::sleep(jittered(pause));
                pause = (pause * 2).min(MAX_RETRY_PAUSE);
            }
        }
    }

    /// Rows in a transaction that waits for its COMMIT.
    fn insert_part(
        &mut self,
        part: &[Mail],
        placed: &BodiesIn,
    ) -> Result<PooledDbConnection, BatchFailure> {
        let mut link = self.begin(ConnectionWait::UntilDeadline)?;
        let table = self.connector.table();
        let known_ids = link.facts.mail_ids;
        match insert_rows(&mut link, table, part, placed, &HashSet::new()) {
            Ok(()) => {
                // In another tenth of their range: a new connection reads that, and all else that has changed, and it is logged.
                link.broken |= link.facts.mail_ids != known_ids;
                Ok(link)
            }
            Err(error) => Err(self.end_after_error(link, &error, None)),
        }
    }

    fn commit_part(&mut self, mut link: PooledDbConnection) -> Result<(), BatchFailure> {
        if Instant::now() > self.deadline {
            // Its clients are about to hear 451: nothing may be stored behind their backs.
            link.rollback();
            return Err(deadline_passed());
        }
        if let Some(reason) = self.connector.hanging().reason_at(link.server.host) {
            link.broken = true;
            return Err(gone(&reason));
        }
        let sent_at = Instant::now();
        if let Err(error) = link.commit() {
            let sent_to = link.server.clone();
            let commit = Box::new(UnknownCommit { sent_to, sent_at });
            return Err(self.end_after_error(link, &error, Some(commit)));
        }
        self.connection = Some(link);
        Ok(())
    }

    /// A connection with a transaction begun: the one made ready, or another one. One that went stale while idle is
    /// silently replaced.
    fn begin(&mut self, patience: ConnectionWait) -> Result<PooledDbConnection, BatchFailure> {
        let mut link = self.take_connection(patience)?;
        let mut stale = 0;
        while !link.in_transaction {
            match link.begin() {
                Ok(()) => {}
                Err(error)
                    if stale <= self.pool.max_size()
                        && matches!(
                            ErrorClass::classify(&error),
                            ErrorClass::ConnectionLost | ErrorClass::NotReady
                        ) =>
                {
                    if ErrorClass::classify(&error) == ErrorClass::NotReady {
                        let nodes = self.connector.hosts();
                        nodes.mark_down(link.server.host, &error.to_string());
                    }
                    link.broken = true;
                    stale += 1;
                    drop(link);
                    link = self.take_connection(patience)?;
                }
                Err(error) => return Err(self.end_after_error(link, &error, None)),
            }
        }
        Ok(link)
    }

    fn take_connection(
        &mut self,
        patience: ConnectionWait,
    ) -> Result<PooledDbConnection, BatchFailure> {
        if let Some(reason) = self.connector.stall_reason() {
            return Err(gone(&reason));
        }
        while let Some(link) = self.connection.take().or_else(|| self.pool.try_get()) {
            // Dropped, it is replaced by one to a node that is well.
            if self.connector.may_use(link.server.host) {
                return Ok(link);
            }
        }
        let until = match patience {
            ConnectionWait::WhileNotDown => Instant::now() + CONNECTION_TIMEOUT,
            ConnectionWait::UntilDeadline => self.deadline.min(Instant::now() + CONNECTION_TIMEOUT),
        };
        let mut waited_for = String::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.pool.get_timeout(left.min(LINK_LOOK_EVERY)) {
                Ok(link) => return Ok(link),
                // The pool names its last error once, and later only that it took too long.
                Err(error) if error.to_string().len() > waited_for.len() => {
                    waited_for = error.to_string();
                }
                Err(_) => {}
            }
            let reason = match patience {
                ConnectionWait::WhileNotDown => self.connector.down_reason(),
                ConnectionWait::UntilDeadline => None,
            };
            // What refuses connections is known to be away.
            if let Some(reason) = reason.or_else(|| self.connector.refusal_reason()) {
                return Err(gone(&reason));
            }
            if left <= LINK_LOOK_EVERY {
                return Err(gone(&waited_for));
            }
        }
    }

    /// Leaves nothing of the transaction behind, and decides what becomes of the connection.
    fn end_after_error(
        &mut self,
        mut link: PooledDbConnection,
        error: &mysql::Error,
        commit: Option<Box<UnknownCommit>>,
    ) -> BatchFailure {
        let meaning = ErrorClass::classify(error);
        match meaning {
            ErrorClass::Schema => {
                let connector = &self.connector;
                let _ = link.with_timeout(|connection| {
                    connector.refresh_table_info(connection);
                    Ok(())
                });
                link.broken = true;
            }
            ErrorClass::Busy | ErrorClass::ValueOutOfRange => link.broken = true,
            ErrorClass::ReadOnly => {
                let nodes = self.connector.hosts();
                nodes.mark_standby(link.server.host, &error.to_string());
                link.broken = true;
            }
            // One that was there a moment ago may be too slow for this batch, and the next one is not.
            ErrorClass::ConnectionLost | ErrorClass::NotReady => {
                let nodes = self.connector.hosts();
                nodes.mark_down(link.server.host, &error.to_string());
                link.broken = true;
            }
            // After a COMMIT in doubt the connection may know nothing of the truth.
            _ if commit.is_some() && !is_certainly_rolled_back(error) => link.broken = true,
            ErrorClass::Retry | ErrorClass::Full | ErrorClass::NoMemory | ErrorClass::Mail => {
                link.rollback();
            }
            ErrorClass::IdsUsedUp => link.rollback(),
        }
        BatchFailure {
            class: meaning,
            text: match meaning {
                ErrorClass::IdsUsedUp => self.connector.ids_used_up(error, &link.facts),
                ErrorClass::Schema => format!(
                    "{error}; `goguerrilla check` names the cure, `goguerrilla schema` prints the table"
                ),
                _ => error.to_string(),
            },
            unknown: commit.filter(|_| !is_certainly_rolled_back(error)),
        }
    }
}

impl SaveMail for MySqlStore {
    fn prepare_batch(&mut self) -> Result<(), SaveError> {
        let link = self
            .begin(ConnectionWait::WhileNotDown)
            .map_err(|failure| match failure.class {
                ErrorClass::Full => SaveError::Full(failure.text),
                _ => SaveError::Unavailable(failure.text),
            })?;
        self.connection = Some(link);
        Ok(())
    }

    fn cancel_batch(&mut self) {
        // In the middle of a transaction: the pool closes it and makes another one.
        self.connection = None;
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let mut outcomes = self.save_batch(std::slice::from_ref(mail));
        outcomes
            .pop()
            .unwrap_or_else(|| Err(SaveError::Unavailable("no outcome".to_owned())))
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        self.deadline = Instant::now() + BATCH_TIMEOUT;
        let handed = self.bodies.begin_bodies(batch);
        // While Redis takes the bodies their rows are inserted, in the hope that it does.
        let mut inserted = (handed.as_ref()).map(|_| self.insert_part(batch, &BodiesIn::Redis));
        let placed = self.bodies.finish_bodies(batch, handed.as_ref());
        if !matches!(placed, BodiesIn::Redis)
            && let Some(Ok(mut link)) = inserted.take()
        {
            link.rollback();
            self.connection = Some(link).filter(|link| !link.broken);
        }
        let outcomes = save_bisecting(batch, &mut |part| {
            self.save_part(part, &placed, inserted.take())
        });
        // Back to the pool, which replaces it if it broke.
        self.connection = None;
        outcomes
    }
}

fn gone(text: &str) -> BatchFailure {
    BatchFailure {
        class: ErrorClass::ConnectionLost,
        text: format!("the database cannot be reached: {text}"),
        unknown: None,
    }
}

fn deadline_passed() -> BatchFailure {
    BatchFailure {
        class: ErrorClass::ConnectionLost,
        text: "the database took too long".to_owned(),
        unknown: None,
    }
}

/// Not all writers of all receivers shall come back in the same moment.
fn jittered(pause: Duration) -> Duration {
    let mut octet = [0];
    // Without random numbers the pause is merely the plain one.
    let _ = getrandom::fill(&mut octet);
    pause.mul_f64(0.75 + f64::from(octet[0]) / 512.0)
}

/// How long a batch is tried again and again before its clients hear 451.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait for a connection while the database is not known to be down.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to look meanwhile whether it is.
const LINK_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between the first two tries; doubled for each one after.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between tries.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
