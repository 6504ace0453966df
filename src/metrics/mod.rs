//! All metrics of the server, and the page that shows them to Prometheus.
//!
//! Counting is a relaxed atomic addition, without a lock or an allocation. Each label has a small fixed set of values. A
//! value that a client chose, such as an address or a domain, is never a label. README.md has a table of all metrics.

mod labels;
mod types;

pub use labels::{
    AuthAnswer, BodyLocation, CloseReason, Component, Handshake, ListenerKind, MailOutcome,
    ReloadOutcome, ReloadTarget, ReplyCode, StoreErrorKind,
};
pub use types::{Counter, Gauge, Histogram, MetricFamily, MetricLabel};

/// Returns all metrics in the text format of Prometheus; the last line ends in LF.
pub fn render() -> String {
    let mut page = String::with_capacity(16_384);
    for family in FAMILIES {
        family.write_to(&mut page);
    }
    page
}

/// Content type of the text that [`render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Declares one static for each metric, and `FAMILIES`, the list of all metrics.
macro_rules! families {
    ($($name:ident: $kind:ty = $value:expr;)*) => {
        $(
            #[doc = "Described by its help text below."]
            pub static $name: $kind = $value;
        )*
        const FAMILIES: &[&dyn MetricFamily] = &[$(&$name),*];
    };
}

families! {
    BUILD: Gauge = Gauge::labelled(
        "goguerrilla_build_info",
        "Always 1; the label is the version of the server.",
        concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""),
    );
    STARTED_AT: Gauge = Gauge::new(
        "process_start_time_seconds",
        "Start time of the server, in seconds since 1970.",
    );
    CONNECTIONS: Counter<(ListenerKind, CloseReason)> = Counter::new(
        "goguerrilla_connections_total",
        "Connections that ended or were rejected, by outcome.",
    );
    AUTH_HTTP: Counter<AuthAnswer> = Counter::new(
        "goguerrilla_auth_http_total",
        "Requests of nginx's auth_http, by answer.",
    );
    CONNECTIONS_ACTIVE: Gauge = Gauge::new(
        "goguerrilla_connections_active",
        "Connections being served now.",
    );
    CONNECTIONS_LIMIT: Gauge = Gauge::new(
        "goguerrilla_connections_limit",
        "Maximum number of connections served at once (GM_MAX_CLIENTS).",
    );
    RECEIVED_BYTES: Counter = Counter::new(
        "goguerrilla_received_bytes_total",
        "Octets received from clients, after TLS decryption.",
    );
    REPLIES: Counter<ReplyCode> = Counter::new(
        "goguerrilla_replies_total",
        "Replies sent to clients, by reply code.",
    );
    HANDSHAKES: Counter<Handshake> = Counter::new(
        "goguerrilla_tls_handshakes_total",
        "TLS handshakes, by protocol version or failed.",
    );
    CERTIFICATE_EXPIRES_AT: Gauge = Gauge::new(
        "goguerrilla_certificate_expiry_timestamp_seconds",
        "Expiry time of the TLS certificate, in seconds since 1970.",
    );
    MAILS: Counter<MailOutcome> = Counter::new(
        "goguerrilla_mails_total",
        "Mails received, by outcome.",
    );
    RECIPIENTS_SAVED: Counter = Counter::new(
        "goguerrilla_recipients_saved_total",
        "Recipients of saved mails; each has one row.",
    );
    SAVE_TIME: Histogram = Histogram::new(
        "goguerrilla_save_seconds",
        "Time from the end of a mail to its reply, in seconds.",
        &[
            500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 5_000_000, 10_000_000, 30_000_000,
        ],
        1_000_000,
    );
    BATCHES: Histogram = Histogram::new(
        "goguerrilla_batch_mails",
        "Number of mails passed to the store in one batch.",
        &[1, 2, 4, 8, 16, 32, 64, 128, 256],
        1,
    );
    STORE_UP: Gauge = Gauge::new(
        "goguerrilla_store_up",
        "1 if the store is reachable and accepts mail, else 0.",
    );
    STORE_ERRORS: Counter<StoreErrorKind> = Counter::new(
        "goguerrilla_store_errors_total",
        "Batches of which the store did not save every mail, by kind of error.",
    );
    MAIL_ID_USED: Gauge = Gauge::ratio(
        "goguerrilla_mail_id_used_ratio",
        "Used share of the range of column mail_id; at 1 no mail can be saved.",
    );
    REDIS_ERRORS: Counter = Counter::new(
        "goguerrilla_redis_errors_total",
        "Batches whose bodies Redis failed to store.",
    );
    BODIES: Counter<BodyLocation> = Counter::new(
        "goguerrilla_bodies_total",
        "Mail bodies by location, while REDIS_INTERFACE is set.",
    );
    CONTENT_BYTES: Gauge = Gauge::new(
        "goguerrilla_content_bytes",
        "Memory used by message content.",
    );
    CONTENT_LIMIT_BYTES: Gauge = Gauge::new(
        "goguerrilla_content_limit_bytes",
        "Maximum memory for message content (GM_MAX_MEMORY).",
    );
    PANICS: Counter<Component> = Counter::new(
        "goguerrilla_panics_total",
        "Panics caught, by component; each ended one connection, batch, HTTP response, database connection or write to Redis.",
    );
    RELOADS: Counter<(ReloadTarget, ReloadOutcome)> = Counter::new(
        "goguerrilla_reloads_total",
        "Reloads of the configuration or the certificate, by outcome.",
    );
    LOG_LINES_DROPPED: Counter = Counter::new(
        "goguerrilla_log_lines_dropped_total",
        "Log lines dropped because the log could not be written fast enough.",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_page_lists_each_name_once_with_help_and_type() {
        BUILD.set(1);
        let page = render();
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
