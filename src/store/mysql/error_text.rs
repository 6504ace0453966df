//! Texts of database errors for an administrator, each with the configuration key to check.

use std::error::Error as _;
use std::io::{self, ErrorKind};

use mysql::{DriverError, Error};

use super::connect_failure::MySqlConnectFailure;
use crate::store::TableName;

/// Returns the message of the server or the driver, without the type name that the driver puts around it.
pub fn error_words(error: &Error) -> String {
    match error {
        Error::MySqlError(error) => format!("{} (error {})", error.message, error.code),
        error if is_timeout(error) => error_text(error),
        Error::IoError(error) => error.to_string(),
        Error::CodecError(error) => error.to_string(),
        Error::DriverError(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Returns the text of an error for the log and /readyz. The driver reports a database that does not answer in time with the
/// words of the kernel, "Resource temporarily unavailable".
pub fn error_text(error: &Error) -> String {
    match is_timeout(error) {
        true => "the database did not answer in time; see whether a statement or a lock hangs there (SHOW PROCESSLIST), and the network"
            .to_owned(),
        false => error.to_string(),
    }
}

fn is_timeout(error: &Error) -> bool {
    let io_error = match error {
        Error::IoError(error) => Some(error),
        Error::CodecError(error) => error.source().and_then(|source| source.downcast_ref()),
        _ => None,
    };
    // A socket timeout is reported as WouldBlock.
    io_error.is_some_and(|error: &io::Error| {
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    })
}

/// Returns the text of an error of `list` or `show`: the configuration key to check, the message and the fix.
pub fn mysql_read_error_text_and_fix(error: &Error, table: &TableName) -> String {
    if let Some(failure) = MySqlConnectFailure::in_error(error) {
        return failure.to_string();
    }
    let (key, fix) = match error {
        Error::MySqlError(error) => config_key_and_fix_for_code(error.code, table),
        // MySQL asks for any of its plugins if the account does not exist.
        Error::DriverError(DriverError::UnknownAuthPlugin(_)) => USER,
        _ => HOST,
    };
    format!("{key}: {}; {fix}", error_words(error))
}

fn config_key_and_fix_for_code(code: u16, table: &TableName) -> (&'static str, &'static str) {
    match code {
        // If GM_MAIL_TABLE contains the database's name, MYSQL_DB is not the cause.
        1044 | 1049 if table.database_in_table_name().is_some() => TABLE,
        1044 | 1046 | 1049 => DATABASE,
        1045 | 1251 | 1275 | 1524 | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => USER,
        // Errors of reading a table: names, columns, rights, types, an invalid view, a damaged table.
        1017 | 1030 | 1034 | 1054 | 1064 | 1103 | 1142 | 1143 | 1146 | 1194 | 1195 | 1227
        | 1267 | 1270 | 1271 | 1347 | 1356 | 1370 | 1449 | 1932 => TABLE,
        _ => HOST,
    }
}

const HOST: (&str, &str) = ("MYSQL_HOST", "start the database, or correct MYSQL_HOST");
const USER: (&str, &str) = (
    "MYSQL_USER, MYSQL_PASS",
    "correct them, or the account in the database",
);
const DATABASE: (&str, &str) = (
    "MYSQL_DB",
    "name the database of the table, and grant MYSQL_USER its rights there",
);
const TABLE: (&str, &str) = (
    "GM_MAIL_TABLE",
    "`goguerrilla check` names the fix, `goguerrilla schema` prints the table",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_that_does_not_answer_is_named_in_place_of_the_words_of_the_kernel() {
        let timeout = || io::Error::from(ErrorKind::WouldBlock);
        for error in [
            Error::IoError(timeout()),
            Error::CodecError(timeout().into()),
        ] {
            for text in [error_text(&error), error_words(&error)] {
                assert!(
                    text.starts_with("the database did not answer in time; "),
                    "{text}"
                );
            }
        }
        let refused = Error::IoError(io::Error::from(ErrorKind::ConnectionRefused));
        assert!(error_text(&refused).contains("connection refused"));
    }

    #[test]
    fn mysql_error_text_names_the_configuration_key() {
        let server = |code| {
            Error::MySqlError(mysql::MySqlError {
                state: "HY000".to_owned(),
                message: "words".to_owned(),
                code,
            })
        };
        let (plain, qualified) = (
            TableName::default(),
            TableName::parse("mail.new_mail").unwrap(),
        );
        for (code, want) in [
            (1045, "MYSQL_USER, MYSQL_PASS: words (error 1045); "),
            (1049, "MYSQL_DB: words (error 1049); "),
            (1044, "MYSQL_DB: words (error 1044); "),
            (1146, "GM_MAIL_TABLE: words (error 1146); "),
            (1054, "GM_MAIL_TABLE: "),
            (1142, "GM_MAIL_TABLE: "),
            (1040, "MYSQL_HOST: "),
        ] {
            let text = mysql_read_error_text_and_fix(&server(code), &plain);
            assert!(text.starts_with(want), "{text}");
        }
        let text = mysql_read_error_text_and_fix(&server(1049), &qualified);
        assert!(text.starts_with("GM_MAIL_TABLE: "), "{text}");
        let plugin = DriverError::UnknownAuthPlugin("sha256_password".to_owned());
        let text = mysql_read_error_text_and_fix(&Error::DriverError(plugin), &plain);
        assert!(text.starts_with("MYSQL_USER, MYSQL_PASS: "), "{text}");
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = mysql_read_error_text_and_fix(&Error::IoError(refused), &plain);
        assert!(
            text.starts_with("MYSQL_HOST: connection refused; "),
            "{text}"
        );
    }
}
