//! Reading mail back, for `list` and `show`.

use std::fmt;

use crate::mail::inflate;

/// One line of `goguerrilla list`. Other programs write to the table too, so a column may be NULL (`None`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailListing {
    /// The row's name; empty where it has none, for then nothing can be shown by it.
    pub hash: String,
    /// Time of saving, `YYYY-MM-DD HH:MM:SS`.
    pub date: Option<String>,
    /// Reverse-path.
    pub from: Option<String>,
    /// Local-part at our primary host.
    pub to: Option<String>,
    /// Forward-path as given.
    pub recipient: Option<String>,
    /// How much `show` prints.
    pub size: ListingSize,
    /// Decoded subject.
    pub subject: Option<String>,
}

/// The size of a mail that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListingSize {
    /// Octets that `show` prints.
    Octets(usize),
    /// The body has expired or is damaged.
    Expired,
    /// Whoever has the body cannot be asked now.
    Unknown,
}

impl ListingSize {
    /// Of a mail with this zlib stream.
    pub fn of(stream: &[u8]) -> ListingSize {
        let mail = inflate(stream, MAX_SHOWN_OCTETS);
        mail.map_or(ListingSize::Expired, |mail| ListingSize::Octets(mail.len()))
    }

    /// For programs: a figure or nothing.
    pub fn octets(self) -> Option<usize> {
        match self {
            ListingSize::Octets(octets) => Some(octets),
            ListingSize::Expired | ListingSize::Unknown => None,
        }
    }
}

impl fmt::Display for ListingSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListingSize::Octets(octets) => octets.fmt(f),
            ListingSize::Expired => f.write_str("gone"),
            ListingSize::Unknown => f.write_str("unknown"),
        }
    }
}

/// Returns a column's octets as text; what is no UTF-8 becomes U+FFFD.
pub fn text(octets: Vec<u8>) -> String {
    String::from_utf8(octets)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A store that can be read.
pub trait MailReader {
    /// The newest mails first, at most `limit`, of one recipient if `to` is given: column `to` or `recipient`,
    /// without case.
    ///
    /// # Errors
    /// [`ReadError`] as it says.
    fn list(&mut self, to: Option<&str>, limit: u32) -> Result<Vec<MailListing>, ReadError>;

    /// Why sizes that were listed are not known, and how to have them; `None` when nothing is wrong.
    fn warning(&self) -> Option<ReadError> {
        None
    }

    /// Trace fields and content of one mail; `None` when no row has that hash.
    ///
    /// # Errors
    /// [`ReadError`] as it says.
    fn show(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError>;
}

/// Why mail could not be read back: where, what, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// A mail that inflates to more than this was not written by us: content has a ceiling of 512 MiB.
pub const MAX_SHOWN_OCTETS: usize = 540_000_000;
