//! Reading mail back, for `list` and `show`.

use std::fmt;

use crate::mail::inflate;

/// One line of `goguerrilla list`. A column may be NULL (`None`), because other programs write to the table too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMail {
    /// The id to pass to `show`; empty if column `hash` is NULL.
    pub hash: String,
    /// Time of saving, `YYYY-MM-DD HH:MM:SS`.
    pub date: Option<String>,
    /// Reverse-path.
    pub from: Option<String>,
    /// Local-part at GM_PRIMARY_MAIL_HOST.
    pub to: Option<String>,
    /// Forward-path as the client sent it.
    pub recipient: Option<String>,
    /// Size of what `show` prints.
    pub size: ListedMailSize,
    /// Decoded subject.
    pub subject: Option<String>,
}

/// The size of a listed mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedMailSize {
    /// Octets that `show` prints.
    Octets(usize),
    /// The body has expired or is damaged.
    Expired,
    /// The Redis server that has the body cannot be queried now.
    Unknown,
}

impl ListedMailSize {
    /// Returns the size of a mail whose body is the zlib stream `stream`.
    pub fn of(stream: &[u8]) -> ListedMailSize {
        let mail = inflate(stream, MAX_SHOWN_OCTETS);
        mail.map_or(ListedMailSize::Expired, |mail| {
            ListedMailSize::Octets(mail.len())
        })
    }

    /// Returns the number of octets if it is known.
    pub fn octets(self) -> Option<usize> {
        match self {
            ListedMailSize::Octets(octets) => Some(octets),
            ListedMailSize::Expired | ListedMailSize::Unknown => None,
        }
    }
}

impl fmt::Display for ListedMailSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListedMailSize::Octets(octets) => octets.fmt(f),
            ListedMailSize::Expired => f.write_str("gone"),
            ListedMailSize::Unknown => f.write_str("unknown"),
        }
    }
}

/// A store whose mails can be read.
pub trait StoredMailReader {
    /// Returns the newest mails first, at most `limit`. If `to` is given, returns only those whose column `to` or `recipient`
    /// equals it, ignoring case.
    ///
    /// # Errors
    /// [`StoreReadError`]: the store cannot be read.
    fn list_newest_mails(
        &mut self,
        to: Option<&str>,
        limit: u32,
    ) -> Result<Vec<ListedMail>, StoreReadError>;

    /// Returns why some sizes in the result of the last call of [`list_newest_mails`](StoredMailReader::list_newest_mails) are
    /// unknown, and the fix; `None` if all are known.
    fn warning(&self) -> Option<StoreReadError> {
        None
    }

    /// Returns trace fields and content of one mail; `None` if no row has this hash.
    ///
    /// # Errors
    /// [`StoreReadError`]: the store cannot be read, or the body is missing or damaged.
    fn read_mail_by_hash(&mut self, hash: &str) -> Result<Option<Vec<u8>>, StoreReadError>;
}

/// Why mail could not be read: what failed, for which server or file, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreReadError(pub String);

/// Maximum inflated size of a body, in octets; a larger body is not shown. Content has at most 512 MiB, so this server never
/// writes a larger body.
pub const MAX_SHOWN_OCTETS: usize = 540_000_000;
