//! The state of one of several database hosts, for the status endpoints.

use std::fmt::{Display, Formatter, Result};

/// The state of one host of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// The host as configured.
    pub name: String,
    /// Whether the host takes mail.
    pub state: HostState,
    /// Why the host takes no mail; empty if it does.
    pub reason: String,
}

/// Whether a host takes mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// The host takes mail.
    Up,
    /// The host is healthy but read-only.
    Standby,
    /// The host is unreachable or not ready.
    Down,
}

impl Display for HostStatus {
    /// Writes the line that /readyz shows.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let HostStatus { name, reason, .. } = self;
        match self.state {
            HostState::Up => write!(f, "node {name}: well"),
            HostState::Standby => write!(f, "node {name}: standby: {reason}"),
            HostState::Down => write!(f, "node {name}: left: {reason}"),
        }
    }
}
