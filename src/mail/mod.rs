//! A mail: envelope, content and the facts of how it came.

mod compress;
mod hash;
mod header;
mod parameters;
mod summary;
mod trace;
mod words;

use std::io;
use std::sync::OnceLock;

pub use compress::{Deflated, InflateError, NoMemory, inflate};
pub use hash::Hash;
pub use summary::{Attachment, Summary};
pub use trace::Origin;

use crate::smtp::{Content, Envelope, Reservation};

/// One message as it goes to a store.
///
/// What a store needs beyond the octets is computed when first asked for and then kept: on the connection's thread
/// when the store wants it there ([`prepare`](Mail::prepare)), else wherever it is asked.
#[derive(Debug)]
pub struct Mail {
    envelope: Envelope,
    content: Content,
    origin: Origin,
    deliveries: Vec<Delivery>,
    summary: OnceLock<Summary>,
    deflated: OnceLock<Deflated>,
    /// What `deflated` takes of the memory budget.
    room: OnceLock<Reservation>,
}

/// One recipient of a mail: one row in a table.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The name of its row.
    pub hash: Hash,
    /// Column `to`: the local-part at our primary host.
    pub to: String,
    /// Column `recipient`: the forward-path as given, without brackets.
    pub recipient: String,
}

impl Mail {
    /// A mail whose recipients get a new hash each; `to_address` writes column `to` for a forward-path.
    ///
    /// # Errors
    /// When the kernel has no random numbers, or the envelope no recipient.
    pub fn new(
        envelope: Envelope,
        content: Content,
        origin: Origin,
        to_address: impl Fn(&crate::smtp::ForwardPath) -> String,
    ) -> io::Result<Mail> {
        if envelope.recipients.is_empty() {
            return Err(io::Error::other("expected a recipient, but found none"));
        }
        let hashes = Hash::random(envelope.recipients.len())?;
        let deliveries = hashes
            .into_iter()
            .zip(&envelope.recipients)
            .map(|(hash, path)| Delivery {
                hash,
                to: to_address(path),
                recipient: path.as_str().to_owned(),
            })
            .collect();
        Ok(Mail {
            envelope,
            content,
            origin,
            deliveries,
            summary: OnceLock::new(),
            deflated: OnceLock::new(),
            room: OnceLock::new(),
        })
    }

    /// Who sent it, without brackets; empty for `<>`.
    pub fn reverse_path(&self) -> &str {
        self.envelope.reverse_path.as_str()
    }

    /// Its recipients, at least one.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }

    /// The name of its first row, which its client is told.
    #[expect(
        clippy::indexing_slicing,
        reason = "`new` takes no envelope without a recipient"
    )]
    pub fn hash(&self) -> Hash {
        self.deliveries[0].hash
    }

    /// The octets as sent, dots unstuffed, nothing else changed.
    pub fn content(&self) -> &[u8] {
        self.content.octets()
    }

    /// Who handed it over and how.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Subject, charset, content type and attachments.
    pub fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| Summary::of(self.content()))
    }

    /// `Return-Path`, `Delivered-To` and `Received` for one recipient; they stand in front of the content.
    pub fn trace_fields(&self, delivery: &Delivery) -> String {
        let hash = delivery.hash.as_str();
        trace::trace_fields(&self.origin, self.reverse_path(), &delivery.to, hash)
    }

    /// Trace fields and content as one zlib stream.
    ///
    /// # Errors
    /// When there is no memory for it. Another mail may still fit.
    pub fn zlib_body(&self, delivery: &Delivery) -> Result<Vec<u8>, NoMemory> {
        let trace_fields = self.trace_fields(delivery);
        let prefix = trace_fields.as_bytes();
        if let Some(deflated) = self.deflated.get() {
            return deflated.zlib_stream(prefix);
        }
        let deflated = Deflated::new(self.content())?;
        let stream = deflated.zlib_stream(prefix);
        // Else nobody will ask for it again.
        if self.deliveries.len() > 1 {
            let _ = self.deflated.set(deflated);
        }
        stream
    }

    /// Computes now what a table's row will need, so that it costs this thread and not the one writer.
    ///
    /// Where the memory budget has no room for a second form of the content, the writer makes it when its turn has come:
    /// only the mails of one batch have both then, and not those of all clients.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn prepare(&self) -> Result<(), NoMemory> {
        self.summary();
        if self.deflated.get().is_none()
            && let Some(mut room) = self.content.room_beside(self.content().len())
        {
            let deflated = Deflated::new(self.content())?;
            room.shrink_to(deflated.len());
            let _ = self.room.set(room);
            let _ = self.deflated.set(deflated);
        }
        Ok(())
    }

    /// Octets it will take in a store, for the sum of a batch.
    pub fn stored_octets(&self) -> usize {
        // What nobody has deflated yet shall not be deflated for a guess.
        let body = self
            .deflated
            .get()
            .map_or(self.content().len(), Deflated::len);
        self.deliveries.len() * (body + ROW_OCTETS)
    }
}

/// About what the other columns of a row and the trace fields take.
const ROW_OCTETS: usize = 600;
