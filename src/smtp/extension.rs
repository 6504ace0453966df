//! What EHLO offers.

use std::borrow::Cow;

use super::reply::Reply;

/// The reply to EHLO: our name, then one extension a line
/// ([RFC 5321 §4.1.1.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.1)).
///
/// SIZE is [RFC 1870](https://www.rfc-editor.org/rfc/rfc1870), PIPELINING [RFC 2920](https://www.rfc-editor.org/rfc/rfc2920),
/// CHUNKING [RFC 3030](https://www.rfc-editor.org/rfc/rfc3030), 8BITMIME [RFC 6152](https://www.rfc-editor.org/rfc/rfc6152),
/// SMTPUTF8 [RFC 6531](https://www.rfc-editor.org/rfc/rfc6531).
/// STARTTLS is [RFC 3207](https://www.rfc-editor.org/rfc/rfc3207): offered while it can still be done.
pub fn ehlo_reply(host_name: &str, max_content_octets: usize, offer_tls: bool) -> Reply {
    let starttls = if offer_tls { "STARTTLS\n" } else { "" };
    let text = format!(
        "{host_name}\nPIPELINING\nSIZE {max_content_octets}\n8BITMIME\nSMTPUTF8\n\
         ENHANCEDSTATUSCODES\nCHUNKING\n{starttls}HELP"
    );
    Reply::new(250, None, Cow::Owned(text))
}
