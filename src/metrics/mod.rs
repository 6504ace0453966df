//! All metrics of the server, and the page that shows them to Prometheus.
//!
//! Counting is a relaxed atomic addition, without a lock or an allocation. Each label has a small fixed set of values. A
//! value that a client chose, such as an address or a domain, is never a label. docs/monitoring.md has a table of all metrics.

mod labels;
mod snapshot;
mod types;

use std::fmt;
use std::time::SystemTime;

pub use labels::{
    AuthAnswer, BodyLocation, CloseReason, Component, Handshake, ListenerKind, MailOutcome,
    RecipientLookupAnswer, ReloadOutcome, ReloadTarget, ReplyCodeLabel, StoreErrorKind,
};
pub use snapshot::MetricsSnapshot;
pub use types::{Counter, Gauge, Histogram, MetricLabel, WritableMetric};

/// Content type of the text that [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Declares [`Metrics`] with one field for each metric; the help text of a metric documents its field.
macro_rules! metrics {
    ($($field:ident: $type:ty = $kind:ident::$new:ident($name:literal, $help:literal $(, $more:expr)* $(,)?);)*) => {
        /// All metrics of one server. Each server has its own; its parts share them as `Arc<Metrics>`.
        pub struct Metrics {
            $(
                #[doc = $help]
                pub $field: $type,
            )*
        }

        impl Metrics {
            /// Returns the metrics of a server that starts now.
            pub fn new() -> Metrics {
                let metrics = Metrics {
                    $($field: $kind::$new($name, $help $(, $more)*),)*
                };
                metrics.build.set(1);
                metrics.mails_held.set(0);
                metrics.feed_readers.set(0);
                metrics.started_at.set_to_unix_seconds(SystemTime::now());
                metrics
            }

            /// Returns all metrics in the text format of Prometheus; the last line ends in LF.
            pub fn render(&self) -> String {
                let mut page = String::with_capacity(16_384);
                $(self.$field.write_to(&mut page);)*
                page
            }
        }
    };
}

metrics! {
    build: Gauge = Gauge::new_labelled_gauge(
        "goguerrilla_build_info",
        "Always 1; the label is the version of the server.",
        concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""),
    );
    started_at: Gauge = Gauge::new(
        "process_start_time_seconds",
        "Start time of the server, in seconds since 1970.",
    );
    connections: Counter<(ListenerKind, CloseReason)> = Counter::new(
        "goguerrilla_connections_total",
        "Connections that ended or were rejected, by outcome.",
    );
    auth_http: Counter<AuthAnswer> = Counter::new(
        "goguerrilla_auth_http_total",
        "Requests of nginx's auth_http, by answer.",
    );
    recipient_lookups: Counter<RecipientLookupAnswer> = Counter::new(
        "goguerrilla_recipient_lookups_total",
        "Recipients looked up with GM_RECIPIENT_QUERY, by answer.",
    );
    connections_active: Gauge = Gauge::new(
        "goguerrilla_connections_active",
        "Connections being served now.",
    );
    connections_limit: Gauge = Gauge::new(
        "goguerrilla_connections_limit",
        "Maximum number of connections served at once (GM_MAX_CLIENTS).",
    );
    received_bytes: Counter = Counter::new(
        "goguerrilla_received_bytes_total",
        "Octets received from clients, after TLS decryption.",
    );
    replies: Counter<ReplyCodeLabel> = Counter::new(
        "goguerrilla_replies_total",
        "Replies sent to clients, by reply code.",
    );
    handshakes: Counter<Handshake> = Counter::new(
        "goguerrilla_tls_handshakes_total",
        "TLS handshakes, by protocol version or failed.",
    );
    certificate_expires_at: Gauge = Gauge::new(
        "goguerrilla_certificate_expiry_timestamp_seconds",
        "Expiry time of the TLS certificate, in seconds since 1970.",
    );
    mails: Counter<MailOutcome> = Counter::new(
        "goguerrilla_mails_total",
        "Mails received, by outcome.",
    );
    mails_held: Gauge = Gauge::new(
        "goguerrilla_mails_held",
        "Mails that wait now because the store is unavailable (GM_HOLD_SECONDS).",
    );
    recipients_saved: Counter = Counter::new(
        "goguerrilla_recipients_saved_total",
        "Recipients of saved mails; each has one row.",
    );
    save_time: Histogram = Histogram::new(
        "goguerrilla_save_seconds",
        "Time from the end of a mail to its reply, in seconds.",
        &[
            500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 5_000_000, 10_000_000, 30_000_000,
        ],
        1_000_000,
    );
    batches: Histogram = Histogram::new(
        "goguerrilla_batch_mails",
        "Number of mails passed to the store in one batch.",
        &[1, 2, 4, 8, 16, 32, 64, 128, 256],
        1,
    );
    store_up: Gauge = Gauge::new(
        "goguerrilla_store_up",
        "1 if the store is reachable and accepts mail, else 0.",
    );
    store_errors: Counter<StoreErrorKind> = Counter::new(
        "goguerrilla_store_errors_total",
        "Batches of which the store did not save every mail, by kind of error.",
    );
    mail_id_used: Gauge = Gauge::new_ratio_gauge(
        "goguerrilla_mail_id_used_ratio",
        "Used share of the range of column mail_id; at 1 no mail can be saved.",
    );
    pruned_rows: Counter = Counter::new(
        "goguerrilla_pruned_rows_total",
        "Rows that were removed because they were older than GM_KEEP_DAYS.",
    );
    redis_errors: Counter = Counter::new(
        "goguerrilla_redis_errors_total",
        "Batches whose bodies or feed entries Redis failed to store.",
    );
    bodies: Counter<BodyLocation> = Counter::new(
        "goguerrilla_bodies_total",
        "Mail bodies by location, while REDIS_INTERFACE is set.",
    );
    feed_dropped: Counter = Counter::new(
        "goguerrilla_feed_dropped_total",
        "Entries of the feed that the Redis stream or a reader of /feed did not get.",
    );
    feed_readers: Gauge = Gauge::new(
        "goguerrilla_feed_readers",
        "Readers of /feed now; at most 16.",
    );
    allowed_hosts: Gauge = Gauge::new(
        "goguerrilla_allowed_hosts",
        "Items of GM_ALLOWED_HOSTS in force, those of its files included.",
    );
    content_bytes: Gauge = Gauge::new(
        "goguerrilla_content_bytes",
        "Memory used by message content.",
    );
    content_limit_bytes: Gauge = Gauge::new(
        "goguerrilla_content_limit_bytes",
        "Maximum memory for message content (GM_MAX_MEMORY).",
    );
    panics: Counter<Component> = Counter::new(
        "goguerrilla_panics_total",
        "Panics caught, by component; each ended one connection, batch, HTTP response, database connection, write to Redis, recipient check, removal of old rows or write of the feed.",
    );
    reloads: Counter<(ReloadTarget, ReloadOutcome)> = Counter::new(
        "goguerrilla_reloads_total",
        "Reloads of the configuration, the certificate or the files of GM_ALLOWED_HOSTS, by outcome.",
    );
    log_lines_dropped: Counter = Counter::new(
        "goguerrilla_log_lines_dropped_total",
        "Log lines dropped because the log could not be written fast enough.",
    );
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_page_lists_each_name_once_with_help_and_type() {
        let page = Metrics::new().render();
        assert!(page.ends_with('\n'));
        let names: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(names.len(), unique.len());
        for name in names {
            let (name, kind) = name.split_once(' ').unwrap();
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            assert!(page.contains(&format!("# HELP {name} ")), "{name}");
        }
    }
}
