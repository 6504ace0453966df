//! Classes of database errors: what each error means for a batch.

use mysql::{DriverError, Error, MySqlError};

use super::transaction_size::TransactionTooLarge;
use crate::mail::CompressAllocError;

/// What an error means for a batch, and how to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MySqlErrorClass {
    /// The connection broke. Nothing is stored; but if a COMMIT was sent, its outcome is unknown.
    ConnectionLost,
    /// The transaction was or must be rolled back; a retry may succeed.
    Retry,
    /// The host is read-only; another host may take the batch.
    ReadOnly,
    /// The node is not ready in its cluster. Another host may take the batch now, or the same node may take it later.
    NotReady,
    /// The server has no disk space or memory left.
    Full,
    /// The server currently allows no further connection or query; a retry may succeed.
    Busy,
    /// Rights, names or columns are wrong. Every mail fails until an administrator corrects them.
    Schema,
    /// The table's AUTO_INCREMENT counter has reached its end, or its next id is already used. Every mail fails.
    IdsUsedUp,
    /// A column rejects a value that fits the column definition read earlier; the table may have been altered in the meantime.
    ValueOutOfRange,
    /// This process could not allocate memory for the row of a mail; a smaller mail may succeed.
    NoMemory,
    /// The rows are more than a replication group takes in one transaction; a part of the batch may succeed.
    TooLarge,
    /// Any other error. A single mail may be the cause, for example if a trigger rejects it or its packet is too large.
    Mail,
}

impl MySqlErrorClass {
    /// Returns the class of an error.
    pub fn classify_mysql_error(error: &Error) -> MySqlErrorClass {
        match error {
            Error::MySqlError(error) => classify_server_error(error),
            // Compares the text because the driver does not export the type of this error.
            Error::CodecError(error) if error.to_string().contains("max_allowed_packet") => {
                MySqlErrorClass::Mail
            }
            Error::DriverError(DriverError::PacketTooLarge) => MySqlErrorClass::Mail,
            // Matches only `CompressAllocError`, which this program itself returns, and not an ENOMEM from the kernel: after
            // ENOMEM the connection is unusable, because the server's answer may still arrive.
            Error::IoError(error)
                if error
                    .get_ref()
                    .is_some_and(|inner| inner.is::<CompressAllocError>()) =>
            {
                MySqlErrorClass::NoMemory
            }
            Error::IoError(error)
                if error
                    .get_ref()
                    .is_some_and(|inner| inner.is::<TransactionTooLarge>()) =>
            {
                MySqlErrorClass::TooLarge
            }
            Error::IoError(_) | Error::CodecError(_) | Error::DriverError(_) => {
                MySqlErrorClass::ConnectionLost
            }
            _ => MySqlErrorClass::Mail,
        }
    }
}

fn classify_server_error(error: &MySqlError) -> MySqlErrorClass {
    match error.code {
        // The message of error 1030 (ER_GET_ERRNO) contains an errno or an error number of the storage engine; the messages of
        // 3 (EE_WRITE) and 1026 (ER_ERROR_ON_WRITE) contain the errno of a failed file write.
        1030 if errno_in_message(&error.message) == Some(ENOSPC) => MySqlErrorClass::Full,
        3 | 1026
            if errno_in_message(&error.message)
                .is_some_and(|errno| OUT_OF_SPACE.contains(&errno)) =>
        {
            MySqlErrorClass::Full
        }
        3 | 1026 | 1030 => MySqlErrorClass::Retry,
        1062 if id_in_duplicate_entry_message(&error.message).is_some() => {
            MySqlErrorClass::IdsUsedUp
        }
        // MySQL returns error 1264 (out of range) if the next AUTO_INCREMENT value exceeds the column's type. The INSERT sets
        // no `mail_id`, so the ids are used up.
        1264 if error.message.contains("'mail_id'") => MySqlErrorClass::IdsUsedUp,
        code => classify_mysql_error_code(code),
    }
}

/// Returns the errno in the message of a database error. If the message contains a mark such as `Errcode: `, the number after
/// it is returned, as in `Error writing file '/tmp/MLd128' (Errcode: 28 "No space left on device")`. Otherwise the first number
/// is returned, as in `Got error 28 "No space left on device"`.
///
/// The text around the number may be in any language.
fn errno_in_message(message: &str) -> Option<u32> {
    let after = |mark| message.rsplit_once(mark).map(|(_, after)| after);
    let text = ["errno: ", "Errcode: ", "errno "]
        .into_iter()
        .find_map(after);
    let text = text.unwrap_or(message);
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits = text.get(start..)?;
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits.get(..end.unwrap_or(digits.len()))?.parse().ok()
}

/// Returns the id in a message such as `Duplicate entry '7' for key 'PRIMARY'`; `None` for another key or a primary key that is
/// not a number.
///
/// If the primary key also contains the date, as in a partitioned table, the entry is `'7-2026-01-01 00:00:00'`. MySQL 8 puts
/// the table before the key's name: `'new_mail.PRIMARY'`. The text around these values may be in any language.
pub fn id_in_duplicate_entry_message(message: &str) -> Option<u64> {
    if !message.contains("PRIMARY'") {
        return None;
    }
    let entry = message.split('\'').nth(1)?;
    entry.split('-').next()?.parse().ok()
}

fn classify_mysql_error_code(code: u16) -> MySqlErrorClass {
    match code {
        // Shutdown, killed connection, idle timeout, and limits that end an existing connection.
        1053 | 1077 | 1078 | 1079 | 1080 | 1152 | 1158 | 1159 | 1160 | 1161 | 1180 | 1184
        | 1243 | 1927 | 2002 | 2003 | 2006 | 2013 | 3168 | 3169 | 4031 => {
            MySqlErrorClass::ConnectionLost
        }
        // Deadlock, lock wait timeout, failed certification, changed record. Codes from 8002 are errors of TiDB: write
        // conflict, changed schema, region busy or unavailable.
        1020
        | 1205
        | 1213
        | 1317
        | 1412
        | 1614
        | 1615
        | 3101
        | 8002
        | 8022
        | 8028
        | 9001..=9007 => MySqlErrorClass::Retry,
        1290 | 1792 | 1836 => MySqlErrorClass::ReadOnly,
        1047 => MySqlErrorClass::NotReady,
        1021 | 1114 | 1135 | 3675 => MySqlErrorClass::Full,
        1040 | 1129 | 1203 | 1226 | 1461 => MySqlErrorClass::Busy,
        // Wrong rights, names or columns. Includes a missing value for a NOT NULL column, a read-only table, an invalid view,
        // and a missing partition for the current date.
        1036 | 1044 | 1045 | 1046 | 1048 | 1049 | 1054 | 1064 | 1136 | 1142 | 1143 | 1146
        | 1227 | 1356 | 1364 | 1370 | 1526 | 1698 | 3989 => MySqlErrorClass::Schema,
        167 | 1467 => MySqlErrorClass::IdsUsedUp,
        1264 | 1265 | 1292 | 1366 | 1406 | 3988 => MySqlErrorClass::ValueOutOfRange,
        // Includes 3100, Group Replication's error for a transaction above its size limit, and for others.
        _ => MySqlErrorClass::Mail,
    }
}

/// The errno of "No space left on device".
const ENOSPC: u32 = 28;
/// Errnos of a file write that mean that no space is left: ENOSPC, EFBIG (file at its maximum size) and EDQUOT (quota used up).
const OUT_OF_SPACE: [u32; 3] = [ENOSPC, 27, 122];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_errors_of_one_code_are_distinguished_by_their_message() {
        for (code, message, want) in [
            (
                1030,
                "Got error 28 \"No space left on device\" from storage engine InnoDB",
                MySqlErrorClass::Full,
            ),
            (
                1030,
                "Got error 28 from storage engine",
                MySqlErrorClass::Full,
            ),
            (
                1030,
                "Got error 28 - 'No space left on device' from storage engine",
                MySqlErrorClass::Full,
            ),
            (1030, "Fehler 28 (Speicher-Engine)", MySqlErrorClass::Full),
            (
                1030,
                "Got error 128 \"Out of memory in engine\" from storage engine InnoDB",
                MySqlErrorClass::Retry,
            ),
            (
                1030,
                "Got error 168 - 'error 28' from storage engine",
                MySqlErrorClass::Retry,
            ),
            (
                1030,
                "Got error 5 \"Input/output error\" from storage engine 28",
                MySqlErrorClass::Retry,
            ),
            (
                1026,
                "Error writing file './mail/t28' (errno: 5 \"Input/output error\")",
                MySqlErrorClass::Retry,
            ),
            (
                1026,
                "Error writing file './mail/t' (errno: 28 \"No space left on device\")",
                MySqlErrorClass::Full,
            ),
            (
                3,
                "Error writing file '/tmp/MLd128' (Errcode: 28 \"No space left on device\")",
                MySqlErrorClass::Full,
            ),
            (
                3,
                "Error writing file '/tmp/MLd1' (OS errno 28 - No space left on device)",
                MySqlErrorClass::Full,
            ),
            (
                1021,
                "Disk full (/tmp/1); waiting for someone to free some space...",
                MySqlErrorClass::Full,
            ),
            (
                1026,
                "Error writing file './mail/t' (errno: 122 \"Disk quota exceeded\")",
                MySqlErrorClass::Full,
            ),
            (
                1030,
                "Got error 122 \"Internal (unspecified) error in handler\" from storage engine InnoDB",
                MySqlErrorClass::Retry,
            ),
            (1114, "The table 'new_mail' is full", MySqlErrorClass::Full),
            (
                167,
                "Out of range value for column 'mail_id' at row 1",
                MySqlErrorClass::IdsUsedUp,
            ),
            (
                1264,
                "Out of range value for column 'mail_id' at row 1",
                MySqlErrorClass::IdsUsedUp,
            ),
            (
                1264,
                "Out of range value for column 'has_attach' at row 1",
                MySqlErrorClass::ValueOutOfRange,
            ),
            (
                1467,
                "Failed to read auto-increment value from storage engine",
                MySqlErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry '2147483647' for key 'PRIMARY'",
                MySqlErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry '127' for key 'new_mail.PRIMARY'",
                MySqlErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry '7-2026-01-01 00:00:00' for key 'PRIMARY'",
                MySqlErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry 'u@ours.test' for key 'PRIMARY'",
                MySqlErrorClass::Mail,
            ),
            (
                1062,
                "Duplicate entry '7' for key 'hash'",
                MySqlErrorClass::Mail,
            ),
        ] {
            let error = MySqlError {
                state: "HY000".to_owned(),
                message: message.to_owned(),
                code,
            };
            assert_eq!(classify_server_error(&error), want, "{code} {message}");
        }
    }

    #[test]
    fn mysql_error_codes_map_to_their_error_class() {
        for (codes, want) in [
            (
                &[2006, 2013, 4031, 1053, 1927, 1180][..],
                MySqlErrorClass::ConnectionLost,
            ),
            (&[1205, 1213, 1317, 9001, 9007], MySqlErrorClass::Retry),
            (&[1047], MySqlErrorClass::NotReady),
            (&[1290, 1836], MySqlErrorClass::ReadOnly),
            (&[1114, 1021], MySqlErrorClass::Full),
            (&[1040, 1203, 1226, 1129], MySqlErrorClass::Busy),
            (
                &[1044, 1045, 1049, 1054, 1136, 1142, 1146, 1364, 1526],
                MySqlErrorClass::Schema,
            ),
            (
                &[1366, 1406, 1264, 1265, 1292],
                MySqlErrorClass::ValueOutOfRange,
            ),
            // 3100: larger than group_replication_transaction_size_limit.
            (&[1062, 1644, 1153, 3100, 9999], MySqlErrorClass::Mail),
        ] {
            for code in codes {
                assert_eq!(classify_mysql_error_code(*code), want, "{code}");
            }
        }
        let classify = |code, message: &str| {
            classify_server_error(&MySqlError {
                state: "HY000".to_owned(),
                message: message.to_owned(),
                code,
            })
        };
        let full = "Error writing file './mail/x' (Errcode: 28 \"No space left on device\")";
        assert_eq!(classify(3, full), MySqlErrorClass::Full);
        assert_eq!(
            classify(3, "Error writing file 'x' (Errcode: 5)"),
            MySqlErrorClass::Retry
        );
        assert_eq!(
            MySqlErrorClass::classify_mysql_error(&Error::DriverError(DriverError::PacketTooLarge)),
            MySqlErrorClass::Mail
        );
        let eof = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(
            MySqlErrorClass::classify_mysql_error(&Error::IoError(eof)),
            MySqlErrorClass::ConnectionLost
        );
        let system_error = std::io::Error::from_raw_os_error(nix::libc::ENOMEM);
        assert_eq!(
            MySqlErrorClass::classify_mysql_error(&Error::IoError(system_error)),
            MySqlErrorClass::ConnectionLost
        );
        let own_error = std::io::Error::from(CompressAllocError);
        assert_eq!(
            MySqlErrorClass::classify_mysql_error(&Error::IoError(own_error)),
            MySqlErrorClass::NoMemory
        );
    }
}
