//! Where mail goes: one trait, the writer that batches in front of it, and the stores.
//!
//! A store implements [`SaveMail`]. It runs on a writer's thread: connections hand their mails to a queue, the writer
//! takes what has queued up while the last commit ran, and only then is each client told how its mail fared.

mod column;
mod diagnostic;
mod health;
mod memory;
pub mod mysql;
mod queue;
mod reader;
pub mod redis;
mod refusals;
pub(crate) mod row;
pub mod sqlite;
mod table;

pub use column::{Charset, Column, RecipientColumns, Width};
pub use diagnostic::Diagnostic;
pub use health::Health;
pub use memory::MemoryStore;
pub use queue::{OpenStore, Saver, Writers};
pub use reader::{ListingSize, MailListing, MailReader, ReadError};
pub use table::{TableColumns, TableName};

use crate::mail::Mail;

/// The function users customise: puts mails where they are wanted.
///
/// `Ok` is a promise: the client is told 250 and forgets its copy, so it may be answered only once the mail survives
/// whatever happens next. An error costs the client nothing but another try.
///
/// ```
/// use std::fs::{self, File};
/// use std::io::Write;
/// use std::path::PathBuf;
///
/// use goguerrilla::mail::Mail;
/// use goguerrilla::store::{SaveError, SaveMail, SavedId};
///
/// /// One file for each mail, with the trace fields of all its recipients.
/// struct FolderStore {
///     folder: PathBuf,
/// }
///
/// impl SaveMail for FolderStore {
///     fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
///         let file = self.folder.join(mail.hash().as_str());
///         let written = File::create(&file).and_then(|mut file| {
///             for recipient in mail.recipients() {
///                 file.write_all(mail.trace_fields(recipient).as_bytes())?;
///             }
///             file.write_all(mail.content())?;
///             file.sync_all()?;
///             File::open(&self.folder)?.sync_all()
///         });
///         if let Err(error) = written {
///             // The client is told 451 and sends the mail again, so nothing of it may remain.
///             let _ = fs::remove_file(&file);
///             return Err(SaveError::Unavailable(error.to_string()));
///         }
///         Ok(SavedId::from(mail.hash()))
///     }
/// }
/// ```
///
/// [`server::run_with_store`](crate::server::run_with_store) starts a server with it; `examples/own_store.rs` is the
/// whole program.
pub trait SaveMail: Send {
    /// Makes ready to save: reconnects, takes the lock. May wait; clients that leave meanwhile are not saved behind
    /// their backs, and mails that arrive meanwhile join the batch. Called before every batch.
    ///
    /// # Errors
    /// [`SaveError`] when mail cannot be saved now; every mail that waits is answered with it.
    fn prepare_batch(&mut self) -> Result<(), SaveError> {
        Ok(())
    }

    /// Gives back what [`ready`](SaveMail::ready) took: meanwhile every client that waited has left.
    fn cancel_batch(&mut self) {}

    /// Saves one mail for all its recipients, or for none.
    ///
    /// # Errors
    /// [`SaveError`], after which nothing of the mail may remain.
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError>;

    /// Saves several mails; stores that can commit many at once override this. One outcome per mail, in order.
    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        batch.iter().map(|mail| self.save_mail(mail)).collect()
    }
}

/// What a saved mail is called, for the client's log: printable ASCII, at most 64 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedId {
    octets: [u8; 64],
    length: usize,
}

impl SavedId {
    /// Takes the printable ASCII of `id`.
    pub fn new(id: &str) -> SavedId {
        let mut octets = [0; 64];
        let printable = id.bytes().filter(u8::is_ascii_graphic);
        let taken = octets.iter_mut().zip(printable);
        let length = taken.map(|(octet, given)| *octet = given).count();
        SavedId { octets, length }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        // Never anything but ASCII.
        let octets = self.octets.get(..self.length).unwrap_or_default();
        str::from_utf8(octets).unwrap_or_default()
    }
}

impl From<crate::mail::MailId> for SavedId {
    fn from(hash: crate::mail::MailId) -> SavedId {
        SavedId::new(hash.as_str())
    }
}

/// Why a mail was not saved. It is our fault each time, so the client hears 4xx and tries again.
///
/// The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// The store cannot take it now: 451 4.3.0.
    #[error("{0}")]
    Unavailable(String),
    /// There is no room for it now: 452 4.3.1.
    #[error("{0}")]
    Full(String),
    /// It takes others, but not this mail: 451 4.3.0. Tells nothing of how the store is.
    #[error("{0}")]
    Refused(String),
}

impl SaveError {
    fn unavailable(reason: &str) -> SaveError {
        SaveError::Unavailable(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_id_keeps_printable_characters_and_is_truncated() {
        assert_eq!(SavedId::new("a 7\r\n\u{e9}-Z~").as_str(), "a7-Z~");
        assert_eq!(SavedId::new(&"x".repeat(100)).as_str(), "x".repeat(64));
        assert_eq!(SavedId::new("").as_str(), "");
    }
}
