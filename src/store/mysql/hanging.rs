//! COMMITs that hang: the server neither completes nor aborts them, because its disk is full, a replica does not acknowledge
//! them or its group has no quorum.
//!
//! Such a COMMIT remains on the server after its connection is closed. A further COMMIT on the same host would also hang, and
//! each retry of a sender would add a copy of the mail. Therefore nothing more is sent to this host until SHOW PROCESSLIST no
//! longer lists the COMMIT. Every account may see its own connections in that list.

use std::net::SocketAddr;
use std::sync::{Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, Row};

use super::connect_error::is_connection_refused;
use super::connection::ConnectedServer;
use super::connector::{Connector, SharedConnectorState};
use super::driver_panic::catch_panic;
use super::unknown_commit::UnknownCommit;
use crate::store::diagnostic::Diagnostic;
use crate::store::health::SLOW_REQUEST_AFTER;
use crate::sync::lock;

/// The COMMITs that are known to hang.
#[derive(Default)]
pub struct HangingCommits {
    state: Mutex<HangingCommitList>,
}

#[derive(Default)]
struct HangingCommitList {
    commits: Vec<HangingCommit>,
    /// Whether the thread that checks the COMMITs is running.
    is_watcher_running: bool,
}

struct HangingCommit {
    host: usize,
    address: Option<SocketAddr>,
    connection_id: u32,
    sent_at: Instant,
    reason: String,
}

/// A COMMIT in a server's process list.
struct ProcessListCommit {
    connection_id: u64,
    user: String,
    seconds: u64,
    state: String,
}

impl HangingCommits {
    /// Returns why nothing may be sent to a host; `None` if no COMMIT hangs there.
    pub fn commit_hang_reason(&self, host: usize) -> Option<String> {
        let state = lock(&self.state);
        let commit = state.commits.iter().find(|commit| commit.host == host)?;
        Some(format!(
            "{}, for {} s",
            commit.reason,
            commit.sent_at.elapsed().as_secs()
        ))
    }

    /// Returns why nothing may be sent to any host; `None` if at least one of the `hosts` hosts has no hanging COMMIT.
    pub fn reason_if_commit_hangs_on_all_hosts(&self, hosts: usize) -> Option<String> {
        let mut reasons = (0..hosts).map(|host| self.commit_hang_reason(host));
        let first = reasons.next()??;
        reasons.all(|reason| reason.is_some()).then_some(first)
    }
}

impl HangingCommit {
    fn was_commit_sent_on(&self, server: &ConnectedServer) -> bool {
        (self.host, self.address, self.connection_id)
            == (server.host, server.address, server.connection_id)
    }
}

/// If an unanswered COMMIT still hangs on its host, excludes the host from use until the COMMIT has ended.
pub fn exclude_host_if_commit_hangs(connector: &Connector, commit: &UnknownCommit) {
    // A COMMIT sent more recently may only be slow. The look-up of its rows then waits for the locks that the COMMIT holds.
    if commit.sent_at.elapsed() < HANG_THRESHOLD {
        return;
    }
    // If the host does not answer here, the later look-up of the COMMIT's rows cannot reach the host either, so the host need
    // not be excluded.
    if let Ok(Some(state)) = commit_state_in_process_list(connector, &commit.sent_to) {
        exclude_host_until_commit_ends(connector, commit, &state);
    }
}

/// Waits until no COMMIT hangs on a host.
///
/// # Errors
/// A COMMIT still hangs on the host at the time `until`. The error text describes the COMMIT.
pub fn wait_until_no_commit_hangs_on_host(
    connector: &Connector,
    host: usize,
    until: Instant,
) -> Result<(), String> {
    while let Some(reason) = connector.hanging_commits().commit_hang_reason(host) {
        if Instant::now() >= until {
            return Err(reason);
        }
        thread::sleep(POLL_INTERVAL / 2);
    }
    Ok(())
}

/// Returns the state of the COMMIT sent to `sent_to`, from SHOW PROCESSLIST; `None` if the list does not contain the COMMIT.
fn commit_state_in_process_list(
    connector: &Connector,
    sent_to: &ConnectedServer,
) -> mysql::Result<Option<String>> {
    let mut connection = connector.connect_with_short_timeouts(sent_to.host, sent_to.address)?;
    let commits = commits_in_process_list(connector, &mut connection)?;
    let id = u64::from(sent_to.connection_id);
    let commit = commits
        .into_iter()
        .find(|commit| commit.connection_id == id);
    Ok(commit.map(|commit| commit.state))
}

fn commits_in_process_list(
    connector: &Connector,
    connection: &mut Conn,
) -> mysql::Result<Vec<ProcessListCommit>> {
    let rows: Vec<Row> = catch_panic(connector.health().metrics(), || {
        connection.query("SHOW PROCESSLIST")
    })?;
    Ok(rows.iter().filter_map(commit_in_process_list_row).collect())
}

fn commit_in_process_list_row(row: &Row) -> Option<ProcessListCommit> {
    let text = |name: &str| row.get_opt::<Option<String>, _>(name)?.ok()?;
    let statement = text("Info")?;
    let statement = statement.trim().trim_end_matches(';');
    statement
        .eq_ignore_ascii_case("COMMIT")
        .then(|| ProcessListCommit {
            connection_id: parse_number(text("Id")),
            user: text("User").unwrap_or_default(),
            seconds: parse_number(text("Time")),
            state: text("State").unwrap_or_default(),
        })
}

fn parse_number(text: Option<String>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Excludes the host of a hanging COMMIT from use, and starts the thread that ends the exclusion after the COMMIT has ended.
fn exclude_host_until_commit_ends(
    connector: &Connector,
    commit: &UnknownCommit,
    listed_state: &str,
) {
    let UnknownCommit { sent_to, sent_at } = commit;
    let name = connector.hosts().host_as_configured(sent_to.host);
    let reason = format!("a COMMIT hangs on {name} (its state: {listed_state})");
    let commits = connector.hanging_commits();
    let mut state = lock(&commits.state);
    if state
        .commits
        .iter()
        .any(|commit| commit.was_commit_sent_on(sent_to))
    {
        return;
    }
    if !state.is_watcher_running {
        let shared = connector.downgrade();
        let builder = thread::Builder::new().name("mysql-commits".to_owned());
        if let Err(error) = builder.spawn(move || watch_hanging_commits(&shared)) {
            // Without this thread the exclusion of the host would never end, so the host is not excluded.
            log::error!(reason:% = error; "thread_start_failed");
            return;
        }
        state.is_watcher_running = true;
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

/// Checks the hanging COMMITs until none is left or the store is dropped.
fn watch_hanging_commits(connector: &Weak<SharedConnectorState>) {
    while let Some(connector) = connector
        .upgrade()
        .map(Connector::connector_from_shared_state)
    {
        let commits: Vec<ConnectedServer> = {
            let mut state = lock(&connector.hanging_commits().state);
            state.is_watcher_running = !state.commits.is_empty();
            state.commits.iter().map(ConnectedServer::from).collect()
        };
        if commits.is_empty() {
            return;
        }
        for commit in &commits {
            let has_ended = match commit_state_in_process_list(&connector, commit) {
                Ok(state) => state.is_none(),
                // A refused connection means that the server process and all its transactions have ended.
                Err(error) => is_connection_refused(&error),
            };
            if has_ended {
                remove_ended_commit(&connector, commit);
            }
        }
        update_health(&connector);
        drop(connector);
        thread::sleep(POLL_INTERVAL);
    }
}

fn remove_ended_commit(connector: &Connector, ended: &ConnectedServer) {
    let mut state = lock(&connector.hanging_commits().state);
    state
        .commits
        .retain(|commit| !commit.was_commit_sent_on(ended));
    drop(state);
    let name = connector.hosts().host_as_configured(ended.host);
    log::warn!(node = name, connection = ended.connection_id; "commit_hang_ended");
}

fn update_health(connector: &Connector) {
    let reason = connector
        .hanging_commits()
        .reason_if_commit_hangs_on_all_hosts(connector.hosts().host_count());
    connector.health().set_stalled_reason(reason);
}

impl From<&HangingCommit> for ConnectedServer {
    fn from(commit: &HangingCommit) -> ConnectedServer {
        ConnectedServer {
            host: commit.host,
            address: commit.address,
            connection_id: commit.connection_id,
            galera: None,
            group: None,
        }
    }
}

/// Returns findings for `goguerrilla check`: one for each host on which a COMMIT hangs.
pub fn hanging_commit_findings(connector: &Connector) -> Vec<Diagnostic> {
    let count = connector.hosts().host_count();
    let hanging: Vec<(usize, ProcessListCommit)> = (0..count)
        .filter_map(|host| Some((host, oldest_hanging_commit_on_host(connector, host)?)))
        .collect();
    let is_everywhere = hanging.len() == count;
    let finding = |(host, commit): (usize, ProcessListCommit)| {
        let name = connector.hosts().host_as_configured(host);
        let text = format!(
            "MYSQL_HOST: a COMMIT of MYSQL_USER has been hanging on {name} for {} s (connection {}, state: {}), so no mail \
             is sent there until it ends; see whether the disk of {name} is full, its semi-synchronous replicas are \
             unavailable or its group has lost its quorum, and repair that",
            commit.seconds, commit.connection_id, commit.state
        );
        match is_everywhere {
            true => Diagnostic::error(text),
            false => Diagnostic::warning(text),
        }
    };
    hanging.into_iter().map(finding).collect()
}

fn oldest_hanging_commit_on_host(connector: &Connector, host: usize) -> Option<ProcessListCommit> {
    // If the host cannot be reached, another finding reports that.
    let mut connection = connector.connect_with_short_timeouts(host, None).ok()?;
    let commits = commits_in_process_list(connector, &mut connection).ok()?;
    commits
        .into_iter()
        .filter(|commit| commit.user == connector.mysql_user_name())
        .filter(|commit| commit.seconds >= HANG_THRESHOLD.as_secs())
        .max_by_key(|commit| commit.seconds)
}

/// A COMMIT of at least this age counts as hanging. A shorter limit would count COMMITs that are only delayed, because a Galera
/// cluster that loses a node stops for about this time.
const HANG_THRESHOLD: Duration = SLOW_REQUEST_AFTER;
/// Interval between two checks whether the hanging COMMITs have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
