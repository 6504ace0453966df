//! The column values of a mail, truncated to the widths of the table's columns.
//!
//! Text is truncated between characters. The list of attachments is truncated between entries. Recipient addresses and the
//! body are never truncated: an address that does not fit was rejected at RCPT.

use std::borrow::Cow;

use super::table::TableColumns;
use crate::mail::{Attachment, Mail};
use crate::store::Column;

/// The column values that are the same for all recipients of a mail.
#[derive(Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Column `from`.
    pub from: Cow<'a, str>,
    /// Column `subject`.
    pub subject: Cow<'a, str>,
    /// Column `charset`.
    pub charset: Cow<'a, str>,
    /// Column `content_type`.
    pub content_type: Cow<'a, str>,
    /// Column `has_attach`: the number of attachments, at most the largest number that the column holds.
    pub has_attach: u64,
    /// Column `attach_info`.
    pub attach_info: String,
    /// Column `ip_addr`; empty if the address does not fit.
    pub ip_addr: String,
}

impl<'a> Row<'a> {
    /// Computes the column values of `mail` for a table whose columns are `shape`.
    pub fn new(mail: &'a Mail, shape: &TableColumns) -> Row<'a> {
        let summary = mail.summary();
        let ip_addr = mail.client_ip().to_string();
        Row {
            from: shape.from.truncate_to_column(mail.reverse_path()),
            subject: shape.subject.truncate_to_column(&summary.subject),
            charset: shape.charset.truncate_to_column(&summary.charset),
            content_type: shape.content_type.truncate_to_column(&summary.content_type),
            has_attach: shape.has_attach.min(summary.attachments.len() as u64),
            attach_info: attachments_as_json(&summary.attachments, &shape.attach_info),
            ip_addr: Some(ip_addr)
                .filter(|ip| shape.ip_addr.holds_unchanged(ip))
                .unwrap_or_default(),
        }
    }
}

/// Returns a JSON array of as many whole entries as fit into `column`; an empty string if no entry fits.
fn attachments_as_json(attachments: &[Attachment], column: &Column) -> String {
    let mut array = String::new();
    let mut taken = 1;
    for attachment in attachments {
        let entry = attachment.to_json();
        let entry = column.charset.replace_unsupported_chars(&entry);
        // Each entry counts with the bracket or comma before it; the initial value 1 of `taken` counts the closing bracket.
        taken += column.width.length_in_width_unit(&entry) + 1;
        if taken > column.width.max_length() {
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
    fn attach_info_is_valid_json_at_every_column_width() {
        let attachment = |name: &str| Attachment {
            name: name.to_owned(),
            media_type: "a/b".to_owned(),
            octets: 5,
        };
        let attachments = [attachment("\"\\\n"), attachment("b"), attachment("c")];
        let whole = attachments_as_json(&attachments, &Column::column_of_max_octets(1_000));
        let first = r#"[{"name":"\"\\\n","type":"a/b","size":5},"#;
        assert!(whole.starts_with(first), "{whole}");
        for max in 0..=whole.len() {
            let info = attachments_as_json(&attachments, &Column::column_of_max_octets(max));
            assert!(info.len() <= max);
            if !info.is_empty() {
                let parsed: Vec<serde_json::Value> = serde_json::from_str(&info).unwrap();
                assert!(!parsed.is_empty());
            }
        }
        assert_eq!(
            attachments_as_json(&attachments, &Column::column_of_max_octets(whole.len())),
            whole
        );
        assert_eq!(
            attachments_as_json(&[], &Column::column_of_max_octets(1_000)),
            ""
        );
    }
}
