//! What to do about each error that a database answers: one line for each code.
//!
//! `{table}` stands for the table's name, `{modify}` for the ALTER TABLE that gives the column named by the error the type
//! that `goguerrilla schema` prints. An error that is not in the table is reported in the server's own words alone.

use std::io;

use mysql::{DriverError, Error};

use super::cure_table::{CURES, PASSWORD_CURE, PLUGIN_CURE};
use crate::store::TableName;

/// Returns the text of a finding: the key to look at, what failed, what the server answered, and the cure if it is known.
/// `key` is used for errors that name no other one.
pub fn finding_text(key: &str, what: &str, error: &Error, table: &TableName) -> String {
    let (key, cure) = match error {
        Error::MySqlError(error) => match cure_of_code(error.code) {
            Some((own_key, cure)) => (own_key, filled_in(cure, &error.message, table)),
            None => (key, String::new()),
        },
        error => cure_of_client(error).map_or((key, String::new()), |(key, cure)| {
            (key, filled_in(cure, "", table))
        }),
    };
    let words = error_words(error);
    match cure.as_str() {
        "" => format!("{key}: {what}: {words}"),
        cure => format!("{key}: {what}: {words}; {cure}"),
    }
}

/// Returns what the server or the operating system said, without the names of the library's types.
pub fn error_words(error: &Error) -> String {
    match error {
        Error::MySqlError(error) => error.to_string(),
        Error::IoError(error) if is_time_out(error.kind()) => NO_ANSWER.to_owned(),
        Error::IoError(error) => error.to_string(),
        Error::CodecError(error) => {
            // Around an error of the operating system; its type is not exported.
            let text = error.to_string();
            let inner = text.strip_prefix("IO error: `");
            let inner = inner.and_then(|inner| inner.strip_suffix('\''));
            match inner.unwrap_or(&text) {
                inner if inner.contains("(os error 11)") => NO_ANSWER.to_owned(),
                inner => inner.to_owned(),
            }
        }
        Error::DriverError(DriverError::CouldNotConnect(Some((_, text, _)))) => text.clone(),
        Error::DriverError(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Returns the key and the cure of an error of the server.
fn cure_of_code(code: u16) -> Option<(&'static str, &'static str)> {
    let line = CURES.iter().find(|(known, ..)| *known == code);
    line.map(|(_, key, cure)| (*key, *cure))
}

/// Returns the key and the cure of an error that did not come from the server.
fn cure_of_client(error: &Error) -> Option<(&'static str, &'static str)> {
    match error {
        Error::DriverError(DriverError::UnknownAuthPlugin(_)) => Some(("MYSQL_USER", PLUGIN_CURE)),
        Error::DriverError(
            DriverError::OldMysqlPasswordDisabled
            | DriverError::CleartextPluginDisabled
            | DriverError::InvalidParsecSalt,
        ) => Some(("MYSQL_USER", PASSWORD_CURE)),
        Error::DriverError(DriverError::CouldNotConnect(Some((.., kind)))) => {
            Some(("MYSQL_HOST", cure_of_kind(*kind)))
        }
        Error::DriverError(DriverError::ConnectTimeout | DriverError::CouldNotConnect(None)) => {
            Some(("MYSQL_HOST", cure_of_kind(io::ErrorKind::TimedOut)))
        }
        Error::IoError(error) => Some(("MYSQL_HOST", cure_of_kind(error.kind()))),
        Error::CodecError(_) => Some((
            "MYSQL_HOST",
            "see whether a MySQL or MariaDB server answers there and is not overloaded, or mend MYSQL_HOST",
        )),
        _ => None,
    }
}

fn is_time_out(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// What the operating system calls "Resource temporarily unavailable".
const NO_ANSWER: &str = "it did not answer in time";

fn cure_of_kind(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => {
            "start the database there, or mend the path of its socket in MYSQL_HOST"
        }
        io::ErrorKind::PermissionDenied => {
            "give the user that goguerrilla runs as the right to use that socket, or name host:port in MYSQL_HOST"
        }
        kind if is_time_out(kind) => {
            "see whether the database there answers and no firewall drops its packets, or mend MYSQL_HOST"
        }
        _ => "start the database there, or mend MYSQL_HOST",
    }
}

fn filled_in(cure: &str, message: &str, table: &TableName) -> String {
    let modify = || match named_column(message) {
        Some(column) => match printed_definition(table, &column) {
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
    let cure = cure.replace("{table}", &table.to_string());
    match cure.contains("{modify}") {
        true => cure.replace("{modify}", &modify()),
        false => cure,
    }
}

/// Returns the column that a message names: `column 'x'`, ``column `db`.`table`.`x` `` or `Field 'x'`.
fn named_column(message: &str) -> Option<String> {
    let quoted = ["olumn ", "Field "]
        .iter()
        .filter_map(|word| message.rsplit_once(word))
        .map(|(_, rest)| rest)
        .find(|rest| rest.starts_with(['\'', '`']))?;
    let (quote, rest) = (quoted.chars().next()?, quoted.get(1..)?);
    let end = match quote {
        // A quote inside a name cannot be told from its end; the names that matter have none.
        '\'' => rest.split('\'').next()?,
        _ => rest
            .split("` ")
            .next()?
            .rsplit('`')
            .find(|part| !part.is_empty())?,
    };
    (!end.is_empty()).then(|| end.to_owned())
}

/// Returns a column's definition as the printed schema has it.
pub fn printed_definition(table: &TableName, column: &str) -> Option<String> {
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
        finding_text("GM_MAIL_TABLE", "no row", &error, &TableName::default())
    }

    #[test]
    fn mysql_error_fixes_are_sorted_by_code_and_unique() {
        let codes: Vec<u16> = CURES.iter().map(|(code, ..)| *code).collect();
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
        for (code, key, _) in CURES {
            let text = text(*code, "Field 'x' is odd");
            assert!(
                text.starts_with(key) && !text.contains(['{', '}']),
                "{text}"
            );
        }
    }
}
