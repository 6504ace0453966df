//! Texts of database errors for an administrator, each with the configuration key to check.

use std::io;

use mysql::{DriverError, Error};

use super::connect_failure::MySqlConnectFailure;
use crate::store::TableName;

/// Returns the message of the server, the driver or the operating system, without the type names that the driver puts around
/// it.
pub fn error_words(error: &Error) -> String {
    match error {
        Error::MySqlError(error) => format!("{} (error {})", error.message, error.code),
        error if is_timeout(error) => "the database did not answer in time".to_owned(),
        Error::IoError(error) => error.to_string(),
        Error::CodecError(error) => text_in_codec_error(&error.to_string()).to_owned(),
        Error::DriverError(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Returns the text of an error for the log and /readyz: the text of the driver, with its name for the kind of error, unless it
/// means that a time limit of the socket has passed.
pub fn error_text(error: &Error) -> String {
    match is_timeout(error) {
        true => format!("{}; {SILENT_HOST_FIX}", error_words(error)),
        false => error.to_string(),
    }
}

/// Returns whether the error means that a time limit of the socket has passed. Its own text is that of EAGAIN, "Resource
/// temporarily unavailable".
pub fn is_timeout(error: &Error) -> bool {
    match error {
        Error::IoError(error) => is_timeout_kind(error.kind()),
        // The error of the operating system is wrapped in a type that the driver does not export, so only the text shows it.
        Error::CodecError(error) => error.to_string().contains("(os error 11)"),
        _ => false,
    }
}

/// Returns whether an error of this kind means that a time limit of the socket has passed.
pub fn is_timeout_kind(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Returns the error of the operating system in the text of a codec error.
fn text_in_codec_error(text: &str) -> &str {
    let inner = text.strip_prefix("IO error: `");
    inner
        .and_then(|inner| inner.strip_suffix('\''))
        .unwrap_or(text)
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
        error if is_timeout(error) => SILENT_HOST,
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
const SILENT_HOST: (&str, &str) = ("MYSQL_HOST", SILENT_HOST_FIX);
/// The fix for a database that does not answer.
pub const SILENT_HOST_FIX: &str =
    "see whether the database answers and no firewall drops its packets, or correct MYSQL_HOST";
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
        let late = std::io::Error::from(std::io::ErrorKind::WouldBlock);
        assert_eq!(
            mysql_read_error_text_and_fix(&Error::IoError(late), &plain),
            format!("MYSQL_HOST: the database did not answer in time; {SILENT_HOST_FIX}")
        );
        let late = || std::io::Error::from_raw_os_error(11);
        for error in [Error::IoError(late()), Error::CodecError(late().into())] {
            assert_eq!(
                error_text(&error),
                format!("the database did not answer in time; {SILENT_HOST_FIX}")
            );
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = error_text(&Error::IoError(refused));
        assert_eq!(text, "IoError { connection refused }");
        let codec = "IO error: `Connection reset by peer (os error 104)'";
        assert_eq!(
            text_in_codec_error(codec),
            "Connection reset by peer (os error 104)"
        );
    }
}
