//! GM_RECIPIENT_QUERY and GM_RECIPIENT_CACHE_SECONDS.

use std::iter::Peekable;
use std::str::Chars;
use std::time::Duration;

use super::raw::{RawConfig, bad_value};
use super::{ConfigError, StoreKind};

impl RawConfig {
    /// Parses the query: a SELECT with exactly one placeholder, or nothing.
    ///
    /// # Errors
    /// [`ConfigError`] for another statement, and for any statement if the store is not MySQL.
    pub fn parse_recipient_query(&self) -> Result<String, ConfigError> {
        let key = "GM_RECIPIENT_QUERY";
        let query = self.configured_or_default_value(key).trim();
        if query.is_empty() {
            return Ok(String::new());
        }
        if self.store_kind()? != StoreKind::MySql {
            let expected =
                "\"\", because GM_STORE is not \"mysql\", whose database answers the query";
            return Err(bad_value(key, expected, query));
        }
        // With a semicolon at its end, `EXPLAIN` and some servers would reject the statement.
        let query = query.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
        if !is_select(query) || count_placeholders(query) != 1 {
            let expected = "a SELECT with exactly one ? for the address, such as \
                            \"SELECT 1 FROM mailbox WHERE address = ?\"";
            return Err(bad_value(key, expected, query));
        }
        Ok(query.to_owned())
    }

    /// Parses the time for which answers are kept.
    ///
    /// # Errors
    /// [`ConfigError`] for anything but a number of seconds.
    pub fn parse_recipient_cache_time(&self) -> Result<Duration, ConfigError> {
        let seconds = self.parse_number(
            "GM_RECIPIENT_CACHE_SECONDS",
            "a number of seconds such as \"60\", or \"0\" for no cache",
            0..=MAX_CACHE_SECONDS,
        )?;
        Ok(Duration::from_secs(seconds as u64))
    }
}

/// Returns whether a statement begins with the word SELECT.
fn is_select(statement: &str) -> bool {
    match statement.split_at_checked("SELECT".len()) {
        Some((verb, rest)) => {
            verb.eq_ignore_ascii_case("SELECT")
                && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
        }
        None => false,
    }
}

/// Returns the number of placeholders in a statement: question marks outside of quotes and comments.
fn count_placeholders(statement: &str) -> usize {
    let mut chars = statement.chars().peekable();
    let mut count = 0;
    while let Some(c) = chars.next() {
        match c {
            '?' => count += 1,
            '\'' | '"' | '`' => skip_quoted(&mut chars, c),
            '#' => skip_line(&mut chars),
            // `--` begins a comment only before white space.
            '-' if chars.peek() == Some(&'-') => {
                chars.next();
                if chars.peek().is_none_or(|c| c.is_whitespace()) {
                    skip_line(&mut chars);
                }
            }
            '/' if chars.peek() == Some(&'*') => skip_comment(&mut chars),
            _ => {}
        }
    }
    count
}

/// Skips text up to its closing quote. A doubled quote needs no case of its own, because it ends one text and begins another.
fn skip_quoted(chars: &mut Peekable<Chars>, quote: char) {
    while let Some(c) = chars.next() {
        match c {
            '\\' if quote != '`' => drop(chars.next()),
            c if c == quote => return,
            _ => {}
        }
    }
}

fn skip_line(chars: &mut Peekable<Chars>) {
    chars.by_ref().take_while(|c| *c != '\n').for_each(drop);
}

fn skip_comment(chars: &mut Peekable<Chars>) {
    chars.next();
    let mut previous = ' ';
    for c in chars.by_ref() {
        if previous == '*' && c == '/' {
            return;
        }
        previous = c;
    }
}

/// Maximum of GM_RECIPIENT_CACHE_SECONDS: one day. Mail for a recipient that was removed is accepted for that long.
const MAX_CACHE_SECONDS: usize = 86_400;

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn parse(query: &str) -> Result<String, String> {
        let json =
            serde_json::json!({"GM_STORE": "mysql", "MYSQL_DB": "m", "GM_RECIPIENT_QUERY": query});
        let config = Config::from_json(&json.to_string());
        config
            .map(|config| config.recipient_query)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn recipient_query_is_a_select_with_one_placeholder() {
        for query in [
            "",
            "SELECT 1 FROM m WHERE a = ?",
            "select\n1 from m where a=?",
            "SELECT'?' FROM m WHERE a = ? -- and ?",
            "SELECT 1 FROM m WHERE a = ? AND b <> 'it''s ? \\' ?' AND `c?` = \"?\"",
            "SELECT 1 /* ? **/ FROM m # ?\n WHERE a = ?",
            "SELECT 1--? FROM m",
        ] {
            assert_eq!(parse(query).as_deref(), Ok(query));
        }
        assert_eq!(parse(" SELECT ? ; ").as_deref(), Ok("SELECT ?"));
        for query in [
            "SELECT 1 FROM m",
            "SELECT 1 FROM m WHERE a = ? OR b = ?",
            "SELECT 1 FROM m WHERE a = '?'",
            "SELECT 1 FROM m WHERE a = 1 -- ?",
            "SELECTED ?",
            "DELETE FROM m WHERE a = ?",
            "CALL p(?)",
            "é ?",
            ";",
        ] {
            let error = parse(query).unwrap_err();
            assert!(
                error.starts_with("GM_RECIPIENT_QUERY: expected a SELECT "),
                "{query}: {error}"
            );
        }
    }

    #[test]
    fn recipient_query_needs_the_mysql_store() {
        for store in ["sqlite", "discard"] {
            let json = format!(r#"{{"GM_STORE": "{store}", "GM_RECIPIENT_QUERY": "SELECT ?"}}"#);
            let error = Config::from_json(&json).unwrap_err().to_string();
            assert!(
                error.contains("because GM_STORE is not \"mysql\""),
                "{error}"
            );
        }
        let by_key = Config::from_json(r#"{"MYSQL_USER": "u", "GM_RECIPIENT_QUERY": "SELECT ?"}"#);
        assert_eq!(by_key.unwrap().recipient_query, "SELECT ?");
    }
}
