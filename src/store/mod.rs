//! The stores, their trait [`SaveMail`], and the queue that batches mails for them.
//!
//! A store runs on a writer thread. Connections put their mails into the queue. The writer takes all mails that were queued
//! during the previous commit, saves them in one transaction, and then reports the outcome of each mail to its connection.

mod column;
mod commit_in_doubt;
mod diagnostic;
pub mod follow;
mod health;
mod host_status;
mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
mod queue;
mod reader;
#[cfg(feature = "mysql")]
pub mod redis;
mod rejected_batches;
pub mod retention;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
mod row;
mod save_each;
mod save_error;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
mod stored_text;
mod table;

pub use column::{ColumnCharset, ColumnWidth, RecipientAddressColumns, TextColumn};
pub use commit_in_doubt::{CommitInDoubt, CommitLookUp};
pub use diagnostic::Diagnostic;
pub use health::StoreHealth;
pub use host_status::{HostState, HostStatus};
pub use memory::MemoryStore;
pub use queue::{BATCHES_IN_DOUBT_PER_WRITER, HoldLimit, SaveQueue, StoreOpener, WriterThreads};
pub use reader::{ListedMail, ListedMailSize, StoreReadError, StoredMailReader};
#[cfg(any(feature = "sqlite", feature = "mysql"))]
pub use row::Row;
pub use save_error::{SaveError, SaveErrorCause};
pub use table::{INSERTED_COLUMNS, TableColumns, TableName, inserted_column_list};

use crate::mail::Mail;

/// Saves mails. Every store implements this trait, including a store of an embedding program.
///
/// [`save_mail`](SaveMail::save_mail) is the only required method. After `Ok` the client gets 250 and deletes its copy, so
/// return `Ok` only when the mail is durable. After an error the client gets 4xx and sends the mail again later; it may also
/// send a mail again that was saved, if it did not receive the 250. `?` converts an [`io::Error`](std::io::Error): the client
/// gets 452 if no space, quota or memory is left, else 451.
///
/// A store that panics is dropped and opened again, and the clients of its batch get 451. After an error the store stays open:
/// a store whose connection was lost connects again in [`prepare_batch`](SaveMail::prepare_batch).
///
/// After [`SaveError::Unavailable`] a mail waits, with its client, for at most GM_HOLD_SECONDS, and the writer passes it to the
/// store again, at least four times a second. A client gets 451 after that time, or if the store does not answer within 62
/// seconds.
///
/// ```
/// use std::fs::{self, File};
/// use std::io::{self, Write};
/// use std::path::{Path, PathBuf};
///
/// use goguerrilla::{Mail, SaveError, SaveMail, SavedId};
///
/// /// Writes one file per mail: the trace fields of all recipients, then the content.
/// struct FolderStore {
///     folder: PathBuf,
/// }
///
/// impl FolderStore {
///     fn write(&self, file: &Path, mail: &Mail) -> io::Result<()> {
///         let mut written = File::create(file)?;
///         for recipient in mail.recipients() {
///             written.write_all(mail.trace_fields(recipient).as_bytes())?;
///         }
///         written.write_all(mail.content())?;
///         written.sync_all()?;
///         File::open(&self.folder)?.sync_all()
///     }
/// }
///
/// impl SaveMail for FolderStore {
///     fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
///         let file = self.folder.join(mail.hash().as_str());
///         self.write(&file, mail).inspect_err(|_| {
///             // The client gets 4xx and sends the mail again, so no part of it may remain.
///             let _ = fs::remove_file(&file);
///         })?;
///         Ok(SavedId::from(mail.hash()))
///     }
/// }
///
/// // A test of the store needs no server.
/// let folder = std::env::temp_dir().join(format!("mail-{}", std::process::id()));
/// fs::create_dir_all(&folder)?;
/// let mut store = FolderStore { folder };
/// let mail = Mail::builder()
///     .recipient("u@ours.test")
///     .content("Subject: x\r\n\r\nbody\r\n")
///     .build()?;
/// let id = store.save_mail(&mail)?;
/// let stored = fs::read_to_string(store.folder.join(id.as_str()))?;
/// assert!(stored.starts_with("Return-Path: <sender@client.test>\r\nDelivered-To: u@mx.test\r\n"));
/// assert!(stored.ends_with("Subject: x\r\n\r\nbody\r\n"));
/// # fs::remove_dir_all(store.folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`ServerBuilder::store`](crate::ServerBuilder::store) starts a server with this store; `examples/folder_store.rs` is the
/// whole program.
pub trait SaveMail: Send {
    /// Prepares the store for a batch: connects, takes a lock, begins a transaction. The default does nothing.
    ///
    /// The writer calls this before every batch and before it takes the mails from the queue. While this method blocks, further
    /// mails join the batch, and a client that disconnects withdraws its mail. After `Ok` the writer calls either
    /// [`save_batch`](SaveMail::save_batch) or [`cancel_batch`](SaveMail::cancel_batch).
    ///
    /// # Errors
    /// [`SaveError`]: no mail can be saved now. Every mail that is in the queue at that moment fails with this error, or waits
    /// for another attempt (GM_HOLD_SECONDS). The writer calls neither `save_batch` nor `cancel_batch`, and calls this method
    /// again for the next attempt.
    fn prepare_batch(&mut self) -> Result<(), SaveError> {
        Ok(())
    }

    /// Undoes [`prepare_batch`](SaveMail::prepare_batch). The default does nothing.
    ///
    /// The writer calls this instead of [`save_batch`](SaveMail::save_batch) if no mail is left: every client whose mail was
    /// queued disconnected while `prepare_batch` ran.
    fn cancel_batch(&mut self) {}

    /// Saves one mail for all its recipients, or for none of them.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, and no part of it may remain in the store. If that is unknown, because a COMMIT
    /// was not answered, return an error too: the writer tries again or the client sends the mail again, and a mail that is
    /// stored twice is better than one that is lost. [`Mail::hash`] is the same in each attempt of the writer.
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError>;

    /// Saves the mails of a batch, which is never empty, and returns one outcome per mail, in order. A mail without an outcome
    /// counts as not saved.
    ///
    /// The default calls [`save_mail`](SaveMail::save_mail) for each; if that panics, the mails before are saved. A store that
    /// can commit many mails at once overrides this.
    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        save_each::save_each(self, batch)
    }
}

/// The id of a saved mail, which the reply to the client contains: at most 64 characters of printable ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedId {
    octets: [u8; 64],
    length: usize,
}

impl SavedId {
    /// Returns an id of the first 64 printable ASCII characters of `id`, without spaces.
    pub fn new(id: &str) -> SavedId {
        let mut octets = [0; 64];
        let printable = id.bytes().filter(u8::is_ascii_graphic);
        let taken = octets.iter_mut().zip(printable);
        let length = taken.map(|(octet, given)| *octet = given).count();
        SavedId { octets, length }
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        // The octets are always ASCII and `length` is at most 64, so the default values of both calls are never used.
        let octets = self.octets.get(..self.length).unwrap_or_default();
        str::from_utf8(octets).unwrap_or_default()
    }
}

/// The id of the first recipient's row, as in the replies of the stores of this crate.
impl From<&Mail> for SavedId {
    fn from(mail: &Mail) -> SavedId {
        SavedId::from(mail.hash())
    }
}

impl From<crate::mail::MailId> for SavedId {
    fn from(hash: crate::mail::MailId) -> SavedId {
        SavedId::new(hash.as_str())
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
