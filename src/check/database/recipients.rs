//! The check of GM_RECIPIENT_QUERY: it is run once, and explained.

use std::sync::Arc;

use mysql::{Error, Row, Value};

use super::fixes;
use crate::check::driver_panic::run_check_catching_panic;
use crate::store::Diagnostic;
use crate::store::mysql::recipients::{RecipientQueryConnection, RecipientQuerySettings};

/// Runs the query with an address that cannot exist, and asks the database whether the query uses an index.
pub fn check_recipient_query(settings: &RecipientQuerySettings) -> Vec<Diagnostic> {
    run_check_catching_panic("GM_RECIPIENT_QUERY", || run_and_explain(settings))
}

fn run_and_explain(settings: &RecipientQuerySettings) -> Vec<Diagnostic> {
    let (watchdog, metrics) = (Arc::default(), Arc::default());
    let opened = (0..settings.database.hosts.len())
        .map(|host| RecipientQueryConnection::open(settings, host, &watchdog, &metrics))
        .find_map(Result::ok);
    // The check of the hosts says why none of them can be reached.
    let Some(mut connection) = opened else {
        return Vec::new();
    };
    match connection.returns_row(&settings.query, IMPOSSIBLE_ADDRESS) {
        Err(error) => return vec![query_error_finding(&error)],
        Ok(true) => {
            return vec![Diagnostic::warning(format!(
                "GM_RECIPIENT_QUERY: it returns a row for {IMPOSSIBLE_ADDRESS}, which cannot exist, so every recipient is \
                 accepted; a SELECT of EXISTS or COUNT returns a row in any case: write SELECT 1 FROM ... WHERE ..."
            ))];
        }
        Ok(false) => {}
    }
    match connection.explain(&settings.query, IMPOSSIBLE_ADDRESS) {
        Ok(plan) => plan
            .iter()
            .find_map(full_scan_finding)
            .into_iter()
            .collect(),
        Err(error) => vec![Diagnostic::warning(format!(
            "GM_RECIPIENT_QUERY: the database does not explain it, so whether it uses an index is unknown: {}; \
             for a view, grant SHOW VIEW on it to MYSQL_USER",
            fixes::error_words(&error)
        ))],
    }
}

fn query_error_finding(error: &Error) -> Diagnostic {
    let fix = match error {
        Error::MySqlError(error) => match error.code {
            1142 | 1143 | 1370 => "; grant MYSQL_USER the SELECT on its tables",
            1046 => "; name the database in MYSQL_DB, or before the name of the table",
            1792 => "; it must not write or lock rows",
            _ => "; try the query in a client of the database, with an address in place of the ?",
        },
        _ => "; an answer must take less than 2 s: see whether the query needs an index",
    };
    Diagnostic::error(format!(
        "GM_RECIPIENT_QUERY: the query fails, so every recipient gets 451: {}{fix}",
        fixes::error_words(error)
    ))
}

/// Returns a warning if this row of EXPLAIN shows that a whole table or index is read for each recipient.
fn full_scan_finding(plan: &Row) -> Option<Diagnostic> {
    let table = explain_column(plan, "table")?;
    let access = explain_column(plan, "type")?;
    let rows: u64 = explain_column(plan, "rows")?.parse().ok()?;
    // For a small table the database may prefer to read all of it although there is an index.
    let has_index = explain_column(plan, "possible_keys").is_some() && rows <= SMALL_TABLE_ROWS;
    // A table in angle brackets is the result of a part of the query, which has a row of its own.
    if has_index || !["ALL", "index"].contains(&access.as_str()) || table.starts_with('<') {
        return None;
    }
    Some(Diagnostic::warning(format!(
        "GM_RECIPIENT_QUERY: it uses no index of {table} to find an address, and reads about {rows} rows for each recipient; \
         create an index of the column that it compares with ?, and compare the column itself, not a function of it"
    )))
}

/// Returns a value of a row of EXPLAIN as text; `None` for NULL and for a column that the server does not have.
fn explain_column(plan: &Row, name: &str) -> Option<String> {
    let columns = plan.columns_ref();
    let at = columns
        .iter()
        .position(|column| column.name_str().eq_ignore_ascii_case(name))?;
    match plan.as_ref(at)? {
        Value::Bytes(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An address that cannot exist: its top-level domain is reserved for that (RFC 2606).
const IMPOSSIBLE_ADDRESS: &str = "goguerrilla-check@address-that-does-not-exist.invalid";
/// Number of rows up to which reading a whole table takes no longer than a look-up in an index.
const SMALL_TABLE_ROWS: u64 = 1_000;
