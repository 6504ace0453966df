//! The numbers that the status page shows, read at one time.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::connection::{self, ConnectionSettings};
use crate::metrics::{MailOutcome, Metrics};
use crate::net::accept_pool::AcceptPool;

/// The numbers of the server at one time. Counts begin at the start of the server.
#[derive(Clone, Default)]
pub struct Sample {
    /// The time in seconds since 1970.
    pub unix_seconds: f64,
    /// Connections that are served now.
    pub connections_active: u64,
    /// Maximum number of connections that are served at the same time.
    pub connections_limit: u64,
    /// Memory in bytes that message content uses now.
    pub content_bytes: u64,
    /// Maximum memory in bytes for message content.
    pub content_limit_bytes: u64,
    /// Mails that wait now, because the store is unavailable.
    pub mails_held: u64,
    /// Mails by outcome, in the order of [`OUTCOMES`].
    pub mails: [u64; OUTCOMES.len()],
    /// Recipients of the saved mails.
    pub recipients_saved: u64,
    /// Octets received from clients.
    pub received_bytes: u64,
    /// Number of mails in each bucket of the histogram of save times.
    pub save_seconds: Vec<u64>,
    /// Batches of mails that were passed to the store.
    pub batches: u64,
    /// Mails in all of these batches.
    pub batch_mails: u64,
    /// Whether the store accepts mail.
    pub store_is_up: bool,
    /// Batches that Redis failed to store.
    pub redis_errors: u64,
    /// Log lines that were dropped.
    pub log_lines_dropped: u64,
    /// Panics that were caught.
    pub panics: u64,
    /// Expiry time of the certificate in seconds since 1970; `None` without a certificate.
    pub certificate_expires_at: Option<u64>,
    /// Used share of the range of column `mail_id` in billionths; `None` if the column is not AUTO_INCREMENT.
    pub mail_id_used_billionths: Option<u64>,
}

impl Sample {
    /// Reads the current values of the metrics.
    pub fn take(pool: &AcceptPool, settings: &ConnectionSettings) -> Sample {
        let metrics = connection::up_to_date_metrics(pool, settings);
        let snapshot = metrics.snapshot();
        Sample {
            unix_seconds: unix_seconds_now(),
            connections_active: snapshot.connections_active,
            connections_limit: snapshot.connections_limit,
            content_bytes: snapshot.content_bytes,
            content_limit_bytes: snapshot.content_limit_bytes,
            mails_held: snapshot.mails_held,
            mails: OUTCOMES.map(|outcome| metrics.mails.value(outcome)),
            recipients_saved: snapshot.recipients_saved,
            received_bytes: snapshot.received_octets,
            save_seconds: metrics.save_time.bucket_counts().collect(),
            batches: snapshot.batches,
            batch_mails: metrics.batches.sum() as u64,
            store_is_up: snapshot.store_is_up,
            redis_errors: metrics.redis_errors.total(),
            log_lines_dropped: snapshot.log_lines_dropped,
            panics: snapshot.panics,
            certificate_expires_at: snapshot.certificate_expires_at,
            mail_id_used_billionths: metrics.mail_id_used.value(),
        }
    }

    /// Returns how many mails got 451 or 452.
    pub fn mails_deferred(&self) -> u64 {
        let with_outcomes = OUTCOMES.iter().zip(self.mails);
        let deferred = with_outcomes
            .filter(|(outcome, _)| !matches!(outcome, MailOutcome::Saved | MailOutcome::TooLarge));
        deferred.map(|(_, count)| count).sum()
    }

    /// Returns the values that the page draws as a JSON object.
    pub fn sample_as_json(&self) -> Value {
        let with_outcomes = OUTCOMES.iter().zip(self.mails);
        let mails: Map<String, Value> = with_outcomes
            .map(|(outcome, count)| (outcome.as_str().to_owned(), count.into()))
            .collect();
        json!({
            "time": self.unix_seconds,
            "connections_active": self.connections_active,
            "connections_limit": self.connections_limit,
            "content_bytes": self.content_bytes,
            "content_limit_bytes": self.content_limit_bytes,
            "mails": mails,
            "mails_held": self.mails_held,
            "recipients_saved": self.recipients_saved,
            "received_bytes": self.received_bytes,
            "save_seconds": self.save_seconds,
            "batches": self.batches,
            "batch_mails": self.batch_mails,
            "store_is_up": self.store_is_up,
        })
    }
}

/// Returns the upper bounds of the buckets in [`Sample::save_seconds`] as a JSON array; the last bucket has none.
pub fn save_seconds_bounds(metrics: &Metrics) -> Value {
    metrics.save_time.bounds_in_metric_units().collect()
}

fn unix_seconds_now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // Milliseconds are enough for a rate per second, and make the JSON shorter.
    since.unwrap_or_default().as_millis() as f64 / 1_000.0
}

/// The outcomes of a mail.
const OUTCOMES: [MailOutcome; 5] = [
    MailOutcome::Saved,
    MailOutcome::Unavailable,
    MailOutcome::StoreFull,
    MailOutcome::NoMemory,
    MailOutcome::TooLarge,
];
