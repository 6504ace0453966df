//! A mail: envelope, content, and facts about the connection.

mod compress;
mod mail_id;
mod mime;
mod trace;

use std::io;
use std::sync::{Arc, OnceLock};

pub use compress::{Deflated, InflateError, NoMemory, inflate};
pub use mail_id::MailId;
pub use mime::{Attachment, Summary};
pub use trace::Origin;

use crate::smtp::{Content, Envelope, Reservation};

/// One message as a store receives it.
///
/// Derived data is computed when it is first needed and then kept: on the connection's thread if the store wants that
/// ([`prepare`](Mail::prepare)), else on the thread that asks for it.
#[derive(Debug)]
pub struct Mail {
    envelope: Envelope,
    content: Content,
    origin: Origin,
    deliveries: Vec<Recipient>,
    summary: OnceLock<Summary>,
    pressed: OnceLock<CompressedBody>,
    /// The part of the memory budget that `pressed` uses.
    room: OnceLock<Reservation>,
}

/// The compressed content.
#[derive(Debug)]
enum CompressedBody {
    /// The zlib stream of the only recipient.
    Whole(Arc<Vec<u8>>),
    /// The part that the streams of all recipients share.
    Shared(Deflated),
}

impl CompressedBody {
    fn len(&self) -> usize {
        match self {
            CompressedBody::Whole(stream) => stream.len(),
            CompressedBody::Shared(deflated) => deflated.len(),
        }
    }
}

/// One recipient of a mail, stored as one row.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The id of its row (column `hash`).
    pub hash: MailId,
    /// Column `to`: the local-part at GM_PRIMARY_MAIL_HOST.
    pub to: String,
    /// Column `recipient`: the forward-path as given, without brackets.
    pub recipient: String,
}

impl Mail {
    /// Creates a mail and an id for each recipient; `to_address` returns column `to` for a forward-path.
    ///
    /// # Errors
    /// The kernel provides no random numbers, or the envelope has no recipient.
    pub fn new(
        envelope: Envelope,
        content: Content,
        origin: Origin,
        to_address: impl Fn(&crate::smtp::ForwardPath) -> String,
    ) -> io::Result<Mail> {
        if envelope.recipients.is_empty() {
            return Err(io::Error::other("expected a recipient, but found none"));
        }
        let hashes = MailId::random(envelope.recipients.len())?;
        let deliveries = hashes
            .into_iter()
            .zip(&envelope.recipients)
            .map(|(hash, path)| Recipient {
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
            pressed: OnceLock::new(),
            room: OnceLock::new(),
        })
    }

    /// Returns the sender's address without brackets; empty for `<>`.
    pub fn reverse_path(&self) -> &str {
        self.envelope.reverse_path.as_str()
    }

    /// Returns the recipients, at least one.
    pub fn recipients(&self) -> &[Recipient] {
        &self.deliveries
    }

    /// Returns the id of the first row, which the 250 reply names.
    #[expect(
        clippy::indexing_slicing,
        reason = "`new` takes no envelope without a recipient"
    )]
    pub fn hash(&self) -> MailId {
        self.deliveries[0].hash
    }

    /// Returns the content as sent, without dot-stuffing and otherwise unchanged.
    pub fn content(&self) -> &[u8] {
        self.content.octets()
    }

    /// Returns facts about the connection.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns subject, charset, content type and attachments.
    pub fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| Summary::of(self.content()))
    }

    /// Returns `Return-Path`, `Delivered-To` and `Received` for one recipient, which are stored before the content.
    pub fn trace_fields(&self, delivery: &Recipient) -> String {
        let hash = delivery.hash.as_str();
        trace::trace_fields(&self.origin, self.reverse_path(), &delivery.to, hash)
    }

    /// Returns trace fields and content as one zlib stream.
    ///
    /// # Errors
    /// No memory for it; a smaller mail may still fit.
    pub fn zlib_body(&self, delivery: &Recipient) -> Result<Arc<Vec<u8>>, NoMemory> {
        let pressed = match self.pressed.get() {
            Some(pressed) => pressed,
            None => match self.compress()? {
                // A single recipient's stream is needed only once.
                CompressedBody::Whole(stream) => return Ok(stream),
                shared => self.pressed.get_or_init(|| shared),
            },
        };
        match pressed {
            CompressedBody::Whole(stream) => Ok(Arc::clone(stream)),
            CompressedBody::Shared(deflated) => {
                let trace_fields = self.trace_fields(delivery);
                deflated.zlib_stream(trace_fields.as_bytes()).map(Arc::new)
            }
        }
    }

    /// Computes the derived data of a row now, on the connection's thread instead of a writer's.
    ///
    /// If the memory budget has no room for a second form of the content, nothing is computed: the writer does it later, so
    /// that only the mails of one batch are in memory twice.
    ///
    /// # Errors
    /// No memory.
    pub fn precompute_row(&self) -> Result<(), NoMemory> {
        self.summary();
        if self.pressed.get().is_none()
            && let Some(mut room) = self.content.reserve_copy(self.content().len())
        {
            let pressed = self.compress()?;
            room.shrink_to(pressed.len());
            let _ = self.room.set(room);
            let _ = self.pressed.set(pressed);
        }
        Ok(())
    }

    fn compress(&self) -> Result<CompressedBody, NoMemory> {
        let [only] = &self.deliveries[..] else {
            return Deflated::new(self.content()).map(CompressedBody::Shared);
        };
        let trace_fields = self.trace_fields(only);
        let stream = compress::zlib_stream(trace_fields.as_bytes(), self.content())?;
        Ok(CompressedBody::Whole(Arc::new(stream)))
    }

    /// Returns about how many octets the mail takes in a store, to limit the size of a batch.
    pub fn stored_octets(&self) -> usize {
        // Compressing only for an estimate would cost too much.
        let body = self
            .pressed
            .get()
            .map_or(self.content().len(), CompressedBody::len);
        self.deliveries.len() * (body + ROW_OCTETS)
    }
}

/// Estimated size of the other columns of a row and of the trace fields.
const ROW_OCTETS: usize = 600;
