//! The labels of the metrics, each with its fixed set of values.

use super::MetricLabel;

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
        /// The recipient does not exist.
        UserUnknown = "user_unknown",
        /// The database did not say whether the recipient exists; the client has to try again later.
        LookupFailed = "lookup_failed",
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
        /// Reply 452: the message content of all connections together reached GM_MAX_MEMORY.
        NoMemory = "no_memory",
        /// Reply 552: the announced or received size exceeds GSMTP_MAX_SIZE.
        TooLarge = "too_large",
    }
}

labels! {
    /// Answer to the question whether a recipient exists (GM_RECIPIENT_QUERY).
    RecipientLookupAnswer("answer") {
        /// The database has the recipient.
        Yes = "yes",
        /// The database does not have the recipient.
        No = "no",
        /// An earlier answer says that the recipient exists.
        CachedYes = "cached_yes",
        /// An earlier answer says that the recipient does not exist.
        CachedNo = "cached_no",
        /// The database did not answer, but an earlier answer, whose time is over, says that the recipient exists.
        ExpiredYes = "expired_yes",
        /// The database did not answer; the client has to try again later.
        Unavailable = "unavailable",
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
        /// The thread that removes old rows.
        Retention = "retention",
        /// The thread that writes the feed to Redis.
        Feed = "feed",
    }
}

labels! {
    /// What was reloaded.
    ReloadTarget("what") {
        /// The configuration file.
        Configuration = "configuration",
        /// The TLS certificate and key.
        Certificate = "certificate",
        /// The files of GM_ALLOWED_HOSTS.
        AllowedHosts = "allowed_hosts",
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
pub struct ReplyCodeLabel(pub u16);

impl MetricLabel for ReplyCodeLabel {
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

/// All SMTP reply codes that the server sends. The metric counts any other code as `other`.
const CODES: &[u16] = &[
    214, 220, 221, 250, 252, 354, 421, 450, 451, 452, 454, 500, 501, 502, 503, 550, 552, 553, 554,
    555,
];

#[cfg(test)]
mod tests {
    use super::super::{Counter, WritableMetric};
    use super::*;

    #[test]
    fn unknown_reply_code_is_counted_as_other() {
        for (code, label) in [(214, "214"), (250, "250"), (555, "555"), (999, "other")] {
            let counter: Counter<ReplyCodeLabel> = Counter::new("r_total", "R.");
            counter.count(ReplyCodeLabel(code));
            let mut page = String::new();
            counter.write_to(&mut page);
            let line = format!("r_total{{code=\"{label}\"}} 1\n");
            assert!(page.contains(&line), "{code}");
        }
    }
}
