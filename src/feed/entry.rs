//! One entry of the feed: the facts about one stored row, and their JSON.

use std::sync::Arc;

use crate::logging::{is_printable, push_json_unicode_escape};
use crate::mail::MailId;

/// The facts about one stored row that the feed sends. The texts that all rows of a mail share are stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// Column `hash`.
    pub hash: MailId,
    /// Column `to`.
    pub to: String,
    /// Column `recipient`.
    pub recipient: String,
    /// Column `from`.
    pub from: Arc<str>,
    /// Column `subject`.
    pub subject: Arc<str>,
    /// Number of octets that `goguerrilla show` prints.
    pub size: usize,
    /// Time of saving by the clock of this server, `YYYY-MM-DD HH:MM:SS` in UTC.
    pub date: Arc<str>,
}

impl FeedEntry {
    /// Returns the entry as one line of JSON in ASCII and printable characters: other characters are escaped, so that the line
    /// cannot end early and cannot change the writing direction of a page.
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(JSON_OVERHEAD + self.octets());
        json.push('{');
        for (name, value) in [
            ("hash", self.hash.as_str()),
            ("to", &self.to),
            ("recipient", &self.recipient),
            ("from", &self.from),
            ("subject", &self.subject),
        ] {
            json.push('"');
            json.push_str(name);
            json.push_str("\":\"");
            push_escaped(&mut json, value);
            json.push_str("\",");
        }
        json.push_str("\"size\":");
        json.push_str(&self.size.to_string());
        json.push_str(",\"date\":\"");
        push_escaped(&mut json, &self.date);
        json.push_str("\"}");
        json
    }

    /// Returns the approximate memory of the entry in octets.
    pub fn octets(&self) -> usize {
        let texts = [&*self.to, &self.recipient, &self.from, &self.subject];
        ENTRY_OVERHEAD + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

fn push_escaped(json: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if is_printable(c) => json.push(c),
            c => push_json_unicode_escape(json, c),
        }
    }
}

/// Length of the names and punctuation of an entry in JSON, in octets.
const JSON_OVERHEAD: usize = 128;
/// Memory of an entry without its addresses and its subject: the struct, its allocations, the date.
const ENTRY_OVERHEAD: usize = 256;

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::mail::Mail;

    /// Returns an entry with this subject.
    pub fn entry(subject: &str) -> FeedEntry {
        let mail = Mail::builder().recipient("u@ours.test").build().unwrap();
        FeedEntry {
            hash: mail.hash(),
            to: "u@mx.test".to_owned(),
            recipient: "u@ours.test".to_owned(),
            from: Arc::from("a@client.test"),
            subject: Arc::from(subject),
            size: 7,
            date: Arc::from("2026-11-30 22:22:35"),
        }
    }

    #[test]
    fn entry_is_one_line_of_json_whatever_its_texts_contain() {
        let plain = entry("Grüße \u{1f600}");
        assert_eq!(
            plain.to_json(),
            format!(
                "{{\"hash\":\"{}\",\"to\":\"u@mx.test\",\"recipient\":\"u@ours.test\",\"from\":\"a@client.test\",\
                 \"subject\":\"Grüße \u{1f600}\",\"size\":7,\"date\":\"2026-11-30 22:22:35\"}}",
                plain.hash
            )
        );
        for subject in [
            "\",\"hash\":\"",
            "\\\"}\n\ndata: x\r\rid: 1",
            "\u{0}\t\u{7f}\u{85}\u{2028}\u{2029}\u{202e}\u{feff}",
            "</script><!--",
            "\\u0022",
        ] {
            let json = entry(subject).to_json();
            assert!(json.chars().all(is_printable), "{json}");
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(parsed["subject"], subject);
            assert_eq!(parsed.as_object().unwrap().len(), 7);
        }
    }
}
