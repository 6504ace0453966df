//! Reading mail back, for `list` and `show`.

/// One line of `goguerrilla list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMail {
    /// The row's name.
    pub hash: String,
    /// Time of saving, `YYYY-MM-DD HH:MM:SS`.
    pub date: String,
    /// Reverse-path.
    pub from: String,
    /// Local-part at our primary host.
    pub to: String,
    /// Forward-path as given.
    pub recipient: String,
    /// Octets that `show` prints; `None` when the body is gone or damaged.
    pub octets: Option<usize>,
    /// Decoded subject.
    pub subject: String,
}

/// A store that can be read.
pub trait ReadMail {
    /// The newest mails first, at most `limit`, of one recipient if `to` is given: column `to` or `recipient`,
    /// without case.
    ///
    /// # Errors
    /// [`ReadError`] as it says.
    fn list(&mut self, to: Option<&str>, limit: u32) -> Result<Vec<ListedMail>, ReadError>;

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
pub const MAX_MAIL_OCTETS: usize = 540_000_000;
