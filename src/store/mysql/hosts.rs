//! Several hosts for one database: which of them are used, which were left, and when those are taken again.
//!
//! ```text
//!   well ──(gone, not ready: writer or prober)──► left ──(well again, its pause over: prober)──► well
//!   well ──(read-only: writer or prober)──► standby ──(writable: prober)──► well
//! ```
//!
//! A standby is healthy, such as a secondary of a replication group: it is not used while another host takes rows.
//! The first one that is well is preferred. One that was left is tried again only when no other is well, so being wrong
//! about one costs no mail. With one host there is nothing to choose, and nothing is kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync;

/// The state of every host, in the order of their preference.
pub struct Hosts {
    names: Vec<String>,
    states: Mutex<Vec<HostRecord>>,
    /// One connection may go back to a preferred host. Given once a look, so that connections go back one by one and not
    /// all of all receivers in the same moment.
    failback_allowed: AtomicBool,
}

#[derive(Clone, Default)]
struct HostRecord {
    down: Option<Down>,
    up_since: Option<Instant>,
    /// How long it stays left at least; doubled each time that it disappoints soon after it was taken again.
    pause: Duration,
}

#[derive(Clone)]
struct Down {
    reason: String,
    until: Instant,
    kind: Kind,
}

/// Why a host is not used, in the order in which such hosts are tried when no other one is left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Healthy and read-only.
    Standby,
    /// Gone, or not ready.
    Unhealthy,
}

#[expect(
    clippy::indexing_slicing,
    reason = "a node is its place among the names, and each of them has a state"
)]
impl Hosts {
    /// All well, as far as is known; `names` are for the log.
    pub fn new(names: Vec<String>) -> Hosts {
        let states = vec![HostRecord::default(); names.len()];
        Hosts {
            names,
            states: Mutex::new(states),
            failback_allowed: AtomicBool::new(false),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// How an administrator knows it.
    pub fn name(&self, node: usize) -> &str {
        &self.names[node]
    }

    /// Returns the order in which to try them: those that are well, then standbys, then those that were left.
    pub fn order(&self) -> Vec<usize> {
        let states = self.lock();
        let mut order: Vec<usize> = (0..states.len()).collect();
        order.sort_by_key(|node| states[*node].down.as_ref().map(|left| left.kind));
        order
    }

    /// The node takes nothing now: others are used until it is well again. Said in the log once.
    pub fn mark_down(&self, node: usize, reason: &str) {
        if self.put_aside(node, reason, Kind::Unhealthy) {
            log::error!(node = self.names[node].as_str(), reason = reason; "db_host_down");
        }
    }

    /// Marks a healthy host that is read-only: others are used until it is writable. Logged once, and not as a fault.
    pub fn mark_standby(&self, node: usize, reason: &str) {
        if self.put_aside(node, reason, Kind::Standby) {
            log::info!(node = self.names[node].as_str(), reason = reason; "node_standby");
        }
    }

    /// Returns whether this is news.
    fn put_aside(&self, node: usize, reason: &str, kind: Kind) -> bool {
        if self.count() == 1 {
            return false;
        }
        let mut states = self.lock();
        let state = &mut states[node];
        let disappoints = state.up_since.is_some_and(|at| at.elapsed() < FLAP_WINDOW);
        if state.down.is_none() {
            state.pause = match disappoints {
                true => (state.pause * 2).clamp(MIN_DOWN_TIME, MAX_DOWN_TIME),
                false => MIN_DOWN_TIME,
            };
        }
        let is_news = state.down.as_ref().is_none_or(|left| left.kind != kind);
        state.down = Some(Down {
            reason: reason.to_owned(),
            until: Instant::now() + state.pause,
            kind,
        });
        is_news
    }

    /// The prober found it well. Said in the log once; not yet while its pause lasts.
    pub fn mark_up(&self, node: usize) {
        let mut states = self.lock();
        let state = &mut states[node];
        let pause_is_over = |left: &Down| Instant::now() >= left.until;
        if let Some(left) = state.down.take_if(|left| pause_is_over(left)) {
            state.up_since = Some(Instant::now());
            drop(states);
            let name = self.names[node].as_str();
            match left.kind {
                Kind::Standby => log::info!(node = name; "node_writable"),
                Kind::Unhealthy => log::warn!(node = name; "db_host_up"),
            }
        }
    }

    /// Whether it was left while another one is well.
    pub fn is_down(&self, node: usize) -> bool {
        if self.count() == 1 {
            return false;
        }
        let states = self.lock();
        states[node].down.is_some() && states.iter().any(|state| state.down.is_none())
    }

    /// Whether a connection to this node shall make room for one to a better node.
    pub fn take_failback(&self, node: usize) -> bool {
        if self.count() == 1 {
            return false;
        }
        if self.is_down(node) {
            return true;
        }
        let is_preferred = self.order().first() == Some(&node);
        !is_preferred && self.failback_allowed.swap(false, Ordering::Relaxed)
    }

    /// Lets one connection go back to the preferred node.
    pub fn allow_failback(&self) {
        self.failback_allowed.store(true, Ordering::Relaxed);
    }

    /// Returns why no host takes mail; `None` while one is well, and where there is only one.
    pub fn all_down_reason(&self) -> Option<String> {
        if self.count() == 1 {
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
            self.count()
        ))
    }

    /// A line for each.
    pub fn status_lines(&self) -> Vec<String> {
        let states = self.lock();
        let line = |(name, state): (&String, &HostRecord)| match &state.down {
            None => format!("node {name}: well"),
            Some(left) if left.kind == Kind::Standby => {
                format!("node {name}: standby: {}", left.reason)
            }
            Some(left) => format!("node {name}: left: {}", left.reason),
        };
        self.names.iter().zip(states.iter()).map(line).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HostRecord>> {
        sync::lock(&self.states)
    }
}

/// How long a node stays left at least.
const MIN_DOWN_TIME: Duration = Duration::from_secs(1);
/// The longest that one which seems well and is not is left alone.
const MAX_DOWN_TIME: Duration = Duration::from_secs(60);
/// A node that fails so soon after it was taken again has disappointed.
const FLAP_WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Hosts {
        Hosts::new((0..count).map(|node| node.to_string()).collect())
    }

    #[test]
    fn first_available_database_host_is_preferred() {
        let nodes = nodes(3);
        assert_eq!(nodes.order(), [0, 1, 2]);
        nodes.mark_down(0, "gone");
        assert_eq!(nodes.order(), [1, 2, 0]);
        assert!(nodes.is_down(0) && nodes.take_failback(0) && !nodes.take_failback(1));
        assert_eq!(nodes.status_lines()[0], "node 0: left: gone");
        nodes.mark_up(0);
        assert!(nodes.is_down(0), "its pause lasts");
        nodes.lock()[0].down.as_mut().unwrap().until = Instant::now();
        nodes.mark_up(0);
        assert_eq!(nodes.order(), [0, 1, 2]);
    }

    #[test]
    fn standby_host_is_tried_after_available_hosts_and_before_down_ones() {
        let nodes = nodes(3);
        nodes.mark_down(0, "gone");
        nodes.mark_standby(1, "read-only");
        assert_eq!(nodes.order(), [2, 1, 0]);
        assert_eq!(nodes.status_lines()[1], "node 1: standby: read-only");
        nodes.lock()[1].down.as_mut().unwrap().until = Instant::now();
        nodes.mark_up(1);
        assert_eq!(nodes.order(), [1, 2, 0], "it is writable");
    }

    #[test]
    fn connections_fail_back_one_at_a_time() {
        let nodes = nodes(2);
        assert!(!nodes.take_failback(1), "nobody was let");
        nodes.allow_failback();
        assert!(!nodes.take_failback(0), "it is where it should be");
        assert!(nodes.take_failback(1));
        assert!(!nodes.take_failback(1), "one only");
    }

    #[test]
    fn all_hosts_are_tried_when_all_are_marked_down() {
        let nodes = nodes(2);
        nodes.mark_down(0, "gone");
        nodes.mark_down(1, "gone");
        assert_eq!(nodes.order(), [0, 1]);
        assert!(!nodes.is_down(0) && !nodes.is_down(1));
        assert!(nodes.all_down_reason().unwrap().contains("gone"));
        nodes.lock()[1].down = None;
        assert_eq!(nodes.all_down_reason(), None);
    }

    #[test]
    fn host_that_fails_repeatedly_is_excluded_for_longer() {
        let nodes = nodes(2);
        for pause in [1, 2, 4] {
            nodes.mark_down(0, "read-only");
            let left = nodes.lock()[0].down.clone().unwrap().until - Instant::now();
            assert_eq!(left.as_secs_f64().round() as u64, pause);
            nodes.lock()[0].down.as_mut().unwrap().until = Instant::now();
            nodes.mark_up(0);
        }
    }

    #[test]
    fn single_host_is_never_marked_down() {
        let nodes = nodes(1);
        nodes.mark_down(0, "gone");
        assert!(!nodes.is_down(0) && !nodes.take_failback(0));
        assert_eq!(nodes.status_lines(), ["node 0: well"]);
    }
}
