//! The hosts of MYSQL_HOST: which hosts are used, and when a host is used again after a failure.
//!
//! ```text
//!   up ──(unreachable or not ready: writer or prober)──► down ──(healthy, minimum down time over: prober)──► up
//!   up ──(read-only: writer or prober)──► standby ──(writable, minimum down time over: prober)──► up
//! ```
//!
//! After each condition the text names who detects it. The prober is the thread that checks the host. A standby has a minimum
//! down time only if it was up shortly before, and this time begins when it becomes a standby, so a secondary that becomes the
//! primary is up at the next check, within a second. The minimum down time of a host that is down begins anew with each failed
//! check.
//!
//! The first host that is up is preferred. A standby is healthy but read-only, such as a secondary of a replication group.
//! Standbys are tried only if no host that is up can be used, and hosts that are down are tried last. Every host is tried, so a
//! wrong state alone never makes mail fail. If only one host is configured, no state is kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::store::{HostState, HostStatus};
use crate::sync;

/// The state of every host, in the order of MYSQL_HOST.
pub struct DatabaseHosts {
    names: Vec<String>,
    states: Mutex<Vec<HostAvailability>>,
    /// Whether one connection may be closed, so that the pool replaces it with a connection to the preferred host. The thread
    /// that checks the hosts sets this once per check, so connections move one at a time.
    failback_allowed: AtomicBool,
}

#[derive(Clone, Default)]
struct HostAvailability {
    down: Option<HostExclusion>,
    up_since: Option<Instant>,
    /// Minimum time that the host stays excluded. It doubles if the host fails again within [`FLAP_WINDOW`].
    min_down_time: Duration,
}

#[derive(Clone)]
struct HostExclusion {
    reason: String,
    until: Instant,
    kind: HostExclusionKind,
}

/// Why a host is excluded. If no usable host is left, excluded hosts are tried in the order of these variants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HostExclusionKind {
    /// The host is healthy but read-only.
    Standby,
    /// The host is unreachable or not ready.
    Unhealthy,
}

#[expect(
    clippy::indexing_slicing,
    reason = "a host is an index of `names` and `states`, which have the same length"
)]
impl DatabaseHosts {
    /// Creates the list of hosts; all of them are up. `names` are used in log lines and messages.
    pub fn new(names: Vec<String>) -> DatabaseHosts {
        let states = vec![HostAvailability::default(); names.len()];
        DatabaseHosts {
            names,
            states: Mutex::new(states),
            failback_allowed: AtomicBool::new(false),
        }
    }

    /// Returns the number of hosts.
    pub fn host_count(&self) -> usize {
        self.names.len()
    }

    /// Returns the host as it is written in MYSQL_HOST.
    pub fn host_as_configured(&self, host: usize) -> &str {
        &self.names[host]
    }

    /// Returns the hosts in the order in which to try them: first those that are up, then standbys, then those that are down.
    pub fn host_indexes_in_try_order(&self) -> Vec<usize> {
        let states = self.lock();
        let mut order: Vec<usize> = (0..states.len()).collect();
        order.sort_by_key(|host| states[*host].down.as_ref().map(|down| down.kind));
        order
    }

    /// Marks a host as down. The change is logged.
    pub fn mark_down(&self, host: usize, reason: &str) {
        if self.mark_host_excluded(host, reason, HostExclusionKind::Unhealthy) {
            log::error!(node = self.names[host].as_str(), reason = reason; "db_host_down");
        }
    }

    /// Marks a host as standby: healthy but read-only. The change is logged at level info.
    pub fn mark_standby(&self, host: usize, reason: &str) {
        if self.mark_host_excluded(host, reason, HostExclusionKind::Standby) {
            log::info!(node = self.names[host].as_str(), reason = reason; "node_standby");
        }
    }

    /// Records that a host is excluded, with `reason` and `kind`. Returns whether the host was up or excluded with another
    /// kind.
    fn mark_host_excluded(&self, host: usize, reason: &str, kind: HostExclusionKind) -> bool {
        if self.host_count() == 1 {
            return false;
        }
        let mut states = self.lock();
        let state = &mut states[host];
        let is_flapping = state.up_since.is_some_and(|at| at.elapsed() < FLAP_WINDOW);
        if state.down.is_none() {
            state.min_down_time = match is_flapping {
                true => (state.min_down_time * 2).clamp(MIN_DOWN_TIME, MAX_DOWN_TIME),
                false => MIN_DOWN_TIME,
            };
        }
        // Being a standby is no failure, so only a host that alternates between both states stays excluded for longer.
        let excluded_for = match kind {
            HostExclusionKind::Standby if !is_flapping => Duration::ZERO,
            _ => state.min_down_time,
        };
        let same_kind = state.down.as_ref().filter(|down| down.kind == kind);
        let standby_until = same_kind
            .filter(|_| kind == HostExclusionKind::Standby)
            .map(|down| down.until);
        let has_changed = same_kind.is_none();
        state.down = Some(HostExclusion {
            reason: reason.to_owned(),
            until: standby_until.unwrap_or_else(|| Instant::now() + excluded_for),
            kind,
        });
        has_changed
    }

    /// Marks a host as up if its minimum down time is over. To be called only if a check found the host healthy. The change is
    /// logged. Returns whether the host was a standby and is up now.
    pub fn mark_host_up(&self, host: usize) -> bool {
        let mut states = self.lock();
        let state = &mut states[host];
        let is_over = |down: &HostExclusion| Instant::now() >= down.until;
        let Some(down) = state.down.take_if(|down| is_over(down)) else {
            return false;
        };
        state.up_since = Some(Instant::now());
        drop(states);
        let name = self.names[host].as_str();
        match down.kind {
            HostExclusionKind::Standby => log::info!(node = name; "node_writable"),
            HostExclusionKind::Unhealthy => log::warn!(node = name; "db_host_up"),
        }
        down.kind == HostExclusionKind::Standby
    }

    /// Returns whether this host is down or a standby, and another host is up.
    pub fn is_excluded_while_another_is_up(&self, host: usize) -> bool {
        if self.host_count() == 1 {
            return false;
        }
        let states = self.lock();
        states[host].down.is_some() && states.iter().any(|state| state.down.is_none())
    }

    /// Returns whether a connection to this host must be closed so that a better host can be used.
    ///
    /// This is so while the host is excluded and another is up. A host that is not the preferred one also gives up one
    /// connection after each [`allow_one_failback`](DatabaseHosts::allow_one_failback).
    pub fn should_close_for_better_host(&self, host: usize) -> bool {
        if self.host_count() == 1 {
            return false;
        }
        if self.is_excluded_while_another_is_up(host) {
            return true;
        }
        let is_preferred = self.host_indexes_in_try_order().first() == Some(&host);
        !is_preferred && self.failback_allowed.swap(false, Ordering::Relaxed)
    }

    /// Permits one connection to move to the preferred host.
    pub fn allow_one_failback(&self) {
        self.failback_allowed.store(true, Ordering::Relaxed);
    }

    /// Returns why no host accepts mail; `None` if a host is up or only one host is configured.
    pub fn all_hosts_down_reason(&self) -> Option<String> {
        if self.host_count() == 1 {
            return None;
        }
        let states = self.lock();
        let reasons = states
            .iter()
            .map(|state| Some(&state.down.as_ref()?.reason));
        let reasons: Option<Vec<&String>> = reasons.collect();
        let first = reasons?.into_iter().next()?;
        Some(format!(
            "none of {} hosts takes mail; the first one: {first}",
            self.host_count()
        ))
    }

    /// Returns the state of each host for the status endpoints.
    pub fn status_of_all_hosts(&self) -> Vec<HostStatus> {
        let states = self.lock();
        let status = |(name, state): (&String, &HostAvailability)| HostStatus {
            name: name.clone(),
            state: match &state.down {
                None => HostState::Up,
                Some(down) if down.kind == HostExclusionKind::Standby => HostState::Standby,
                Some(_) => HostState::Down,
            },
            reason: state
                .down
                .as_ref()
                .map_or_else(String::new, |down| down.reason.clone()),
        };
        self.names.iter().zip(states.iter()).map(status).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HostAvailability>> {
        sync::lock(&self.states)
    }
}

/// Minimum time that a host is excluded after its first failure.
const MIN_DOWN_TIME: Duration = Duration::from_secs(1);
/// Largest value to which the minimum down time of a host is doubled.
const MAX_DOWN_TIME: Duration = Duration::from_secs(60);
/// If a host fails within this time after it was marked as up, its minimum down time is doubled.
const FLAP_WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> DatabaseHosts {
        DatabaseHosts::new((0..count).map(|host| host.to_string()).collect())
    }

    #[test]
    fn first_available_database_host_is_preferred() {
        let hosts = hosts(3);
        assert_eq!(hosts.host_indexes_in_try_order(), [0, 1, 2]);
        hosts.mark_down(0, "gone");
        assert_eq!(hosts.host_indexes_in_try_order(), [1, 2, 0]);
        assert!(
            hosts.is_excluded_while_another_is_up(0)
                && hosts.should_close_for_better_host(0)
                && !hosts.should_close_for_better_host(1)
        );
        assert_eq!(
            hosts.status_of_all_hosts()[0].to_string(),
            "node 0: left: gone"
        );
        hosts.mark_host_up(0);
        assert!(
            hosts.is_excluded_while_another_is_up(0),
            "its minimum down time is not over"
        );
        hosts.lock()[0].down.as_mut().unwrap().until = Instant::now();
        hosts.mark_host_up(0);
        assert_eq!(hosts.host_indexes_in_try_order(), [0, 1, 2]);
    }

    #[test]
    fn standby_host_is_tried_after_available_hosts_and_before_down_ones() {
        let hosts = hosts(3);
        hosts.mark_down(0, "gone");
        hosts.mark_standby(1, "read-only");
        assert_eq!(hosts.host_indexes_in_try_order(), [2, 1, 0]);
        assert_eq!(
            hosts.status_of_all_hosts()[1].to_string(),
            "node 1: standby: read-only"
        );
        hosts.lock()[1].down.as_mut().unwrap().until = Instant::now();
        hosts.mark_host_up(1);
        assert_eq!(
            hosts.host_indexes_in_try_order(),
            [1, 2, 0],
            "it is writable"
        );
    }

    #[test]
    fn minimum_down_time_of_a_standby_is_not_extended_by_later_checks() {
        let hosts = hosts(2);
        let until = |host: usize| hosts.lock()[host].down.as_ref().unwrap().until;
        hosts.mark_standby(1, "read-only");
        let first = until(1);
        hosts.mark_standby(1, "read-only");
        assert_eq!(until(1), first);
        hosts.mark_down(1, "gone");
        let first = until(1);
        hosts.mark_down(1, "gone");
        assert!(until(1) > first);
    }

    #[test]
    fn connections_fail_back_one_at_a_time() {
        let hosts = hosts(2);
        assert!(
            !hosts.should_close_for_better_host(1),
            "no failback was permitted"
        );
        hosts.allow_one_failback();
        assert!(
            !hosts.should_close_for_better_host(0),
            "host 0 is preferred"
        );
        assert!(hosts.should_close_for_better_host(1));
        assert!(
            !hosts.should_close_for_better_host(1),
            "the permit is consumed"
        );
    }

    #[test]
    fn all_hosts_are_tried_when_all_are_marked_down() {
        let hosts = hosts(2);
        hosts.mark_down(0, "gone");
        hosts.mark_down(1, "gone");
        assert_eq!(hosts.host_indexes_in_try_order(), [0, 1]);
        assert!(
            !hosts.is_excluded_while_another_is_up(0) && !hosts.is_excluded_while_another_is_up(1)
        );
        assert!(hosts.all_hosts_down_reason().unwrap().contains("gone"));
        hosts.lock()[1].down = None;
        assert_eq!(hosts.all_hosts_down_reason(), None);
    }

    #[test]
    fn host_that_fails_repeatedly_is_excluded_for_longer() {
        let hosts = hosts(2);
        for min_down_time in [1, 2, 4] {
            hosts.mark_down(0, "read-only");
            let remaining = hosts.lock()[0].down.clone().unwrap().until - Instant::now();
            assert_eq!(remaining.as_secs_f64().round() as u64, min_down_time);
            hosts.lock()[0].down.as_mut().unwrap().until = Instant::now();
            hosts.mark_host_up(0);
        }
    }

    #[test]
    fn single_host_is_never_marked_down() {
        let hosts = hosts(1);
        hosts.mark_down(0, "gone");
        assert!(
            !hosts.is_excluded_while_another_is_up(0) && !hosts.should_close_for_better_host(0)
        );
        assert_eq!(hosts.status_of_all_hosts()[0].to_string(), "node 0: well");
    }
}
