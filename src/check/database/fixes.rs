//! The text of a database error in a finding, with its fix.
//!
//! In a fix, `{table}` stands for the table's name. `{modify}` stands for an ALTER TABLE that changes the column named in the
//! error message to the type that `goguerrilla schema` prints. A finding for an error without a known fix contains only the
//! server's message.

use std::io;

use mysql::{DriverError, Error};

use super::fix_table::{FIXES, PASSWORD_FIX, PLUGIN_FIX};
use crate::store::TableName;
use crate::store::mysql::connect_failure::MySqlConnectFailure;
use crate::store::mysql::error_text;

/// Returns the text of a finding: the configuration key, what failed, the server's message and the fix, if one is known.
/// `key` is the configuration key to name if the error itself does not determine one.
pub fn mysql_error_finding_text(key: &str, what: &str, error: &Error, table: &TableName) -> String {
    if let Some(failure) = MySqlConnectFailure::in_error(error) {
        return failure.finding_text(what);
    }
    let (key, fix) = match error {
        Error::MySqlError(error) => match key_and_fix_for_mysql_code(error.code) {
            Some((error_key, fix)) => (
                error_key,
                fill_fix_text_placeholders(fix, &error.message, table),
            ),
            None => (key, String::new()),
        },
        error => key_and_fix_for_driver_error(error).map_or((key, String::new()), |(key, fix)| {
            (key, fill_fix_text_placeholders(fix, "", table))
        }),
    };
    let words = error_words(error);
    match fix.as_str() {
        "" => format!("{key}: {what}: {words}"),
        fix => format!("{key}: {what}: {words}; {fix}"),
    }
}

/// Returns the message of the server or the operating system, without the type names that the driver puts around it.
pub fn error_words(error: &Error) -> String {
    match error {
        Error::MySqlError(error) => error.to_string(),
        error if error_text::is_timeout(error) => NO_ANSWER.to_owned(),
        Error::DriverError(DriverError::CouldNotConnect(Some((_, text, _)))) => text.clone(),
        error => error_text::error_words(error),
    }
}

/// Returns the configuration key and the fix for a server's error code; `None` if no fix is known.
fn key_and_fix_for_mysql_code(code: u16) -> Option<(&'static str, &'static str)> {
    let line = FIXES.iter().find(|(known, ..)| *known == code);
    line.map(|(_, key, fix)| (*key, *fix))
}

/// Returns the configuration key and the fix for an error of the driver or the operating system; `None` if no fix is known.
fn key_and_fix_for_driver_error(error: &Error) -> Option<(&'static str, &'static str)> {
    match error {
        Error::DriverError(DriverError::UnknownAuthPlugin(_)) => Some(("MYSQL_USER", PLUGIN_FIX)),
        Error::DriverError(
            DriverError::OldMysqlPasswordDisabled
            | DriverError::CleartextPluginDisabled
            | DriverError::InvalidParsecSalt,
        ) => Some(("MYSQL_USER", PASSWORD_FIX)),
        Error::DriverError(DriverError::CouldNotConnect(Some((.., kind)))) => {
            Some(("MYSQL_HOST", fix_for_database_io_error(*kind)))
        }
        Error::DriverError(DriverError::ConnectTimeout | DriverError::CouldNotConnect(None)) => {
            Some((
                "MYSQL_HOST",
                fix_for_database_io_error(io::ErrorKind::TimedOut),
            ))
        }
        Error::IoError(error) => Some(("MYSQL_HOST", fix_for_database_io_error(error.kind()))),
        Error::CodecError(_) => Some((
            "MYSQL_HOST",
            "see whether a MySQL or MariaDB server answers there and is not overloaded, or correct MYSQL_HOST",
        )),
        _ => None,
    }
}

/// The text of a timeout, after a text that names the host.
const NO_ANSWER: &str = "it did not answer in time";

fn fix_for_database_io_error(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => {
            "start the database there, or correct the path of its socket in MYSQL_HOST"
        }
        io::ErrorKind::PermissionDenied => {
            "give the user that goguerrilla runs as the right to use that socket, or name host:port in MYSQL_HOST"
        }
        kind if error_text::is_timeout_kind(kind) => error_text::SILENT_HOST_FIX,
        _ => "start the database there, or correct MYSQL_HOST",
    }
}

fn fill_fix_text_placeholders(fix: &str, message: &str, table: &TableName) -> String {
    let modify = || match column_name_in_mysql_error(message) {
        Some(column) => match schema_column_definition(table, &column) {
            Some(definition) => format!("run: ALTER TABLE {table} MODIFY {definition}"),
            None => {
                let column = column.replace('`', "``");
                format!(
                    "change column `{column}` of {table} so that it takes any value, or drop it"
                )
            }
        },
        None => {
            format!("compare the columns of {table} with what `goguerrilla schema` prints")
        }
    };
    let fix = fix.replace("{table}", &table.to_string());
    match fix.contains("{modify}") {
        true => fix.replace("{modify}", &modify()),
        false => fix,
    }
}

/// Returns the name of the column in an error message: `column 'x'`, ``column `db`.`table`.`x` `` or `Field 'x'`.
fn column_name_in_mysql_error(message: &str) -> Option<String> {
    let quoted = ["olumn ", "Field "]
        .iter()
        .filter_map(|word| message.rsplit_once(word))
        .map(|(_, rest)| rest)
        .find(|rest| rest.starts_with(['\'', '`']))?;
    let (quote, rest) = (quoted.chars().next()?, quoted.get(1..)?);
    let end = match quote {
        // A quote inside the name would end the name early, but no column of the schema has a quote in its name.
        '\'' => rest.split('\'').next()?,
        _ => rest
            .split("` ")
            .next()?
            .rsplit('`')
            .find(|part| !part.is_empty())?,
    };
    (!end.is_empty()).then(|| end.to_owned())
}

/// Returns the definition of a column in the schema that `goguerrilla schema` prints; `None` if the schema has no such column.
pub fn schema_column_definition(table: &TableName, column: &str) -> Option<String> {
    let start = format!("`{}` ", column.to_ascii_lowercase());
    let schema = table.mysql_schema();
    let line = (schema.lines().map(str::trim)).find(|line| line.starts_with(&start))?;
    Some(line.trim_end_matches(',').to_owned())
}

#[cfg(test)]
mod tests {
    use mysql::MySqlError;

    use super::*;

    fn text(code: u16, message: &str) -> String {
        let error = Error::MySqlError(MySqlError {
            state: "HY000".to_owned(),
            message: message.to_owned(),
            code,
        });
        mysql_error_finding_text("GM_MAIL_TABLE", "no row", &error, &TableName::default())
    }

    #[test]
    fn mysql_error_fixes_are_sorted_by_code_and_unique() {
        let codes: Vec<u16> = FIXES.iter().map(|(code, ..)| *code).collect();
        assert!(codes.is_sorted_by(|one, next| one < next), "{codes:?}");
    }

    #[test]
    fn value_error_suggests_the_column_type_of_the_schema() {
        for (code, message, want) in [
            (
                1406,
                "Data too long for column 'hash' at row 1",
                "run: ALTER TABLE `new_mail` MODIFY `hash` char(32) character set latin1 NOT NULL",
            ),
            (
                1366,
                r"Incorrect string value: '\x9C' for column `mail`.`new_mail`.`mail` at row 1",
                "run: ALTER TABLE `new_mail` MODIFY `mail` longblob NOT NULL",
            ),
            (
                1264,
                "Out of range value for column 'has_attach' at row 1",
                "run: ALTER TABLE `new_mail` MODIFY `has_attach` int(11) NOT NULL",
            ),
            (
                3105,
                "The value specified for generated column 'subject' in table 'new_mail' is not allowed.",
                "run: ALTER TABLE `new_mail` MODIFY `subject` varchar(255) NOT NULL",
            ),
            (
                1048,
                "Column 'dkim_valid' cannot be null",
                "run: ALTER TABLE `new_mail` MODIFY `dkim_valid` tinyint(4) default NULL",
            ),
            (1406, "Data too long", "compare the columns of `new_mail`"),
            (
                1406,
                "Data too long for column 'x' at row 1",
                "change column `x`",
            ),
            (1406, "column ''", "compare the columns"),
            (1406, "column `", "compare the columns"),
        ] {
            let text = text(code, message);
            assert!(text.contains(want), "{message}: {text}");
        }
    }

    #[test]
    fn unknown_mysql_error_is_reported_verbatim() {
        assert_eq!(
            text(9_999, "something new"),
            "GM_MAIL_TABLE: no row: ERROR 9999 (HY000): something new"
        );
    }

    #[test]
    fn fix_texts_contain_no_unfilled_placeholder() {
        for (code, key, _) in FIXES {
            let text = text(*code, "Field 'x' is odd");
            assert!(
                text.starts_with(key) && !text.contains(['{', '}']),
                "{text}"
            );
        }
    }
}
