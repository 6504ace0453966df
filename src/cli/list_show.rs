//! `goguerrilla list` and `goguerrilla show`.

use std::io::{self, Write};

use super::{CommandFailure, print_stdout};
use crate::config::Config;
use crate::logging::{is_printable, push_json_unicode_escape};
use crate::server;
use crate::store::{ListedMail, StoredMailReader};

/// Prints the newest mails first, at most `limit`; `to` selects a recipient.
///
/// # Errors
/// [`CommandFailure`]: the store cannot be read.
pub fn list_mails(
    config: &Config,
    to: Option<&str>,
    limit: u32,
    as_json: bool,
) -> Result<(), CommandFailure> {
    let mut reader = open_store_reader(config)?;
    let mails = reader.list_newest_mails(to, limit);
    let mails = mails.map_err(|error| error.to_string())?;
    let text = match as_json {
        true => mails_as_json(&mails),
        false => mails_as_text_table(&mails),
    };
    print_stdout(text.as_bytes())?;
    // A warning means that some values could not be read; the rest has been printed.
    if let Some(warning) = reader.warning() {
        // If standard error is closed, the warning is lost.
        let _ = writeln!(io::stderr(), "goguerrilla: {warning}");
    }
    Ok(())
}

/// Prints the mail with this hash, octet for octet.
///
/// # Errors
/// [`CommandFailure`]: the store cannot be read, or no mail has this hash.
pub fn show_mail(config: &Config, hash: &str) -> Result<(), CommandFailure> {
    let mut reader = open_store_reader(config)?;
    validate_mail_id_argument(hash)?;
    let mail = reader
        .read_mail_by_hash(hash)
        .map_err(|error| error.to_string())?;
    match mail {
        Some(mail) => print_stdout(&mail),
        None => Err(
            format!("{hash}: no mail has this hash; `goguerrilla list` shows the hashes").into(),
        ),
    }
}

/// Opens the configured store for reading.
///
/// # Errors
/// The store cannot be opened; the text names the key to check.
fn open_store_reader(config: &Config) -> Result<Box<dyn StoredMailReader>, String> {
    let store = server::store_factory_of_kind(config.store).map_err(|error| error.to_string())?;
    store.open_reader(config).map_err(|error| error.to_string())
}

/// Checks that `text` is a hash in lower case. Lower case is required because Redis and SQLite compare hashes
/// case-sensitively.
fn validate_mail_id_argument(text: &str) -> Result<(), String> {
    let is_digit = |octet: u8| matches!(octet, b'0'..=b'9' | b'a'..=b'f');
    if text.len() == 32 && text.bytes().all(is_digit) {
        return Ok(());
    }
    Err(format!(
        "{}: expected a hash, which is 32 digits 0-9 and a-f in lower case; `goguerrilla list` shows the hashes",
        escape_unprintable(text)
    ))
}

/// Formats mails as a table with aligned columns.
fn mails_as_text_table(mails: &[ListedMail]) -> String {
    let header = ["HASH", "DATE", "FROM", "TO", "RECIPIENT", "SIZE", "SUBJECT"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header)
        .chain(mails.iter().map(cells_of_mail))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row.get(column).map_or(0, |cell| cell.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    rows.iter().map(|row| aligned_line(row, &widths)).collect()
}

/// Formats one mail as a line below [`STREAM_HEADER`], for output whose later lines are not known. A longer value moves the
/// rest of its line to the right.
pub fn mail_as_stream_line(mail: &ListedMail) -> String {
    aligned_line(&cells_of_mail(mail), &STREAM_WIDTHS)
}

fn cells_of_mail(mail: &ListedMail) -> [String; 7] {
    let cell = |value: &Option<String>| {
        value
            .as_deref()
            .map_or("NULL".to_owned(), escape_unprintable)
    };
    let from = mail.from.as_ref();
    [
        cell(&hash_if_not_empty(mail)),
        cell(&mail.date),
        from.map_or_else(
            || cell(&None),
            |from| format!("<{}>", escape_unprintable(from)),
        ),
        cell(&mail.to),
        cell(&mail.recipient),
        mail.size.to_string(),
        cell(&mail.subject),
    ]
}

fn aligned_line(cells: &[String], widths: &[usize]) -> String {
    // Not padded by `format!`, which panics at a width above 65,535: another program may have written a longer value.
    let padded = cells.iter().zip(widths).map(|(cell, width)| {
        cell.clone() + &" ".repeat(width.saturating_sub(cell.chars().count()))
    });
    format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
}

fn hash_if_not_empty(mail: &ListedMail) -> Option<String> {
    Some(mail.hash.clone()).filter(|hash| !hash.is_empty())
}

/// Escapes control and formatting characters, with which a sender could manipulate the terminal or break the line.
fn escape_unprintable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if is_printable(c) {
                c.to_string()
            } else {
                c.escape_unicode().to_string()
            }
        })
        .collect()
}

/// Formats mails as one JSON array on one line.
fn mails_as_json(mails: &[ListedMail]) -> String {
    let mails: Vec<serde_json::Value> = mails.iter().map(mail_as_json_value).collect();
    json_line(&mails.into())
}

/// Formats one mail as a JSON object on one line.
pub fn mail_as_json_line(mail: &ListedMail) -> String {
    json_line(&mail_as_json_value(mail))
}

fn mail_as_json_value(mail: &ListedMail) -> serde_json::Value {
    serde_json::json!({
        "hash": hash_if_not_empty(mail),
        "date": mail.date,
        "from": mail.from,
        "to": mail.to,
        "recipient": mail.recipient,
        "size": mail.size.octets(),
        "subject": mail.subject,
    })
}

fn json_line(value: &serde_json::Value) -> String {
    let mut text = String::new();
    // Unprintable characters occur only inside strings, so the whole text is still valid JSON after they are escaped.
    for c in value.to_string().chars() {
        match is_printable(c) {
            true => text.push(c),
            false => push_json_unicode_escape(&mut text, c),
        }
    }
    text + "\n"
}

/// The first line of `list --follow`, whose columns have [`STREAM_WIDTHS`].
pub const STREAM_HEADER: &str = concat!(
    "HASH                              DATE                 FROM                            ",
    "TO                              RECIPIENT                       SIZE      SUBJECT\n"
);
/// Widths of the columns of `list --follow`: a hash, a date, and addresses and sizes of usual lengths.
const STREAM_WIDTHS: [usize; 7] = [32, 19, 30, 30, 30, 8, 0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ListedMailSize;

    #[test]
    fn list_table_escapes_control_characters() {
        let mail = ListedMail {
            hash: "0f".to_owned(),
            date: None,
            from: Some(String::new()),
            to: Some("u@x".to_owned()),
            recipient: Some("u@y".to_owned()),
            size: ListedMailSize::Expired,
            subject: Some("a\u{1b}[2J\u{202e}\u{85}".to_owned()),
        };
        let table = mails_as_text_table(std::slice::from_ref(&mail));
        assert!(
            table.lines().all(|line| line.chars().all(is_printable)),
            "{table}"
        );
        let json: serde_json::Value =
            serde_json::from_str(&mails_as_json(std::slice::from_ref(&mail))).unwrap();
        assert_eq!(json[0]["subject"].as_str(), mail.subject.as_deref());
        assert!(json[0]["date"].is_null(), "{json}");
        assert!(table.contains("0f    NULL  <>    u@x"), "{table}");
    }

    #[test]
    fn stream_header_has_the_widths_of_the_lines() {
        let names = STREAM_HEADER.split_whitespace().map(str::to_owned);
        let names: Vec<String> = names.collect();
        assert_eq!(aligned_line(&names, &STREAM_WIDTHS), STREAM_HEADER);
    }

    #[test]
    fn hash_argument_must_be_32_lower_case_hex_digits() {
        assert_eq!(
            validate_mail_id_argument("0123456789abcdef0123456789abcdef"),
            Ok(())
        );
        for text in [
            "",
            "0123456789abcdef0123456789abcde",
            "0123456789abcdef0123456789abcdef0",
            "0123456789ABCDEF0123456789ABCDEF",
            "0123456789abcdef0123456789abcdeg",
            "用户用户用户用户用户户户",
        ] {
            let error = validate_mail_id_argument(text).expect_err(text);
            assert!(
                error.starts_with(&format!("{text}: expected a hash, ")),
                "{error}"
            );
        }
    }
}
