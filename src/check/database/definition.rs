//! A view, or a table without transactions, judged without inserting anything.

use std::collections::BTreeMap;

use mysql::prelude::Queryable;

use super::table::has_transactions;
use super::trial_row::no_look_up;
use super::{ask, cures};
use crate::mail::MailId;
use crate::store::Diagnostic;
use crate::store::TableName;
use crate::store::mysql::connection::DbConnection;
use crate::store::mysql::insert;
use crate::store::mysql::unfilled_column::UnfilledColumn;

/// Rights, a server that takes no writes, columns that hold no mail, and the table under a view.
pub fn check(link: &mut DbConnection, table: &TableName) -> Vec<Diagnostic> {
    let mut findings = check_rights(link, table);
    findings.extend(read_only(link));
    findings.extend(text_column(link, table));
    if link.facts.engine.is_empty() {
        findings.extend(under_the_view(link, table));
    }
    findings
}

/// The server looks at names and rights as it prepares a writer's INSERT; the look-up changes nothing.
pub fn check_rights(link: &mut DbConnection, table: &TableName) -> Vec<Diagnostic> {
    if let Err(error) = insert::statement(link, table, 1) {
        let what = format!("no row can be inserted into {table}");
        return vec![Diagnostic::error(cures::finding_text(
            "GM_MAIL_TABLE",
            &what,
            &error,
            table,
        ))];
    }
    let Ok(hashes) = MailId::random(1) else {
        return Vec::new();
    };
    let hashes: Vec<&str> = hashes.iter().map(MailId::as_str).collect();
    let looked_up = link.with_timeout(|connection| {
        let sql = format!("SELECT `hash` FROM {table} WHERE `hash` IN (?) FOR UPDATE");
        connection.exec_drop(sql, hashes)
    });
    match looked_up {
        Ok(()) => Vec::new(),
        Err(error) => vec![no_look_up(table, &error)],
    }
}

/// An INSERT would be refused by a server that is read-only, except for accounts that may write there all the same.
fn read_only(link: &mut DbConnection) -> Option<Diagnostic> {
    let question = "SHOW GLOBAL VARIABLES WHERE Variable_name = 'read_only'";
    let variables: Vec<(String, String)> = ask::rows(link, question, ());
    let is_on = |(_, value): &(String, String)| !["OFF", "0"].contains(&value.as_str());
    if !variables.iter().any(is_on) {
        return None;
    }
    let grants: Vec<String> = ask::rows(link, "SHOW GRANTS", ());
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

/// A column `mail` that is text cannot hold a zlib stream; widths are looked at for every table.
fn text_column(link: &mut DbConnection, table: &TableName) -> Option<Diagnostic> {
    let data_types: Vec<String> = ask::rows(
        link,
        "SELECT LOWER(DATA_TYPE) FROM information_schema.COLUMNS
         WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? AND COLUMN_NAME = 'mail'",
        ask::names(table),
    );
    let is_text = |data_type: &&String| {
        !["blob", "binary"]
            .iter()
            .any(|kind| data_type.contains(kind))
    };
    let data_type = data_types.iter().find(is_text)?;
    let definition = cures::printed_definition(table, "mail")?;
    Some(Diagnostic::error(format!(
        "GM_MAIL_TABLE: column `mail` of {table} is {data_type}, which holds text and not the octets of a mail; run: ALTER \
         TABLE {table} MODIFY {definition}"
    )))
}

/// Unique keys of columns that another mail may have the same values in, as no trial row of an empty table shows.
pub fn unique_keys(link: &mut DbConnection, table: &TableName) -> Vec<Diagnostic> {
    let columns: Vec<(String, String)> = ask::rows(
        link,
        "SELECT INDEX_NAME, COALESCE(LOWER(COLUMN_NAME), '') FROM information_schema.STATISTICS
             WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? AND NON_UNIQUE = 0
             ORDER BY INDEX_NAME, SEQ_IN_INDEX",
        ask::names(table),
    );
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, column) in columns {
        keys.entry(key).or_default().push(column);
    }
    let may_repeat = |(_, columns): &(String, Vec<String>)| {
        (columns.iter()).all(|column| REPEATED.contains(&column.as_str()))
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

/// What is wrong with the table under a view of one table, as far as MYSQL_USER may see it.
fn under_the_view(link: &mut DbConnection, table: &TableName) -> Vec<Diagnostic> {
    let definition: Vec<Option<String>> = ask::rows(
        link,
        "SELECT VIEW_DEFINITION FROM information_schema.VIEWS
             WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?",
        ask::names(table),
    );
    let Some(definition) = definition.into_iter().flatten().next() else {
        return Vec::new();
    };
    let Some((database, name)) = only_table_of(&definition) else {
        return Vec::new();
    };
    let under = format!("`{database}`.`{name}`");
    let mut findings = Vec::new();
    let engine: Vec<Option<String>> = ask::rows(
        link,
        "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
        (&database, &name),
    );
    if let Some(engine) = engine.into_iter().flatten().next()
        && !has_transactions(&engine)
    {
        findings.push(Diagnostic::warning(format!(
            "GM_MAIL_TABLE: {under}, the table under the view {table}, is {engine} and has no transactions, so a 250 is a \
             weaker promise and half a batch may be kept; run: ALTER TABLE {under} ENGINE=InnoDB"
        )));
    }
    type Unfilled = (String, String, String, Option<String>);
    let unfilled: Vec<Unfilled> = ask::rows(
        link,
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME FROM information_schema.COLUMNS
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL
             AND EXTRA NOT LIKE '%auto_increment%' AND EXTRA NOT LIKE '%GENERATED%'",
        (&database, &name),
    );
    for (column, data_type, column_type, charset) in unfilled {
        if definition.contains(&format!("`{column}`")) {
            continue;
        }
        let cure = UnfilledColumn::new(&column, &data_type, &column_type, charset.as_deref()).cure;
        findings.push(Diagnostic::error(format!(
            "GM_MAIL_TABLE: column `{column}` of {under} is NOT NULL without a default and not in the view {table}, so no \
             row can be inserted; run: ALTER TABLE {under} {cure}"
        )));
    }
    findings
}

/// Returns database and name of the only table that a view is made of; `None` for any other view.
fn only_table_of(definition: &str) -> Option<(String, String)> {
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

/// Columns that two mails may have the same value in; a NULL, as in `dkim_valid`, is never the same as another one.
const REPEATED: &[&str] = &[
    "date",
    "from",
    "to",
    "subject",
    "body",
    "charset",
    "spam_score",
    "content_type",
    "recipient",
    "has_attach",
    "ip_addr",
    "delivered",
    "attach_info",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_table_of_a_single_table_view_is_parsed_from_its_definition() {
        let names = |definition: &str| only_table_of(definition);
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
