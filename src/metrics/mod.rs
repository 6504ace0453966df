//! What the house counts, and the one table that turns it into a page for Prometheus.
//!
//! Counting is a relaxed addition: no lock, no allocation. Label values are few and known here; an address, a domain or
//! anything else that a client chose is never one of them. The README has a row for each name.

mod types;

pub use types::{Counter, Family, Gauge, Histogram, Label};

/// Declares the values of a label, and the texts that log and page know them by.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident($label:literal) { $($(#[$what:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $value,)*
        }

        impl $name {
            const TEXTS: &[&str] = &[$($text),*];

            /// What log and page call it.
            #[expect(clippy::indexing_slicing, reason = "each value has its text")]
            pub fn as_str(self) -> &'static str {
                $name::TEXTS[self as usize]
            }
        }

        impl Label for $name {
            const VALUES: usize = $name::TEXTS.len();

            fn index(self) -> usize {
                self as usize
            }

            #[expect(clippy::indexing_slicing, reason = "an index is below VALUES")]
            fn text(index: usize) -> String {
                format!(concat!($label, "=\"{}\""), $name::TEXTS[index])
            }
        }
    };
}

labels! {
    /// Which kind of port a client came to.
    ListenerKind("listener") {
        /// Plain at first.
        Smtp = "smtp",
        /// TLS from the first octet.
        Smtps = "smtps",
    }
}

labels! {
    /// Why a connection ended.
    CloseReason("outcome") {
        /// It said QUIT.
        Quit = "quit",
        /// A reply ended it: too many faulty commands or commands without a delivery, something that no mail client sends,
        /// or too much content that is refused.
        Rejected = "rejected",
        /// It left in the middle.
        ClientLeft = "client_left",
        /// It was too slow.
        TimedOut = "timed_out",
        /// It was cut short because places ran out.
        Shed = "shed",
        /// It did not read our replies.
        WriteTimeout = "write_timeout",
        /// The network or the client broke it.
        ConnectionReset = "connection_reset",
        /// The handshake failed.
        TlsFailed = "tls_failed",
        /// We were shutting down.
        Shutdown = "shutdown",
        /// It was gone before we could greet it.
        ClosedBeforeGreeting = "closed_before_greeting",
        /// All places were taken.
        LimitReached = "limit_reached",
        /// Its address had as many connections as it may.
        AddressLimitReached = "address_limit_reached",
        /// It is no trusted proxy, where only those may connect.
        UntrustedProxy = "untrusted_proxy",
        /// No header of the PROXY protocol came in front of what it said.
        NoProxyHeader = "no_proxy_header",
        /// It left before it had said anything, where a header has to come first.
        NoData = "no_data",
        /// A proxy looked whether we are well.
        HealthCheck = "health_check",
        /// A bug of ours.
        Panicked = "panicked",
    }
}

labels! {
    /// What nginx was told.
    AuthAnswer("answer") {
        /// To bring its client.
        Ok = "ok",
        /// That the recipient is none of ours.
        RelayDenied = "relay_denied",
        /// To have it come again: no place, or no store.
        NotReady = "not_ready",
        /// That nobody logs in here.
        OtherMethod = "other_method",
    }
}

labels! {
    /// How a mail fared.
    MailOutcome("outcome") {
        /// 250: committed.
        Saved = "saved",
        /// 451: the store cannot take it now.
        Unavailable = "unavailable",
        /// 452: the store has no room.
        StoreFull = "store_full",
        /// 452: all content together reached GM_MAX_MEMORY.
        NoMemory = "no_memory",
        /// 552: larger than GSMTP_MAX_SIZE, announced or sent.
        TooLarge = "too_large",
    }
}

labels! {
    /// What became of a TLS handshake.
    Handshake("outcome") {
        /// TLS 1.3.
        Tls13 = "TLSv1_3",
        /// TLS 1.2.
        Tls12 = "TLSv1_2",
        /// None.
        Failed = "failed",
    }
}

labels! {
    /// What the store said.
    StoreErrorKind("kind") {
        /// Not now.
        Unavailable = "unavailable",
        /// No room.
        Full = "full",
        /// Not this mail.
        Refused = "refused",
    }
}

labels! {
    /// Where a body went while Redis is in use.
    BodyLocation("location") {
        /// Under its hash.
        Redis = "redis",
        /// Redis did not take it.
        Table = "table",
    }
}

labels! {
    /// Whose bug it was.
    Component("component") {
        /// A connection's.
        Connection = "connection",
        /// A writer's.
        Writer = "writer",
        /// The inside HTTP ports'.
        Http = "http",
        /// The database driver's.
        Database = "database",
        /// A thread's that stores bodies in Redis.
        Redis = "redis",
    }
}

labels! {
    /// What was read again.
    ReloadTarget("what") {
        /// goguerrilla.conf.
        Configuration = "configuration",
        /// Certificate and key.
        Certificate = "certificate",
    }
}

labels! {
    /// Whether that helped.
    ReloadOutcome("outcome") {
        /// In force.
        Applied = "applied",
        /// What was there before stays in force.
        Refused = "refused",
    }
}

impl ListenerKind {
    /// By whether TLS begins with the first octet.
    pub fn new(tls_at_once: bool) -> ListenerKind {
        if tls_at_once {
            ListenerKind::Smtps
        } else {
            ListenerKind::Smtp
        }
    }
}

/// The code of a reply; all that are not in the table are one.
#[derive(Clone, Copy)]
pub struct Code(pub u16);

impl Label for Code {
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

/// All that is counted, in the text format of Prometheus; the last line ends in LF.
pub fn render() -> String {
    let mut page = String::with_capacity(16_384);
    for family in FAMILIES {
        family.write_to(&mut page);
    }
    page
}

/// Content type of [`page`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Declares what is counted, and the table of all of it.
macro_rules! families {
    ($($name:ident: $kind:ty = $value:expr;)*) => {
        $(
            #[doc = "See its help, in the table below and on the page."]
            pub static $name: $kind = $value;
        )*
        const FAMILIES: &[&dyn Family] = &[$(&$name),*];
    };
}

families! {
    BUILD: Gauge = Gauge::labelled(
        "goguerrilla_build_info",
        "Always 1; the label tells the version.",
        concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""),
    );
    STARTED_AT: Gauge = Gauge::new(
        "process_start_time_seconds",
        "When the server started, in seconds since 1970.",
    );
    CONNECTIONS: Counter<(ListenerKind, CloseReason)> = Counter::new(
        "goguerrilla_connections_total",
        "Connections that have ended or were refused, by how.",
    );
    AUTH_HTTP: Counter<AuthAnswer> = Counter::new(
        "goguerrilla_auth_http_total",
        "Questions of nginx's by what it was told.",
    );
    CONNECTIONS_ACTIVE: Gauge = Gauge::new(
        "goguerrilla_connections_active",
        "Connections that are served now.",
    );
    CONNECTIONS_LIMIT: Gauge = Gauge::new(
        "goguerrilla_connections_limit",
        "Connections that can be served at once, GM_MAX_CLIENTS.",
    );
    RECEIVED_BYTES: Counter = Counter::new(
        "goguerrilla_received_bytes_total",
        "Octets that clients have sent, after TLS was taken off.",
    );
    REPLIES: Counter<Code> = Counter::new(
        "goguerrilla_replies_total",
        "Replies by their code.",
    );
    HANDSHAKES: Counter<Handshake> = Counter::new(
        "goguerrilla_tls_handshakes_total",
        "TLS handshakes by the version agreed on, or failed.",
    );
    CERTIFICATE_EXPIRES_AT: Gauge = Gauge::new(
        "goguerrilla_certificate_expiry_timestamp_seconds",
        "When our certificate expires, in seconds since 1970.",
    );
    MAILS: Counter<MailOutcome> = Counter::new(
        "goguerrilla_mails_total",
        "Mails by how they fared.",
    );
    RECIPIENTS_SAVED: Counter = Counter::new(
        "goguerrilla_recipients_saved_total",
        "Recipients of saved mails, one row each.",
    );
    SAVE_TIME: Histogram = Histogram::new(
        "goguerrilla_save_seconds",
        "Time from the end of a mail to its reply.",
        &[
            500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 5_000_000, 10_000_000, 30_000_000,
        ],
        1_000_000,
    );
    BATCHES: Histogram = Histogram::new(
        "goguerrilla_batch_mails",
        "Mails that were handed to the store together.",
        &[1, 2, 4, 8, 16, 32, 64, 128, 256],
        1,
    );
    STORE_UP: Gauge = Gauge::new(
        "goguerrilla_store_up",
        "1 while the store can be reached and takes mail, else 0.",
    );
    STORE_ERRORS: Counter<StoreErrorKind> = Counter::new(
        "goguerrilla_store_errors_total",
        "Batches of which the store refused at least one mail.",
    );
    MAIL_ID_USED: Gauge = Gauge::of_ratio(
        "goguerrilla_mail_id_used_ratio",
        "Share of the range of column mail_id that is used; at 1 no mail can be saved.",
    );
    REDIS_ERRORS: Counter = Counter::new(
        "goguerrilla_redis_errors_total",
        "Batches whose bodies Redis was asked to take and did not.",
    );
    BODIES: Counter<BodyLocation> = Counter::new(
        "goguerrilla_bodies_total",
        "Bodies by where they went, while REDIS_INTERFACE is set.",
    );
    CONTENT_BYTES: Gauge = Gauge::new(
        "goguerrilla_content_bytes",
        "Memory that message content holds now.",
    );
    CONTENT_LIMIT_BYTES: Gauge = Gauge::new(
        "goguerrilla_content_limit_bytes",
        "Memory that message content may hold, GM_MAX_MEMORY.",
    );
    PANICS: Counter<Component> = Counter::new(
        "goguerrilla_panics_total",
        "Bugs that were caught; each has cost one connection, one batch, one answer, or bodies their place in Redis.",
    );
    RELOADS: Counter<(ReloadTarget, ReloadOutcome)> = Counter::new(
        "goguerrilla_reloads_total",
        "How often something was read again, and whether it is in force.",
    );
    LOG_LINES_DROPPED: Counter = Counter::new(
        "goguerrilla_log_lines_dropped_total",
        "Log lines dropped because the log could not be written fast enough.",
    );
}

/// Every code that we say.
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
            let counter: Counter<Code> = Counter::new("r_total", "R.");
            counter.count(Code(code));
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
