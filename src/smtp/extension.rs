//! The EHLO reply.

use std::borrow::Cow;

use super::reply::Reply;

/// The extensions that are offered only under a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionalExtensions {
    /// Whether CHUNKING ([RFC 3030](https://www.rfc-editor.org/rfc/rfc3030)) is offered; `false` after an accepted XCLIENT.
    pub chunking: bool,
    /// The value of RCPTMAX in LIMITS ([RFC 9422](https://www.rfc-editor.org/rfc/rfc9422)); `None` after an accepted XCLIENT.
    pub max_recipients: Option<usize>,
    /// Whether STARTTLS ([RFC 3207](https://www.rfc-editor.org/rfc/rfc3207)) is offered, because a key is configured and TLS
    /// is off.
    pub starttls: bool,
    /// Whether [XCLIENT](https://www.postfix.org/XCLIENT_README.html) is offered, because the peer is a trusted proxy.
    pub xclient: bool,
}

/// Returns the EHLO reply: the host name, then one extension per line
/// ([RFC 5321 §4.1.1.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.1)).
///
/// SIZE is [RFC 1870](https://www.rfc-editor.org/rfc/rfc1870), PIPELINING [RFC 2920](https://www.rfc-editor.org/rfc/rfc2920),
/// 8BITMIME [RFC 6152](https://www.rfc-editor.org/rfc/rfc6152), SMTPUTF8 [RFC 6531](https://www.rfc-editor.org/rfc/rfc6531).
pub fn ehlo_reply(
    host_name: &str,
    max_content_octets: usize,
    offer: ConditionalExtensions,
) -> Reply {
    let if_offered = |offered, line| if offered { line } else { "" };
    let chunking = if_offered(offer.chunking, "CHUNKING\n");
    let limits = (offer.max_recipients).map(|count| format!("LIMITS RCPTMAX={count}\n"));
    let limits = limits.unwrap_or_default();
    let starttls = if_offered(offer.starttls, "STARTTLS\n");
    let xclient = if_offered(
        offer.xclient,
        "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\n",
    );
    let text = format!(
        "{host_name}\nPIPELINING\nSIZE {max_content_octets}\n8BITMIME\nSMTPUTF8\n\
         ENHANCEDSTATUSCODES\n{chunking}{limits}{starttls}{xclient}HELP"
    );
    Reply::new(250, None, Cow::Owned(text))
}
