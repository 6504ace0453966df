//! Checks of a view, or of a table whose storage engine has no transactions. These checks insert no row.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mysql::prelude::Queryable;

use super::table::supports_transactions;
use super::trial_row::for_update_lookup_warning;
use super::{fixes, query};
use crate::mail::MailId;
use crate::store::Diagnostic;
use crate::store::mysql::connection::MySqlConnection;
use crate::store::mysql::insert;
use crate::store::mysql::unfilled_column::UnfilledColumn;
use crate::store::{INSERTED_COLUMNS, TableName};

/// Checks the rights, whether the server is read-only, the type of column `mail`, and the table under a view.
pub fn check_table_and_rights(
    connection: &mut MySqlConnection,
    table: &TableName,
) -> Vec<Diagnostic> {
    let mut findings = check_rights(connection, table);
    findings.extend(check_read_only(connection));
    findings.extend(check_mail_column_type(connection, table));
    if connection.table_info.engine.is_empty() {
        findings.extend(check_table_under_view(connection, table));
    }
    findings
}

/// Checks the table and column names and the rights of MYSQL_USER: prepares the writer's INSERT, and runs a look-up that
/// finds no row.
pub fn check_rights(connection: &mut MySqlConnection, table: &TableName) -> Vec<Diagnostic> {
    if let Err(error) = insert::insert_statement(connection, table, 1) {
        let what = format!("no row can be inserted into {table}");
        return vec![Diagnostic::error(fixes::mysql_error_finding_text(
            "GM_MAIL_TABLE",
            &what,
            &error,
            table,
        ))];
    }
    let Ok(hashes) = MailId::new_mail_ids(1, SystemTime::now()) else {
        return Vec::new();
    };
    let hashes: Vec<&str> = hashes.iter().map(MailId::as_str).collect();
    let looked_up = connection.call_driver_with_timeout(|conn| {
        let sql = format!("SELECT `hash` FROM {table} WHERE `hash` IN (?) FOR UPDATE");
        conn.exec_drop(sql, hashes)
    });
    match looked_up {
        Ok(()) => Vec::new(),
        Err(error) => vec![for_update_lookup_warning(table, &error)],
    }
}

/// Returns an error if the database server is read-only and MYSQL_USER has no right to write to a read-only server.
fn check_read_only(connection: &mut MySqlConnection) -> Option<Diagnostic> {
    let statement = "SHOW GLOBAL VARIABLES WHERE Variable_name = 'read_only'";
    let variables: Vec<(String, String)> = query::query_rows_or_empty(connection, statement, ());
    let is_on = |(_, value): &(String, String)| !["OFF", "0"].contains(&value.as_str());
    if !variables.iter().any(is_on) {
        return None;
    }
    let grants: Vec<String> = query::query_rows_or_empty(connection, "SHOW GRANTS", ());
    let may_write = |grant: &String| {
        let rights = [
            "ALL PRIVILEGES ON *.*",
            "SUPER",
            "READ_ONLY ADMIN",
            "READ ONLY ADMIN",
            "CONNECTION_ADMIN",
        ];
        rights.iter().any(|right| grant.contains(right))
    };
    let may_write = grants.iter().any(may_write);
    (!may_write).then(|| {
        Diagnostic::error(
            "MYSQL_HOST: the server is read-only (read_only); name a server in MYSQL_HOST that takes writes, or run: SET \
             GLOBAL read_only = 0"
                .to_owned(),
        )
    })
}

/// Returns an error if column `mail` has a type other than the BLOB and BINARY types, which cannot hold a zlib stream. Other
/// checks cover the column's width.
fn check_mail_column_type(
    connection: &mut MySqlConnection,
    table: &TableName,
) -> Option<Diagnostic> {
    let data_types: Vec<String> = query::query_rows_or_empty(
        connection,
        "SELECT LOWER(DATA_TYPE) FROM information_schema.COLUMNS
         WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? AND COLUMN_NAME = 'mail'",
        query::schema_and_table_parameters(table),
    );
    let is_not_binary = |data_type: &&String| {
        !["blob", "binary"]
            .iter()
            .any(|kind| data_type.contains(kind))
    };
    let data_type = data_types.iter().find(is_not_binary)?;
    let definition = fixes::schema_column_definition(table, "mail")?;
    Some(Diagnostic::error(format!(
        "GM_MAIL_TABLE: column `mail` of {table} is {data_type}, which holds text and not the octets of a mail; run: ALTER \
         TABLE {table} MODIFY {definition}"
    )))
}

/// Returns a warning for each unique key that a second mail may violate. If the table is empty, the trial row violates none of
/// these keys.
pub fn check_unique_indexes(
    connection: &mut MySqlConnection,
    table: &TableName,
) -> Vec<Diagnostic> {
    let columns: Vec<(String, String)> = query::query_rows_or_empty(
        connection,
        "SELECT INDEX_NAME, COALESCE(LOWER(COLUMN_NAME), '') FROM information_schema.STATISTICS
             WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? AND NON_UNIQUE = 0
             ORDER BY INDEX_NAME, SEQ_IN_INDEX",
        query::schema_and_table_parameters(table),
    );
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, column) in columns {
        keys.entry(key).or_default().push(column);
    }
    let may_repeat = |(_, columns): &(String, Vec<String>)| {
        (columns.iter().map(String::as_str)).all(|column| {
            INSERTED_COLUMNS.contains(&column) && !NEVER_REPEATED_COLUMNS.contains(&column)
        })
    };
    let finding = |(key, columns): (String, Vec<String>)| {
        Diagnostic::warning(format!(
            "GM_MAIL_TABLE: unique key `{key}` of {table} refuses a second mail with the same `{}`; run: ALTER TABLE {table} \
             DROP INDEX `{key}`",
            columns.join("`, `")
        ))
    };
    keys.into_iter().filter(may_repeat).map(finding).collect()
}

/// Returns the findings about the table under a view, if the view reads only one table and MYSQL_USER can see that table.
fn check_table_under_view(connection: &mut MySqlConnection, table: &TableName) -> Vec<Diagnostic> {
    let definition: Vec<Option<String>> = query::query_rows_or_empty(
        connection,
        "SELECT VIEW_DEFINITION FROM information_schema.VIEWS
             WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?",
        query::schema_and_table_parameters(table),
    );
    let Some(definition) = definition.into_iter().flatten().next() else {
        return Vec::new();
    };
    let Some((database, name)) = only_table_read_by_view(&definition) else {
        return Vec::new();
    };
    let under = format!("`{database}`.`{name}`");
    let mut findings = Vec::new();
    let engine: Vec<Option<String>> = query::query_rows_or_empty(
        connection,
        "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
        (&database, &name),
    );
    if let Some(engine) = engine.into_iter().flatten().next()
        && !supports_transactions(&engine)
    {
        findings.push(Diagnostic::warning(format!(
            "GM_MAIL_TABLE: {under}, the table under the view {table}, is {engine} and has no transactions, so a failure may \
             lose acknowledged mail, and part of a batch may be kept; run: ALTER TABLE {under} ENGINE=InnoDB"
        )));
    }
    type UnfilledColumnRow = (String, String, String, Option<String>);
    let unfilled: Vec<UnfilledColumnRow> = query::query_rows_or_empty(
        connection,
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME FROM information_schema.COLUMNS
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL
             AND EXTRA NOT LIKE '%auto_increment%' AND EXTRA NOT LIKE '%GENERATED%'",
        (&database, &name),
    );
    for (column, data_type, column_type, charset) in unfilled {
        if definition.contains(&format!("`{column}`")) {
            continue;
        }
        let fix = UnfilledColumn::new(&column, &data_type, &column_type, charset.as_deref()).fix;
        findings.push(Diagnostic::error(format!(
            "GM_MAIL_TABLE: column `{column}` of {under} is NOT NULL without a default and not in the view {table}, so no \
             row can be inserted; run: ALTER TABLE {under} {fix}"
        )));
    }
    findings
}

/// Returns the database and name of the only table that a view reads; `None` for any other view.
fn only_table_read_by_view(definition: &str) -> Option<(String, String)> {
    let (_, from) = definition.rsplit_once(" from ")?;
    let from = from.trim_start_matches('(');
    let mut parts = from.split('`');
    let ("", database, ".", name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?)
    else {
        return None;
    };
    let rest = parts
        .next()
        .unwrap_or_default()
        .trim_start_matches(')')
        .trim_start();
    let is_alone = rest.is_empty() || rest.starts_with("where ");
    is_alone.then(|| (database.to_owned(), name.to_owned()))
}

/// Columns on which no unique key refuses a second mail. Each body and hash is different; `dkim_valid` is always NULL, and a
/// unique key allows any number of NULLs.
const NEVER_REPEATED_COLUMNS: [&str; 3] = ["mail", "hash", "dkim_valid"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_table_of_a_single_table_view_is_parsed_from_its_definition() {
        let names = |definition: &str| only_table_read_by_view(definition);
        let mail = Some(("mail".to_owned(), "base".to_owned()));
        assert_eq!(names("select `b`.`x` AS `x` from `mail`.`base`"), mail);
        assert_eq!(
            names("select 1 AS `x` from `mail`.`base` where `x` > 1"),
            mail
        );
        assert_eq!(
            names("select 1 AS `x` from (`mail`.`base` join `mail`.`other`)"),
            None
        );
        assert_eq!(names("select 1 AS `x`"), None);
        assert_eq!(names(""), None);
    }
}
