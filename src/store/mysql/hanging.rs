//! COMMITs that hang: the server neither carries them out nor gives them up, because its disk is full, a replica does not
//! acknowledge them or its group has no quorum.
//!
//! Such a COMMIT keeps its connection in the server after this side has closed it. Another COMMIT there would hang as
//! well, and each retry of a sender would add a copy of its mail. So nothing more is sent to that host until SHOW
//! PROCESSLIST, which shows an account its own connections without any right, no longer lists the COMMIT.

use std::net::SocketAddr;
use std::sync::{Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, Row};

use super::connect_error::is_refused;
use super::connection::Server;
use super::connector::{Connector, Shared};
use super::guard::guarded;
use super::unknown_commit::UnknownCommit;
use crate::store::diagnostic::Diagnostic;
use crate::store::health::ANSWER_EXPECTED;
use crate::sync::lock;

/// The COMMITs that hang, as far as is known.
#[derive(Default)]
pub struct HangingCommits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    commits: Vec<HangingCommit>,
    /// A thread looks whether they still hang.
    is_watched: bool,
}

struct HangingCommit {
    host: usize,
    address: Option<SocketAddr>,
    connection_id: u32,
    sent_at: Instant,
    reason: String,
}

/// A COMMIT in the list of a server's threads.
struct ListedCommit {
    connection_id: u64,
    user: String,
    seconds: u64,
    state: String,
}

impl HangingCommits {
    /// Returns why nothing may be sent to a host; `None` while no COMMIT hangs there.
    pub fn reason_at(&self, host: usize) -> Option<String> {
        let state = lock(&self.state);
        let commit = state.commits.iter().find(|commit| commit.host == host)?;
        Some(format!(
            "{}, for {} s",
            commit.reason,
            commit.sent_at.elapsed().as_secs()
        ))
    }

    /// Returns why nothing may be sent to any of `hosts` hosts.
    pub fn reason_everywhere(&self, hosts: usize) -> Option<String> {
        let mut reasons = (0..hosts).map(|host| self.reason_at(host));
        let first = reasons.next()??;
        reasons.all(|reason| reason.is_some()).then_some(first)
    }
}

impl HangingCommit {
    fn is_on_host(&self, server: &Server) -> bool {
        (self.host, self.address, self.connection_id)
            == (server.host, server.address, server.connection_id)
    }
}

/// Stops sending to the host of a COMMIT that was not answered, if the COMMIT hangs there.
pub fn record_if_hanging(connector: &Connector, commit: &UnknownCommit) {
    // A COMMIT that is merely slow is waited for by the look-up, which needs its locks.
    if commit.sent_at.elapsed() < HANGS_AFTER {
        return;
    }
    // A host that cannot be asked cannot be asked for the outcome either.
    if let Ok(Some(state)) = state_of(connector, &commit.sent_to) {
        note(connector, commit, &state);
    }
}

/// Waits until no COMMIT hangs on a host, `until` at most.
///
/// # Errors
/// The reason why nothing may be sent there.
pub fn wait_while_hanging(
    connector: &Connector,
    host: usize,
    until: Instant,
) -> Result<(), String> {
    while let Some(reason) = connector.hanging().reason_at(host) {
        if Instant::now() >= until {
            return Err(reason);
        }
        thread::sleep(LOOK_EVERY / 2);
    }
    Ok(())
}

/// Returns the state of a COMMIT that its server still lists.
fn state_of(connector: &Connector, sent_to: &Server) -> mysql::Result<Option<String>> {
    let mut connection = connector.connect_for_probe(sent_to.host, sent_to.address)?;
    let commits = listed_commits(&mut connection)?;
    let id = u64::from(sent_to.connection_id);
    let commit = commits.into_iter().find(|one| one.connection_id == id);
    Ok(commit.map(|commit| commit.state))
}

fn listed_commits(connection: &mut Conn) -> mysql::Result<Vec<ListedCommit>> {
    let rows: Vec<Row> = guarded(|| connection.query("SHOW PROCESSLIST"))?;
    Ok(rows.iter().filter_map(listed_commit).collect())
}

fn listed_commit(row: &Row) -> Option<ListedCommit> {
    let text = |name: &str| row.get_opt::<Option<String>, _>(name)?.ok()?;
    let statement = text("Info")?;
    let statement = statement.trim().trim_end_matches(';');
    statement
        .eq_ignore_ascii_case("COMMIT")
        .then(|| ListedCommit {
            connection_id: number(text("Id")),
            user: text("User").unwrap_or_default(),
            seconds: number(text("Time")),
            state: text("State").unwrap_or_default(),
        })
}

fn number(text: Option<String>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Stops sending to the host of a COMMIT that hangs, and starts the thread that ends this.
fn note(connector: &Connector, commit: &UnknownCommit, listed_state: &str) {
    let UnknownCommit { sent_to, sent_at } = commit;
    let name = connector.hosts().name(sent_to.host);
    let reason = format!("a COMMIT hangs on {name} (its state: {listed_state})");
    let commits = connector.hanging();
    let mut state = lock(&commits.state);
    if state
        .commits
        .iter()
        .any(|commit| commit.is_on_host(sent_to))
    {
        return;
    }
    if !state.is_watched {
        let watched = connector.downgrade();
        let builder = thread::Builder::new().name("mysql-commits".to_owned());
        if let Err(error) = builder.spawn(move || watch(&watched)) {
            // Without the thread the host would never be used again.
            log::error!(reason:% = error; "thread_start_failed");
            return;
        }
        state.is_watched = true;
    }
    state.commits.push(HangingCommit {
        host: sent_to.host,
        address: sent_to.address,
        connection_id: sent_to.connection_id,
        sent_at: *sent_at,
        reason: reason.clone(),
    });
    drop(state);
    log::error!(node = name, connection = sent_to.connection_id, state = listed_state; "commit_hangs");
    connector.hosts().mark_down(sent_to.host, &reason);
    update_health(connector);
}

/// Looks at the COMMITs that hang until there is none, or the store is no longer in use.
fn watch(connector: &Weak<Shared>) {
    while let Some(connector) = connector.upgrade().map(Connector::from_shared) {
        let commits: Vec<Server> = {
            let mut state = lock(&connector.hanging().state);
            state.is_watched = !state.commits.is_empty();
            state.commits.iter().map(Server::from).collect()
        };
        if commits.is_empty() {
            return;
        }
        for commit in &commits {
            let is_gone = match state_of(&connector, commit) {
                Ok(state) => state.is_none(),
                // The server has ended, and its transactions with it.
                Err(error) => is_refused(&error),
            };
            if is_gone {
                forget(&connector, commit);
            }
        }
        update_health(&connector);
        drop(connector);
        thread::sleep(LOOK_EVERY);
    }
}

fn forget(connector: &Connector, gone: &Server) {
    let mut state = lock(&connector.hanging().state);
    state.commits.retain(|commit| !commit.is_on_host(gone));
    drop(state);
    let name = connector.hosts().name(gone.host);
    log::warn!(node = name, connection = gone.connection_id; "commit_hang_ended");
}

fn update_health(connector: &Connector) {
    let reason = connector
        .hanging()
        .reason_everywhere(connector.hosts().count());
    connector.health().set_stalled(reason);
}

impl From<&HangingCommit> for Server {
    fn from(commit: &HangingCommit) -> Server {
        Server {
            host: commit.host,
            address: commit.address,
            connection_id: commit.connection_id,
            galera: None,
        }
    }
}

/// Returns what `check` says of COMMITs that hang on any host.
pub fn findings(connector: &Connector) -> Vec<Diagnostic> {
    let count = connector.hosts().count();
    let hanging: Vec<(usize, ListedCommit)> = (0..count)
        .filter_map(|host| Some((host, oldest_hanging(connector, host)?)))
        .collect();
    let is_everywhere = hanging.len() == count;
    let finding = |(host, commit): (usize, ListedCommit)| {
        let name = connector.hosts().name(host);
        let text = format!(
            "MYSQL_HOST: a COMMIT of MYSQL_USER has been hanging on {name} for {} s (connection {}, state: {}), so no mail \
             is sent there until it ends; look whether the disk of {name} is full, its semi-synchronous replicas are \
             away or its group has lost its quorum, and mend that",
            commit.seconds, commit.connection_id, commit.state
        );
        match is_everywhere {
            true => Diagnostic::error(text),
            false => Diagnostic::warning(text),
        }
    };
    hanging.into_iter().map(finding).collect()
}

fn oldest_hanging(connector: &Connector, host: usize) -> Option<ListedCommit> {
    // A host that cannot be reached is another finding.
    let mut connection = connector.connect_for_probe(host, None).ok()?;
    let commits = listed_commits(&mut connection).ok()?;
    commits
        .into_iter()
        .filter(|commit| commit.user == connector.user())
        .filter(|commit| commit.seconds >= HANGS_AFTER.as_secs())
        .max_by_key(|commit| commit.seconds)
}

/// A COMMIT that takes longer hangs. A Galera cluster stands still for as long when it loses a node.
const HANGS_AFTER: Duration = ANSWER_EXPECTED;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
