//! What each error of the database means for a batch.

use mysql::{DriverError, Error, MySqlError};

use crate::mail::NoMemory;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The connection is no good any more. Before COMMIT nothing is stored; at COMMIT nobody knows.
    ConnectionLost,
    /// The transaction was undone, or has to be; the same again may succeed.
    Retry,
    /// The host takes nothing now, another one may.
    ReadOnly,
    /// A node that its cluster does not let work now; another one may, or the same in a moment.
    NotReady,
    /// No room.
    Full,
    /// Too many connections: come back later.
    Busy,
    /// Rights, names or columns: every mail fares the same until somebody acts.
    Schema,
    /// The table's counter of ids is at its end, or stands at one that is used: every mail fares the same.
    IdsUsedUp,
    /// A value that the table as we know it should hold: the table may have changed.
    ValueOutOfRange,
    /// None for what is made of a mail; its neighbours may be smaller.
    NoMemory,
    /// Anything else may lie in one mail: a trigger's refusal, a packet too large.
    Mail,
}

impl ErrorClass {
    /// Sorts an error.
    pub fn classify(error: &Error) -> ErrorClass {
        match error {
            Error::MySqlError(error) => classify_server_error(error),
            // Told apart by its words: the codec's error type is not ours to name.
            Error::CodecError(error) if error.to_string().contains("max_allowed_packet") => {
                ErrorClass::Mail
            }
            Error::DriverError(DriverError::PacketTooLarge) => ErrorClass::Mail,
            // Ours alone: where the kernel has none, an answer may still be on its way.
            Error::IoError(error)
                if error.get_ref().is_some_and(|inner| inner.is::<NoMemory>()) =>
            {
                ErrorClass::NoMemory
            }
            Error::IoError(_) | Error::CodecError(_) | Error::DriverError(_) => {
                ErrorClass::ConnectionLost
            }
            _ => ErrorClass::Mail,
        }
    }
}

fn classify_server_error(error: &MySqlError) -> ErrorClass {
    match error.code {
        // An error of the engine, with a number of its own or an errno; an error of a write to a file, with an errno.
        1030 if errno_in(&error.message) == Some(ENOSPC) => ErrorClass::Full,
        3 | 1026 if errno_in(&error.message).is_some_and(|errno| NO_ROOM.contains(&errno)) => {
            ErrorClass::Full
        }
        3 | 1026 | 1030 => ErrorClass::Retry,
        1062 if duplicate_id(&error.message).is_some() => ErrorClass::IdsUsedUp,
        // MySQL at the end of an integer column; no value of ours is bound to this one.
        1264 if error.message.contains("'mail_id'") => ErrorClass::IdsUsedUp,
        code => classify_code(code),
    }
}

/// Returns the errno that a message names: its first number, as in `Got error 28 "No space left on device"` in any language, or the
/// one after a mark, as in `Error writing file '/tmp/MLd128' (Errcode: 28 "No space left on device")`.
fn errno_in(message: &str) -> Option<u32> {
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

/// Returns the id in `Duplicate entry '7' for key 'PRIMARY'`, in any language; with partitions it is `'7-2026-01-01 00:00:00'`, and
/// MySQL names the key `'new_mail.PRIMARY'`. `None` for any other key, and for a primary key that is no number.
pub fn duplicate_id(message: &str) -> Option<u64> {
    if !message.contains("PRIMARY'") {
        return None;
    }
    let entry = message.split('\'').nth(1)?;
    entry.split('-').next()?.parse().ok()
}

fn classify_code(code: u16) -> ErrorClass {
    match code {
        // Shutdown, killed, idle too long, new connection limits met while connected.
        1053 | 1077 | 1078 | 1079 | 1080 | 1152 | 1158 | 1159 | 1160 | 1161 | 1180 | 1184
        | 1243 | 1927 | 2002 | 2003 | 2006 | 2013 | 3168 | 3169 | 4031 => {
            ErrorClass::ConnectionLost
        }
        // Deadlock, lock wait, certification failure, record changed under us.
        // From 8002 on TiDB's: write conflicts, a schema that changed, regions that are busy or away.
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
        | 9001..=9007 => ErrorClass::Retry,
        1290 | 1792 | 1836 => ErrorClass::ReadOnly,
        1047 => ErrorClass::NotReady,
        1021 | 1114 | 1135 | 3675 => ErrorClass::Full,
        1040 | 1129 | 1203 | 1226 | 1461 => ErrorClass::Busy,
        // Also a column that takes no NULL, a table that is read-only, a view that is broken, no partition for today.
        1036 | 1044 | 1045 | 1046 | 1048 | 1049 | 1054 | 1064 | 1136 | 1142 | 1143 | 1146
        | 1227 | 1356 | 1364 | 1370 | 1526 | 1698 | 3989 => ErrorClass::Schema,
        167 | 1467 => ErrorClass::IdsUsedUp,
        1264 | 1265 | 1292 | 1366 | 1406 | 3988 => ErrorClass::ValueOutOfRange,
        // Also 3100, which Group Replication answers to a transaction beyond its size limit.
        _ => ErrorClass::Mail,
    }
}

/// No space left on device.
const ENOSPC: u32 = 28;
/// The same, a file at its largest size, a quota that is used up.
const NO_ROOM: [u32; 3] = [ENOSPC, 27, 122];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_errors_of_one_code_apart() {
        for (code, message, want) in [
            (
                1030,
                "Got error 28 \"No space left on device\" from storage engine InnoDB",
                ErrorClass::Full,
            ),
            (1030, "Got error 28 from storage engine", ErrorClass::Full),
            (
                1030,
                "Got error 28 - 'No space left on device' from storage engine",
                ErrorClass::Full,
            ),
            (1030, "Fehler 28 (Speicher-Engine)", ErrorClass::Full),
            (
                1030,
                "Got error 128 \"Out of memory in engine\" from storage engine InnoDB",
                ErrorClass::Retry,
            ),
            (
                1030,
                "Got error 168 - 'error 28' from storage engine",
                ErrorClass::Retry,
            ),
            (
                1030,
                "Got error 5 \"Input/output error\" from storage engine 28",
                ErrorClass::Retry,
            ),
            (
                1026,
                "Error writing file './mail/t28' (errno: 5 \"Input/output error\")",
                ErrorClass::Retry,
            ),
            (
                1026,
                "Error writing file './mail/t' (errno: 28 \"No space left on device\")",
                ErrorClass::Full,
            ),
            (
                3,
                "Error writing file '/tmp/MLd128' (Errcode: 28 \"No space left on device\")",
                ErrorClass::Full,
            ),
            (
                3,
                "Error writing file '/tmp/MLd1' (OS errno 28 - No space left on device)",
                ErrorClass::Full,
            ),
            (
                1021,
                "Disk full (/tmp/1); waiting for someone to free some space...",
                ErrorClass::Full,
            ),
            (
                1026,
                "Error writing file './mail/t' (errno: 122 \"Disk quota exceeded\")",
                ErrorClass::Full,
            ),
            (
                1030,
                "Got error 122 \"Internal (unspecified) error in handler\" from storage engine InnoDB",
                ErrorClass::Retry,
            ),
            (1114, "The table 'new_mail' is full", ErrorClass::Full),
            (
                167,
                "Out of range value for column 'mail_id' at row 1",
                ErrorClass::IdsUsedUp,
            ),
            (
                1264,
                "Out of range value for column 'mail_id' at row 1",
                ErrorClass::IdsUsedUp,
            ),
            (
                1264,
                "Out of range value for column 'has_attach' at row 1",
                ErrorClass::ValueOutOfRange,
            ),
            (
                1467,
                "Failed to read auto-increment value from storage engine",
                ErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry '2147483647' for key 'PRIMARY'",
                ErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry '127' for key 'new_mail.PRIMARY'",
                ErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry '7-2026-01-01 00:00:00' for key 'PRIMARY'",
                ErrorClass::IdsUsedUp,
            ),
            (
                1062,
                "Duplicate entry 'u@ours.test' for key 'PRIMARY'",
                ErrorClass::Mail,
            ),
            (1062, "Duplicate entry '7' for key 'hash'", ErrorClass::Mail),
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
                ErrorClass::ConnectionLost,
            ),
            (&[1205, 1213, 1317, 9001, 9007], ErrorClass::Retry),
            (&[1047], ErrorClass::NotReady),
            (&[1290, 1836], ErrorClass::ReadOnly),
            (&[1114, 1021], ErrorClass::Full),
            (&[1040, 1203, 1226, 1129], ErrorClass::Busy),
            (
                &[1044, 1045, 1049, 1054, 1136, 1142, 1146, 1364, 1526],
                ErrorClass::Schema,
            ),
            (&[1366, 1406, 1264, 1265, 1292], ErrorClass::ValueOutOfRange),
            // 3100: larger than group_replication_transaction_size_limit.
            (&[1062, 1644, 1153, 3100, 9999], ErrorClass::Mail),
        ] {
            for code in codes {
                assert_eq!(classify_code(*code), want, "{code}");
            }
        }
        let of_message = |code, message: &str| {
            classify_server_error(&MySqlError {
                state: "HY000".to_owned(),
                message: message.to_owned(),
                code,
            })
        };
        let full = "Error writing file './mail/x' (Errcode: 28 \"No space left on device\")";
        assert_eq!(of_message(3, full), ErrorClass::Full);
        assert_eq!(
            of_message(3, "Error writing file 'x' (Errcode: 5)"),
            ErrorClass::Retry
        );
        assert_eq!(
            ErrorClass::classify(&Error::DriverError(DriverError::PacketTooLarge)),
            ErrorClass::Mail
        );
        let gone = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(
            ErrorClass::classify(&Error::IoError(gone)),
            ErrorClass::ConnectionLost
        );
        let of_the_kernel = std::io::Error::from_raw_os_error(nix::libc::ENOMEM);
        assert_eq!(
            ErrorClass::classify(&Error::IoError(of_the_kernel)),
            ErrorClass::ConnectionLost
        );
        let ours = std::io::Error::from(NoMemory);
        assert_eq!(
            ErrorClass::classify(&Error::IoError(ours)),
            ErrorClass::NoMemory
        );
    }
}
