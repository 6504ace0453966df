//! Triggers that write to tables without transactions, where a ROLLBACK undoes nothing. If there is such a trigger, no trial
//! row is inserted.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::str::Chars;

use super::query;
use super::table::supports_transactions;
use crate::store::Diagnostic;
use crate::store::TableName;
use crate::store::mysql::connection::MySqlConnection;

/// Returns a warning for each INSERT trigger that writes, or may write, to a table without transactions.
pub fn check_triggers(connection: &mut MySqlConnection, table: &TableName) -> Vec<Diagnostic> {
    let (database, name) = query::schema_and_table_parameters(table);
    let first: Vec<Trigger> = query::query_rows_or_empty(
        connection,
        "SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS
         WHERE EVENT_OBJECT_SCHEMA = COALESCE(?, DATABASE()) AND EVENT_OBJECT_TABLE = ?
         AND EVENT_MANIPULATION = 'INSERT'",
        (database, name),
    );
    if first.is_empty() {
        return Vec::new();
    }
    let engines: Vec<(String, Option<String>)> = query::query_rows_or_empty(
        connection,
        "SELECT LOWER(TABLE_NAME), ENGINE FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE'
         AND TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')",
        (),
    );
    let routines: Vec<String> = query::query_rows_or_empty(
        connection,
        "SELECT LOWER(ROUTINE_NAME) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA <> 'sys'",
        (),
    );
    let mut known = VisibleTablesAndRoutines {
        routines: routines.into_iter().collect(),
        ..VisibleTablesAndRoutines::default()
    };
    for (name, engine) in engines {
        // If several databases have a table of this name, the name counts as transactional only if all these tables are.
        let is_safe = engine.is_some_and(|engine| supports_transactions(&engine));
        let is_transactional = known.tables.entry(name).or_insert(true);
        *is_transactional &= is_safe;
    }
    let mut findings = Vec::new();
    let mut examined = HashSet::new();
    let mut triggers = first;
    while let Some((name, body)) = triggers.pop() {
        let Some(body) = body else {
            findings.push(Diagnostic::warning(format!(
                "GM_MAIL_TABLE: trigger `{name}` is hidden from MYSQL_USER and may write to a table without transactions, so \
                 no trial row was inserted into {table}; run GRANT TRIGGER ON {table} TO MYSQL_USER, and check again"
            )));
            continue;
        };
        match known.tables_written_by_trigger(&body) {
            Err(target) => findings.push(Diagnostic::warning(format!(
                "GM_MAIL_TABLE: trigger `{name}` writes into {target}, where the rows of a rolled-back batch remain; no \
                 trial row was inserted into {table}; run: ALTER TABLE ... ENGINE=InnoDB for each table that it writes to"
            ))),
            // The written tables may have triggers too. The database of a written table is unknown, so its name is looked up in
            // all databases.
            Ok(tables) => {
                for written in tables {
                    if examined.len() < MAX_TABLES && examined.insert(written.clone()) {
                        triggers.extend(query::query_rows_or_empty::<Trigger>(
                            connection,
                            "SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS
                             WHERE LOWER(EVENT_OBJECT_TABLE) = ?",
                            (written,),
                        ));
                    }
                }
            }
        }
    }
    findings
}

/// Name and body of a trigger. Without the TRIGGER right MariaDB hides the body, and MySQL the whole trigger.
type Trigger = (String, Option<String>);

/// Names of tables and routines that MYSQL_USER can see, in lower case.
#[derive(Default)]
struct VisibleTablesAndRoutines {
    /// For each table, whether a ROLLBACK undoes an INSERT into it.
    tables: HashMap<String, bool>,
    routines: HashSet<String>,
}

impl VisibleTablesAndRoutines {
    /// Returns the names of the tables that a trigger with this body writes to.
    ///
    /// # Errors
    /// The trigger writes, or may write, to something that a ROLLBACK does not undo; the text names it.
    fn tables_written_by_trigger(&self, body: &str) -> Result<Vec<String>, String> {
        let words = split_into_sql_words(body);
        let mut written = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let mut rest = words.iter().skip(at + 1).map(String::as_str).peekable();
            match word.as_str() {
                "call" => return Err("tables of a procedure".to_owned()),
                "insert" | "replace" | "update" | "delete" => {
                    // `INSERT(` and `REPLACE(` are functions; `ON DUPLICATE KEY UPDATE` and `FOR UPDATE` name no table.
                    let before = at.checked_sub(1).and_then(|at| words.get(at));
                    let is_clause = before.is_some_and(|word| word == "key" || word == "for");
                    if rest.peek() == Some(&"(") || is_clause {
                        continue;
                    }
                    let mut names = rest.skip_while(|word| WORDS_BEFORE_TABLE.contains(word));
                    let is_table_list = matches!(word.as_str(), "update" | "delete");
                    if is_table_list
                        && names
                            .clone()
                            .take_while(|word| !is_end_of_sql_table_list(word))
                            .any(is_sql_table_separator)
                    {
                        return Err("several tables in one statement".to_owned());
                    }
                    let Some(mut name) = names.next() else {
                        continue;
                    };
                    if names.next() == Some(".") {
                        name = names.next().unwrap_or(name);
                    }
                    match self.tables.get(name) {
                        Some(true) => written.push(name.to_owned()),
                        Some(false) => return Err(format!("`{name}`, which has no transactions")),
                        None => {
                            return Err(format!("`{name}`, which MYSQL_USER has no right to see"));
                        }
                    }
                }
                word if self.routines.contains(word) && rest.peek() == Some(&"(") => {
                    return Err(format!("tables of function `{word}`"));
                }
                _ => {}
            }
        }
        Ok(written)
    }
}

/// Returns whether a word ends the list of tables of an UPDATE or DELETE.
fn is_end_of_sql_table_list(word: &str) -> bool {
    matches!(word, "set" | "where" | "order" | "limit" | ";")
}

fn is_sql_table_separator(word: &str) -> bool {
    matches!(word, "," | "join" | "straight_join")
}

/// Returns the words and punctuation of an SQL text in lower case, without comments, strings and the quotes of names.
fn split_into_sql_words(body: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => skip_rest_of_sql_string(&mut chars, c),
            '`' => {
                let name: String = chars.by_ref().take_while(|next| *next != '`').collect();
                words.push(name.to_lowercase());
            }
            '#' => while chars.next().is_some_and(|next| next != '\n') {},
            '-' if begins_sql_dash_comment(chars.clone()) => {
                while chars.next().is_some_and(|next| next != '\n') {}
            }
            '/' if chars.peek() == Some(&'*') => skip_block_comment(&mut chars),
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                let mut word = String::from(c);
                while let Some(next) =
                    chars.next_if(|next| next.is_alphanumeric() || "_$".contains(*next))
                {
                    word.push(next);
                }
                words.push(word.to_lowercase());
            }
            c if c.is_whitespace() => {}
            c => words.push(c.to_string()),
        }
    }
    words
}

/// Skips the rest of a string that began with `quote`. A backslash escapes the next character.
fn skip_rest_of_sql_string(chars: &mut Peekable<Chars>, quote: char) {
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return,
            _ => {}
        }
    }
}

/// `rest` follows a `-`. Returns whether this `-` begins a comment: MySQL requires a second `-`, then a blank.
fn begins_sql_dash_comment(mut rest: Peekable<Chars>) -> bool {
    rest.next() == Some('-') && rest.next().is_none_or(char::is_whitespace)
}

/// Skips a comment whose `/` was read. Of a comment that begins with `/*!` only the beginning is skipped, because MySQL
/// executes its content.
fn skip_block_comment(chars: &mut Peekable<Chars>) {
    chars.next();
    if chars.peek() == Some(&'!') {
        return;
    }
    let mut last = ' ';
    for c in chars.by_ref() {
        if (last, c) == ('*', '/') {
            return;
        }
        last = c;
    }
}

/// Maximum number of written tables whose triggers are examined; triggers of further tables are ignored.
const MAX_TABLES: usize = 32;
/// Words that may stand between a verb and the table that it writes to.
const WORDS_BEFORE_TABLE: &[&str] = &[
    "into",
    "from",
    "ignore",
    "low_priority",
    "high_priority",
    "delayed",
    "quick",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_is_safe_only_if_it_writes_to_transactional_tables() {
        let known = VisibleTablesAndRoutines {
            tables: HashMap::from([("audit".to_owned(), false), ("kept".to_owned(), true)]),
            routines: HashSet::from(["log_it".to_owned()]),
        };
        for (body, is_safe) in [
            (
                "BEGIN IF NEW.subject = 'x' THEN SIGNAL SQLSTATE '45000'; END IF; END",
                true,
            ),
            (
                "SET NEW.subject = REPLACE(NEW.subject, 'audit', 'insert into audit')",
                true,
            ),
            (
                "INSERT INTO kept VALUES (1) ON DUPLICATE KEY UPDATE n = 1",
                true,
            ),
            ("insert ignore into `mail`.`kept` values (1)", true),
            ("INSERT INTO audit VALUES (NEW.hash)", false),
            ("INSERT INTO mail.Audit SET a = 1", false),
            ("UPDATE audit SET n = n + 1", false),
            ("DELETE FROM unseen", false),
            ("CALL log_it(NEW.hash)", false),
            ("SET @x = log_it(NEW.hash)", false),
            (
                "BEGIN /* then insert into audit */ # insert into audit\n END",
                true,
            ),
            ("BEGIN /*!50000 INSERT INTO audit VALUES (1) */; END", false),
            (r"SET @a = 'it\'s'; INSERT INTO audit VALUES (1)", false),
            ("SET @a = 'it''s'; INSERT INTO audit VALUES (1)", false),
            ("SET @a = 5--1; INSERT INTO audit VALUES (1)", false),
            ("SET @a = 5; -- INSERT INTO audit VALUES (1)", true),
            ("UPDATE kept, audit SET audit.n = 1", false),
            ("UPDATE kept JOIN audit SET audit.n = 1", false),
            ("DELETE kept, audit FROM kept JOIN audit", false),
            ("UPDATE kept SET a = 1, b = 2", true),
            ("DELETE FROM kept WHERE a IN (1, 2)", true),
            ("", true),
        ] {
            let judged = known.tables_written_by_trigger(body);
            assert_eq!(judged.is_ok(), is_safe, "{body}: {judged:?}");
        }
    }
}
