//! Rows in MySQL or MariaDB, bodies in Redis where there is one.
//!
//! One transaction per batch; what every error means decides what comes next. A COMMIT whose answer did not
//! arrive is looked up by the rows' hashes before anything is sent again: stored once, or 451, never 250 on doubt.

mod binary_log;
mod calls;
pub mod check;
mod connector;
mod error;
mod error_text;
mod facts;
mod guard;
mod hanging;
mod insert;
mod link;
mod mail_ids;
mod member;
pub mod nodes;
mod number;
pub mod pool;
pub mod probe;
mod reader;
mod settings;
mod table_warnings;
mod unknown_commit;

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use r2d2::Pool;

pub use facts::Facts;
pub use reader::MySqlReader;

use self::error::{Meaning, is_certainly_undone};
use self::insert::insert_rows;
use self::pool::{Connector, PooledLink};
use self::unknown_commit::UnknownCommit;
use super::redis::cluster::ClusterBodies;
use super::redis::{HandedOver, Placed, RedisBodies};
use super::split::{PartError, save_split};
use super::{SaveError, SaveMail, SavedId};
use crate::mail::Mail;
use crate::metrics::{self, Body};

/// The store of one writer.
pub struct MySqlStore {
    connector: Connector,
    pool: Pool<Connector>,
    bodies: BodyStore,
    link: Option<PooledLink>,
    /// When the batch in hand has to be settled, one way or the other.
    deadline: Instant,
}

/// Where bodies go.
pub enum BodyStore {
    /// Into their rows.
    Table,
    /// To one Redis.
    Redis(RedisBodies),
    /// To a Redis Cluster.
    Cluster(ClusterBodies),
}

impl BodyStore {
    /// Gives the bodies of a batch to a Redis, if there is one and it is well; [`settle`](BodyStore::settle) waits for it.
    fn hand_over(&mut self, batch: &[Mail]) -> Option<HandedOver> {
        match self {
            BodyStore::Redis(bodies) => bodies.hand_over(batch),
            BodyStore::Table | BodyStore::Cluster(_) => None,
        }
    }

    /// Where the bodies of a batch are.
    fn settle(&mut self, batch: &[Mail], handed: Option<&HandedOver>) -> Placed {
        let are_stored = match self {
            // The nodes that take theirs are known only now.
            BodyStore::Cluster(bodies) => return bodies.store(batch),
            BodyStore::Redis(bodies) => handed.is_some_and(|one| bodies.are_stored(one)),
            BodyStore::Table => return Placed::Table,
        };
        let count = batch.iter().map(|mail| mail.deliveries().len()).sum();
        let (body, placed) = match are_stored {
            true => (Body::Redis, Placed::Redis),
            false => (Body::Table, Placed::Table),
        };
        metrics::BODIES.add(body, count);
        placed
    }
}

/// An error of the database, sorted, and where it happened.
struct Failure {
    meaning: Meaning,
    text: String,
    /// The COMMIT was sent: whether it was carried out is not known.
    unknown: Option<Box<UnknownCommit>>,
}

/// How long to wait for a connection.
#[derive(Clone, Copy)]
enum Patience {
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
            link: None,
            deadline: Instant::now(),
        }
    }

    /// Commits all of `part` or nothing, trying again as long as its clients may wait; `inserted` is what the first try
    /// has come to so far.
    fn save_part(
        &mut self,
        part: &[Mail],
        placed: &Placed,
        mut inserted: Option<Result<PooledLink, Failure>>,
    ) -> Result<(), PartError> {
        let mut pause = FIRST_PAUSE;
        let (mut misfits, mut read_only) = (0, 0);
        loop {
            if Instant::now() > self.deadline {
                // The clients of what is left of a batch that was split have heard 451, or are about to.
                let error = SaveError::Unavailable(too_late().text);
                return Err(PartError::Store(error));
            }
            let inserted = (inserted.take()).unwrap_or_else(|| self.insert_part(part, placed));
            let Err(failure) = inserted.and_then(|link| self.commit_part(link)) else {
                return Ok(());
            };
            if let Some(commit) = failure.unknown {
                return self.settle_unknown(part, placed, &commit);
            }
            let unavailable = SaveError::Unavailable(failure.text.clone());
            match failure.meaning {
                Meaning::Full => return Err(PartError::Store(SaveError::Full(failure.text))),
                Meaning::Schema | Meaning::IdsUsedUp => {
                    return Err(PartError::Store(unavailable));
                }
                Meaning::NoMemory => return Err(PartError::Content(SaveError::Full(failure.text))),
                Meaning::Content => {
                    return Err(PartError::Content(SaveError::Refused(failure.text)));
                }
                // The table may have changed since this connection read it, and since the idle ones did.
                Meaning::Misfit if misfits > self.pool.max_size() => {
                    return Err(PartError::Content(SaveError::Refused(failure.text)));
                }
                Meaning::Misfit => misfits += 1,
                Meaning::ReadOnly => {
                    read_only += 1;
                    if read_only >= self.connector.nodes().count() {
                        return Err(PartError::Store(unavailable));
                    }
                }
                Meaning::Gone | Meaning::TryAgain | Meaning::NotReady | Meaning::Busy => {}
            }
            let is_useless = self.connector.is_useless(failure.meaning == Meaning::Gone);
            if Instant::now() + pause > self.deadline || is_useless {
                return Err(PartError::Store(unavailable));
            }
            if failure.meaning != Meaning::Misfit {
                thread::sleep(jittered(pause));
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }

    /// Rows in a transaction that waits for its COMMIT.
    fn insert_part(&mut self, part: &[Mail], placed: &Placed) -> Result<PooledLink, Failure> {
        let mut link = self.begin(Patience::UntilDeadline)?;
        let table = self.connector.table();
        let known_ids = link.facts.mail_ids;
        match insert_rows(&mut link, table, part, placed, &HashSet::new()) {
            Ok(()) => {
                // In another tenth of their range: a new connection reads that, and all else that has changed, and it is logged.
                link.broken |= link.facts.mail_ids != known_ids;
                Ok(link)
            }
            Err(error) => Err(self.failed(link, &error, None)),
        }
    }

    fn commit_part(&mut self, mut link: PooledLink) -> Result<(), Failure> {
        if Instant::now() > self.deadline {
            // Its clients are about to hear 451: nothing may be stored behind their backs.
            link.rollback();
            return Err(too_late());
        }
        if let Some(reason) = self.connector.hanging().reason_at(link.server.host) {
            link.broken = true;
            return Err(gone(&reason));
        }
        let sent_at = Instant::now();
        if let Err(error) = link.commit() {
            let sent_to = link.server.clone();
            let commit = Box::new(UnknownCommit { sent_to, sent_at });
            return Err(self.failed(link, &error, Some(commit)));
        }
        self.link = Some(link);
        Ok(())
    }

    /// A connection with a transaction begun: the one made ready, or another one. One that went stale while idle is
    /// silently replaced.
    fn begin(&mut self, patience: Patience) -> Result<PooledLink, Failure> {
        let mut link = self.take_link(patience)?;
        let mut stale = 0;
        while !link.in_transaction {
            match link.begin() {
                Ok(()) => {}
                Err(error)
                    if stale <= self.pool.max_size()
                        && matches!(Meaning::of(&error), Meaning::Gone | Meaning::NotReady) =>
                {
                    if Meaning::of(&error) == Meaning::NotReady {
                        let nodes = self.connector.nodes();
                        nodes.leave(link.server.host, &error.to_string());
                    }
                    link.broken = true;
                    stale += 1;
                    drop(link);
                    link = self.take_link(patience)?;
                }
                Err(error) => return Err(self.failed(link, &error, None)),
            }
        }
        Ok(link)
    }

    fn take_link(&mut self, patience: Patience) -> Result<PooledLink, Failure> {
        if let Some(reason) = self.connector.why_stalled() {
            return Err(gone(&reason));
        }
        while let Some(link) = self.link.take().or_else(|| self.pool.try_get()) {
            // Dropped, it is replaced by one to a node that is well.
            if self.connector.may_use(link.server.host) {
                return Ok(link);
            }
        }
        let until = match patience {
            Patience::WhileNotDown => Instant::now() + LINK_PATIENCE,
            Patience::UntilDeadline => self.deadline.min(Instant::now() + LINK_PATIENCE),
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
                Patience::WhileNotDown => self.connector.why_down(),
                Patience::UntilDeadline => None,
            };
            // What refuses connections is known to be away.
            if let Some(reason) = reason.or_else(|| self.connector.why_refused()) {
                return Err(gone(&reason));
            }
            if left <= LINK_LOOK_EVERY {
                return Err(gone(&waited_for));
            }
        }
    }

    /// Leaves nothing of the transaction behind, and decides what becomes of the connection.
    fn failed(
        &mut self,
        mut link: PooledLink,
        error: &mysql::Error,
        commit: Option<Box<UnknownCommit>>,
    ) -> Failure {
        let meaning = Meaning::of(error);
        match meaning {
            Meaning::Schema => {
                let connector = &self.connector;
                let _ = link.call(|connection| {
                    connector.look_again(connection);
                    Ok(())
                });
                link.broken = true;
            }
            Meaning::Busy | Meaning::Misfit => link.broken = true,
            Meaning::ReadOnly => {
                let nodes = self.connector.nodes();
                nodes.stand_by(link.server.host, &error.to_string());
                link.broken = true;
            }
            // One that was there a moment ago may be too slow for this batch, and the next one is not.
            Meaning::Gone | Meaning::NotReady => {
                let nodes = self.connector.nodes();
                nodes.leave(link.server.host, &error.to_string());
                link.broken = true;
            }
            // After a COMMIT in doubt the connection may know nothing of the truth.
            _ if commit.is_some() && !is_certainly_undone(error) => link.broken = true,
            Meaning::TryAgain | Meaning::Full | Meaning::NoMemory | Meaning::Content => {
                link.rollback();
            }
            Meaning::IdsUsedUp => link.rollback(),
        }
        Failure {
            meaning,
            text: match meaning {
                Meaning::IdsUsedUp => self.connector.ids_used_up(error, &link.facts),
                Meaning::Schema => format!(
                    "{error}; `goguerrilla check` names the cure, `goguerrilla schema` prints the table"
                ),
                _ => error.to_string(),
            },
            unknown: commit.filter(|_| !is_certainly_undone(error)),
        }
    }
}

impl SaveMail for MySqlStore {
    fn ready(&mut self) -> Result<(), SaveError> {
        let link = self
            .begin(Patience::WhileNotDown)
            .map_err(|failure| match failure.meaning {
                Meaning::Full => SaveError::Full(failure.text),
                _ => SaveError::Unavailable(failure.text),
            })?;
        self.link = Some(link);
        Ok(())
    }

    fn stand_down(&mut self) {
        // In the middle of a transaction: the pool closes it and makes another one.
        self.link = None;
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let mut outcomes = self.save_batch(std::slice::from_ref(mail));
        outcomes
            .pop()
            .unwrap_or_else(|| Err(SaveError::Unavailable("no outcome".to_owned())))
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        self.deadline = Instant::now() + PATIENCE;
        let handed = self.bodies.hand_over(batch);
        // While Redis takes the bodies their rows are inserted, in the hope that it does.
        let mut inserted = (handed.as_ref()).map(|_| self.insert_part(batch, &Placed::Redis));
        let placed = self.bodies.settle(batch, handed.as_ref());
        if !matches!(placed, Placed::Redis)
            && let Some(Ok(mut link)) = inserted.take()
        {
            link.rollback();
            self.link = Some(link).filter(|link| !link.broken);
        }
        let outcomes = save_split(batch, &mut |part| {
            self.save_part(part, &placed, inserted.take())
        });
        // Back to the pool, which replaces it if it broke.
        self.link = None;
        outcomes
    }
}

fn gone(text: &str) -> Failure {
    Failure {
        meaning: Meaning::Gone,
        text: format!("the database cannot be reached: {text}"),
        unknown: None,
    }
}

fn too_late() -> Failure {
    Failure {
        meaning: Meaning::Gone,
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
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for a connection while the database is not known to be down.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look meanwhile whether it is.
const LINK_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between the first two tries; doubled for each one after.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between tries.
const LAST_PAUSE: Duration = Duration::from_secs(5);
