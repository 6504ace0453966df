//! The metrics for a program that runs the server as a library.

use super::{CloseReason, ListenerKind, MailOutcome, Metrics};

/// The most important metrics of one server, read at one time. The metrics page has all of them.
///
/// Counts begin at 0 when the server starts. They are read one after the other while the server works, so two counts may
/// differ by the events in between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MetricsSnapshot {
    /// Connections that are served now.
    pub connections_active: u64,
    /// Maximum number of connections that are served at the same time.
    pub connections_limit: u64,
    /// Connections that ended, including the rejected ones.
    pub connections_ended: u64,
    /// Connections that were rejected: too many were open, too many of the client's address were open, or the PROXY protocol is
    /// required and the peer is not a trusted proxy.
    pub connections_rejected: u64,
    /// Octets received from clients, after TLS decryption.
    pub received_octets: u64,
    /// Mails that were saved and got reply 250.
    pub mails_saved: u64,
    /// Mails that got reply 451, because the store was unavailable or refused them.
    pub mails_unavailable: u64,
    /// Mails that got reply 452, because the store was full.
    pub mails_store_full: u64,
    /// Mails that got reply 452, because the content of all connections reached its memory limit.
    pub mails_no_memory: u64,
    /// Mails that got reply 552, because they were larger than the size limit.
    pub mails_too_large: u64,
    /// Mails that wait now, because the store is unavailable.
    pub mails_held: u64,
    /// Recipients of the saved mails.
    pub recipients_saved: u64,
    /// Total time from the end of a mail to its reply, in seconds, of the mails that are counted in `mails_saved`,
    /// `mails_unavailable` and `mails_store_full`.
    pub save_seconds: f64,
    /// Batches of mails that were passed to the store.
    pub batches: u64,
    /// Whether the store is reachable and accepts mail.
    pub store_is_up: bool,
    /// Items of GM_ALLOWED_HOSTS in force, those of its files included.
    pub allowed_hosts: u64,
    /// Memory in bytes that message content uses now.
    pub content_bytes: u64,
    /// Maximum memory in bytes for message content.
    pub content_limit_bytes: u64,
    /// Log lines that were dropped because the log could not be written fast enough. Always 0 if the server does not write the
    /// log of the process.
    pub log_lines_dropped: u64,
    /// Panics that were caught in any part of the server.
    pub panics: u64,
    /// Start time of the server, in seconds since 1970.
    pub started_at: u64,
    /// Expiry time of the TLS certificate, in seconds since 1970; `None` if the server had no certificate so far.
    pub certificate_expires_at: Option<u64>,
}

impl Metrics {
    /// Returns the current values. Gauges that are computed at each request have the value that was set last; 0 if none was.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let kinds = [ListenerKind::Smtp, ListenerKind::Smtps];
        let rejected = kinds.into_iter().flat_map(|kind| {
            REJECTIONS
                .iter()
                .map(move |reason| self.connections.value((kind, *reason)))
        });
        let gauge = |gauge: &super::Gauge| gauge.value().unwrap_or_default();
        MetricsSnapshot {
            connections_active: gauge(&self.connections_active),
            connections_limit: gauge(&self.connections_limit),
            connections_ended: self.connections.total(),
            connections_rejected: rejected.sum(),
            received_octets: self.received_bytes.total(),
            mails_saved: self.mails.value(MailOutcome::Saved),
            mails_unavailable: self.mails.value(MailOutcome::Unavailable),
            mails_store_full: self.mails.value(MailOutcome::StoreFull),
            mails_no_memory: self.mails.value(MailOutcome::NoMemory),
            mails_too_large: self.mails.value(MailOutcome::TooLarge),
            mails_held: gauge(&self.mails_held),
            recipients_saved: self.recipients_saved.total(),
            save_seconds: self.save_time.sum(),
            batches: self.batches.count(),
            store_is_up: gauge(&self.store_up) == 1,
            allowed_hosts: gauge(&self.allowed_hosts),
            content_bytes: gauge(&self.content_bytes),
            content_limit_bytes: gauge(&self.content_limit_bytes),
            log_lines_dropped: self.log_lines_dropped.total(),
            panics: self.panics.total(),
            started_at: gauge(&self.started_at),
            certificate_expires_at: self.certificate_expires_at.value(),
        }
    }
}

/// The outcomes of a connection that the server rejected.
const REJECTIONS: [CloseReason; 3] = [
    CloseReason::LimitReached,
    CloseReason::AddressLimitReached,
    CloseReason::UntrustedProxy,
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn snapshot_has_the_values_of_its_own_server_only() {
        let (first, second) = (Metrics::new(), Metrics::new());
        let quit = (ListenerKind::Smtp, CloseReason::Quit);
        let limit_reached = (ListenerKind::Smtps, CloseReason::LimitReached);
        first.connections.count(quit);
        first.connections.count(limit_reached);
        first.connections_active.set(3);
        first.mails.count(MailOutcome::Saved);
        first.mails.count(MailOutcome::TooLarge);
        first.recipients_saved.add((), 2);
        first.received_bytes.add((), 1_000);
        first.save_time.observe_time(Duration::from_millis(250));
        first.save_time.observe_time(Duration::from_millis(500));
        first.batches.observe(7);
        first.store_up.set(1);
        first.certificate_expires_at.set(4_000_000_000);
        let started_at = first.snapshot().started_at;
        assert!(started_at > 1_600_000_000);
        let expected = MetricsSnapshot {
            connections_active: 3,
            connections_ended: 2,
            connections_rejected: 1,
            received_octets: 1_000,
            mails_saved: 1,
            mails_too_large: 1,
            recipients_saved: 2,
            save_seconds: 0.75,
            batches: 1,
            store_is_up: true,
            started_at,
            certificate_expires_at: Some(4_000_000_000),
            ..MetricsSnapshot::default()
        };
        assert_eq!(first.snapshot(), expected);
        let untouched = MetricsSnapshot {
            started_at: second.snapshot().started_at,
            ..MetricsSnapshot::default()
        };
        assert_eq!(second.snapshot(), untouched);
    }
}
