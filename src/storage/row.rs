//! A mail as the columns of its table, fitted to their widths.
//!
//! Whatever a sender writes fits: text is cut between characters, attachment lists between entries. Addresses of
//! recipients and the body are never cut; those that do not fit were refused at RCPT.

use serde_json::json;

use super::table::TableShape;
use crate::mail::{Attachment, Mail};

/// The columns that are the same for all recipients of a mail.
#[derive(Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Column `from`.
    pub from: &'a str,
    /// Column `subject`.
    pub subject: &'a str,
    /// Column `charset`.
    pub charset: &'a str,
    /// Column `content_type`.
    pub content_type: &'a str,
    /// Column `has_attach`.
    pub has_attach: usize,
    /// Column `attach_info`.
    pub attach_info: String,
    /// Column `ip_addr`; empty when the address does not fit.
    pub ip_addr: String,
}

impl<'a> Row<'a> {
    /// Fits a mail's facts to `shape`.
    pub fn new(mail: &'a Mail, shape: &TableShape) -> Row<'a> {
        let summary = mail.summary();
        let ip_addr = mail.origin().client_ip.to_string();
        Row {
            from: fit(mail.reverse_path(), shape.from),
            subject: fit(&summary.subject, shape.subject),
            charset: fit(&summary.charset, shape.charset),
            content_type: fit(&summary.content_type, shape.content_type),
            has_attach: summary.attachments.len(),
            attach_info: attach_info(&summary.attachments, shape.attach_info_octets),
            ip_addr: if ip_addr.len() <= shape.ip_addr {
                ip_addr
            } else {
                String::new()
            },
        }
    }
}

/// The first `max_chars` characters.
fn fit(text: &str, max_chars: usize) -> &str {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// A JSON array of as many whole entries as fit; empty when there are none.
fn attach_info(attachments: &[Attachment], max_octets: usize) -> String {
    let mut array = String::new();
    for attachment in attachments {
        let entry = json!({
            "name": attachment.name,
            "type": attachment.media_type,
            "size": attachment.octets,
        })
        .to_string();
        if array.len() + entry.len() + 2 > max_octets {
            break;
        }
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(&entry);
    }
    if !array.is_empty() {
        array.push(']');
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        for (text, max, want) in [
            ("äöü", 2, "äö"),
            ("ab", 2, "ab"),
            ("ab", 0, ""),
            ("", 5, ""),
        ] {
            assert_eq!(fit(text, max), want);
        }
    }

    #[test]
    fn attach_info_is_valid_json_at_every_width() {
        let attachment = |name: &str| Attachment {
            name: name.to_owned(),
            media_type: "a/b".to_owned(),
            octets: 5,
        };
        let attachments = [attachment("\"\\\n"), attachment("b"), attachment("c")];
        let whole = attach_info(&attachments, 1_000);
        assert!(whole.starts_with(r#"[{"name":"\"\\\n","#), "{whole}");
        for max in 0..=whole.len() {
            let info = attach_info(&attachments, max);
            assert!(info.len() <= max);
            if !info.is_empty() {
                let parsed: Vec<serde_json::Value> = serde_json::from_str(&info).unwrap();
                assert!(!parsed.is_empty());
            }
        }
        assert_eq!(attach_info(&attachments, whole.len()), whole);
        assert_eq!(attach_info(&[], 1_000), "");
    }
}
