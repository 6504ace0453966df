//! All metrics of the server, and the page that shows them to Prometheus.
//!
//! Counting is a relaxed atomic addition, without a lock or an allocation. Each label has a small fixed set of values. A
//! value that a client chose, such as an address or a domain, is never a label. README.md has a table of all metrics.

mod types;

pub use types::{Counter, Gauge, Histogram, MetricFamily, MetricLabel};

/// Declares an enum of label values. Each value has a text for the log and the metrics page.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident($label:literal) { $($(#[$what:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $value,)*
        }

        impl $name {
            const TEXTS: &[&str] = &[$($text),*];

            /// Returns the value's text in the log and on the metrics page.
            #[expect(clippy::indexing_slicing, reason = "each value has a text")]
            pub fn as_str(self) -> &'static str {
                $name::TEXTS[self as usize]
            }
        }

        impl MetricLabel for $name {
            const VALUES: usize = $name::TEXTS.len();

            fn index(self) -> usize {
                self as usize
            }

            #[expect(clippy::indexing_slicing, reason = "an index is less than VALUES")]
            fn text(index: usize) -> String {
                format!(concat!($label, "=\"{}\""), $name::TEXTS[index])
            }
        }
    };
}

labels! {
    /// The kind of listener that a client connected to.
    ListenerKind("listener") {
        /// Plaintext, with STARTTLS if a certificate is configured.
        Smtp = "smtp",
        /// Implicit TLS.
        Smtps = "smtps",
    }
}

labels! {
    /// Why a connection ended.
    CloseReason("outcome") {
        /// The client sent QUIT.
        Quit = "quit",
        /// The server closed the connection with a reply: the client sent too many erroneous commands, too many commands
        /// without a saved mail, input that no mail client sends, or too much rejected content.
        Rejected = "rejected",
        /// The client disconnected without QUIT.
        ClientLeft = "client_left",
        /// The client exceeded a timeout.
        TimedOut = "timed_out",
        /// The client exceeded a timeout that was shortened because nearly GM_MAX_CLIENTS connections were open.
        Shed = "shed",
        /// The client did not read the server's replies.
        WriteTimeout = "write_timeout",
        /// The client or the network reset the connection.
        ConnectionReset = "connection_reset",
        /// The TLS handshake failed.
        TlsFailed = "tls_failed",
        /// The server was shutting down.
        Shutdown = "shutdown",
        /// The client disconnected before the greeting.
        ClosedBeforeGreeting = "closed_before_greeting",
        /// GM_MAX_CLIENTS connections were already open.
        LimitReached = "limit_reached",
        /// The client's address already had GM_MAX_CLIENTS_PER_IP open connections.
        AddressLimitReached = "address_limit_reached",
        /// The peer is not a trusted proxy, but the PROXY protocol is required.
        UntrustedProxy = "untrusted_proxy",
        /// The connection did not begin with a PROXY header.
        NoProxyHeader = "no_proxy_header",
        /// The peer disconnected without sending anything, although a PROXY header is required.
        NoData = "no_data",
        /// The connection was a load balancer's health check.
        HealthCheck = "health_check",
        /// The thread panicked.
        Panicked = "panicked",
    }
}

labels! {
    /// Answer to an auth_http request of nginx.
    AuthAnswer("answer") {
        /// nginx may connect its client to the server.
        Ok = "ok",
        /// The recipient's domain is not accepted.
        RelayDenied = "relay_denied",
        /// GM_MAX_CLIENTS connections are open, or the store is unavailable; the client has to try again later.
        NotReady = "not_ready",
        /// nginx asked for an authentication method other than `none`: the client tried to log in, which the server does not
        /// support.
        OtherMethod = "other_method",
    }
}

labels! {
    /// Result of a mail transaction.
    MailOutcome("outcome") {
        /// Reply 250: the mail is committed.
        Saved = "saved",
        /// Reply 451: the store is unavailable or refused the mail.
        Unavailable = "unavailable",
        /// Reply 452: the store is full.
        StoreFull = "store_full",
        /// Reply 452: the message content that all connections hold together reached GM_MAX_MEMORY.
        NoMemory = "no_memory",
        /// Reply 552: the announced or received size exceeds GSMTP_MAX_SIZE.
        TooLarge = "too_large",
    }
}

labels! {
    /// Result of a TLS handshake.
    Handshake("outcome") {
        /// The handshake succeeded with TLS 1.3.
        Tls13 = "TLSv1_3",
        /// The handshake succeeded with TLS 1.2.
        Tls12 = "TLSv1_2",
        /// The handshake failed.
        Failed = "failed",
    }
}

labels! {
    /// Kind of error that the store returned for a batch.
    StoreErrorKind("kind") {
        /// The store is unavailable.
        Unavailable = "unavailable",
        /// The store is full.
        Full = "full",
        /// The store rejected a mail of the batch.
        Refused = "refused",
    }
}

labels! {
    /// Where a mail's body was stored, if Redis is in use.
    BodyLocation("location") {
        /// The body is in Redis; its key is the mail's hash.
        Redis = "redis",
        /// The body is in the table, because Redis did not store it.
        Table = "table",
    }
}

labels! {
    /// The part of the server that panicked.
    Component("component") {
        /// The thread of an SMTP connection.
        Connection = "connection",
        /// A writer of the store.
        Writer = "writer",
        /// A handler of the HTTP server.
        Http = "http",
        /// The database driver.
        Database = "database",
        /// A thread that stores bodies in Redis.
        Redis = "redis",
        /// The recipient hook of an embedding program.
        RecipientHook = "recipient_hook",
    }
}

labels! {
    /// What was reloaded.
    ReloadTarget("what") {
        /// The configuration file.
        Configuration = "configuration",
        /// The TLS certificate and key.
        Certificate = "certificate",
    }
}

labels! {
    /// Result of a reload.
    ReloadOutcome("outcome") {
        /// The new values are in use.
        Applied = "applied",
        /// The new values are invalid; the previous ones stay in use.
        Refused = "refused",
    }
}

impl ListenerKind {
    /// Returns the kind of a listener, with or without implicit TLS.
    pub fn new(implicit_tls: bool) -> ListenerKind {
        if implicit_tls {
            ListenerKind::Smtps
        } else {
            ListenerKind::Smtp
        }
    }
}

/// An SMTP reply code as a label value. All codes that are not in `CODES` share the value `other`.
#[derive(Clone, Copy)]
pub struct ReplyCode(pub u16);

impl MetricLabel for ReplyCode {
    const VALUES: usize = CODES.len() + 1;

    fn index(self) -> usize {
        let known = CODES.iter().position(|code| *code == self.0);
        known.unwrap_or(CODES.len())
    }

    fn text(index: usize) -> String {
        let code = CODES.get(index).map(u16::to_string);
        format!("code=\"{}\"", code.as_deref().unwrap_or("other"))
    }
}

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
        "Panics caught, by component; each ended one connection, batch, HTTP response, database connection, write to Redis or recipient check.",
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

/// All SMTP reply codes that the server sends. The metric counts any other code as `other`.
const CODES: &[u16] = &[
    214, 220, 221, 250, 252, 354, 421, 450, 451, 452, 454, 500, 501, 502, 503, 550, 552, 553, 554,
    555,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_reply_code_is_counted_as_other() {
        for (code, label) in [(214, "214"), (250, "250"), (555, "555"), (999, "other")] {
            let counter: Counter<ReplyCode> = Counter::new("r_total", "R.");
            counter.count(ReplyCode(code));
            let mut page = String::new();
            counter.write_to(&mut page);
            let line = format!("r_total{{code=\"{label}\"}} 1\n");
            assert!(page.contains(&line), "{code}");
        }
    }

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
