//! What each error of the database means for a batch.

use mysql::{DriverError, Error, MySqlError};

use crate::mail::NoMemory;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The connection is no good any more. Before COMMIT nothing is stored; at COMMIT nobody knows.
    Gone,
    /// The transaction was undone, or has to be; the same again may succeed.
    TryAgain,
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
    /// A value that the table as we know it should hold: the table may have changed.
    Misfit,
    /// None for what is made of a mail; its neighbours may be smaller.
    NoMemory,
    /// Anything else may lie in one mail: a trigger's refusal, a packet too large.
    Content,
}

impl Meaning {
    /// Sorts an error.
    pub fn of(error: &Error) -> Meaning {
        match error {
            Error::MySqlError(error) => of_server(error),
            // Told apart by its words: the codec's error type is not ours to name.
            Error::CodecError(error) if error.to_string().contains("max_allowed_packet") => {
                Meaning::Content
            }
            Error::DriverError(DriverError::PacketTooLarge) => Meaning::Content,
            // Ours alone: where the kernel has none, an answer may still be on its way.
            Error::IoError(error)
                if error.get_ref().is_some_and(|inner| inner.is::<NoMemory>()) =>
            {
                Meaning::NoMemory
            }
            Error::IoError(_) | Error::CodecError(_) | Error::DriverError(_) => Meaning::Gone,
            _ => Meaning::Content,
        }
    }
}

/// Errors after which a COMMIT is certainly undone; after any other one nobody knows. 1047 refuses a statement before it is
/// begun, and its connection is closed, which undoes the rest.
pub fn is_certainly_undone(error: &Error) -> bool {
    matches!(error, Error::MySqlError(error) if matches!(error.code, 1047 | 1205 | 1213 | 1290 | 1792 | 1836 | 3100 | 3101))
}

fn of_server(error: &MySqlError) -> Meaning {
    match error.code {
        // Any trouble of the engine's; 28 is ENOSPC.
        1030 if error.message.contains("28") => Meaning::Full,
        1030 => Meaning::TryAgain,
        // EE_WRITE of a temporary file or a log; 28 is ENOSPC here too.
        3 if error.message.contains("28") => Meaning::Full,
        3 => Meaning::TryAgain,
        code => of_code(code),
    }
}

fn of_code(code: u16) -> Meaning {
    match code {
        // Shutdown, killed, idle too long, new connection limits met while connected.
        1053 | 1077 | 1078 | 1079 | 1080 | 1152 | 1158 | 1159 | 1160 | 1161 | 1180 | 1184
        | 1243 | 1927 | 2002 | 2003 | 2006 | 2013 | 3168 | 3169 | 4031 => Meaning::Gone,
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
        | 9001..=9007 => Meaning::TryAgain,
        1290 | 1792 | 1836 => Meaning::ReadOnly,
        1047 => Meaning::NotReady,
        1021 | 1026 | 1114 | 1135 | 3675 => Meaning::Full,
        1040 | 1129 | 1203 | 1226 | 1461 => Meaning::Busy,
        // Also a column that takes no NULL, a table that is read-only, a view that is broken, no partition for today.
        1036 | 1044 | 1045 | 1046 | 1048 | 1049 | 1054 | 1064 | 1136 | 1142 | 1143 | 1146
        | 1227 | 1356 | 1364 | 1370 | 1526 | 1698 | 3989 => Meaning::Schema,
        1264 | 1265 | 1292 | 1366 | 1406 | 3988 => Meaning::Misfit,
        // Also 3100, which Group Replication answers to a transaction beyond its size limit.
        _ => Meaning::Content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_they_mean() {
        for (codes, want) in [
            (&[2006, 2013, 4031, 1053, 1927, 1180][..], Meaning::Gone),
            (&[1205, 1213, 1317, 9001, 9007], Meaning::TryAgain),
            (&[1047], Meaning::NotReady),
            (&[1290, 1836], Meaning::ReadOnly),
            (&[1114, 1021], Meaning::Full),
            (&[1040, 1203, 1226, 1129], Meaning::Busy),
            (
                &[1044, 1045, 1049, 1054, 1136, 1142, 1146, 1364, 1526],
                Meaning::Schema,
            ),
            (&[1366, 1406, 1264, 1265, 1292], Meaning::Misfit),
            // 3100: larger than group_replication_transaction_size_limit.
            (&[1062, 1644, 1153, 3100, 9999], Meaning::Content),
        ] {
            for code in codes {
                assert_eq!(of_code(*code), want, "{code}");
            }
        }
        let of_message = |code, message: &str| {
            of_server(&MySqlError {
                state: "HY000".to_owned(),
                message: message.to_owned(),
                code,
            })
        };
        let full = "Error writing file './mail/x' (Errcode: 28 \"No space left on device\")";
        assert_eq!(of_message(3, full), Meaning::Full);
        assert_eq!(
            of_message(3, "Error writing file 'x' (Errcode: 5)"),
            Meaning::TryAgain
        );
        assert_eq!(
            Meaning::of(&Error::DriverError(DriverError::PacketTooLarge)),
            Meaning::Content
        );
        let gone = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(Meaning::of(&Error::IoError(gone)), Meaning::Gone);
        let of_the_kernel = std::io::Error::from_raw_os_error(nix::libc::ENOMEM);
        assert_eq!(Meaning::of(&Error::IoError(of_the_kernel)), Meaning::Gone);
        let ours = std::io::Error::from(NoMemory);
        assert_eq!(Meaning::of(&Error::IoError(ours)), Meaning::NoMemory);
    }
}
