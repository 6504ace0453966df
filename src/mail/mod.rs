//! A mail: envelope, content and the facts of how it came.

mod charset;
mod charset_names;
mod cns_11643;
mod compress;
mod escape_sequence;
mod hash;
mod header;
mod iso_2022;
mod jis_x_0213;
mod media;
mod multipart;
mod parameter_value;
mod parameters;
mod quoted_string;
mod raw_text;
mod single_byte;
mod summary;
mod trace;
mod transfer_encoding;
mod unicode;
mod words;

use std::io;
use std::sync::{Arc, OnceLock};

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
    pressed: OnceLock<Pressed>,
    /// What `pressed` takes of the memory budget.
    room: OnceLock<Reservation>,
}

/// The content in the form that is stored.
#[derive(Debug)]
enum Pressed {
    /// The only recipient's zlib stream.
    Whole(Arc<Vec<u8>>),
    /// What the streams of several recipients have in common.
    Shared(Deflated),
}

impl Pressed {
    fn len(&self) -> usize {
        match self {
            Pressed::Whole(stream) => stream.len(),
            Pressed::Shared(deflated) => deflated.len(),
        }
    }
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
            pressed: OnceLock::new(),
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
    pub fn zlib_body(&self, delivery: &Delivery) -> Result<Arc<Vec<u8>>, NoMemory> {
        let pressed = match self.pressed.get() {
            Some(pressed) => pressed,
            None => match self.press()? {
                // Nobody will ask for it again.
                Pressed::Whole(stream) => return Ok(stream),
                shared => self.pressed.get_or_init(|| shared),
            },
        };
        match pressed {
            Pressed::Whole(stream) => Ok(Arc::clone(stream)),
            Pressed::Shared(deflated) => {
                let trace_fields = self.trace_fields(delivery);
                deflated.zlib_stream(trace_fields.as_bytes()).map(Arc::new)
            }
        }
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
        if self.pressed.get().is_none()
            && let Some(mut room) = self.content.room_beside(self.content().len())
        {
            let pressed = self.press()?;
            room.shrink_to(pressed.len());
            let _ = self.room.set(room);
            let _ = self.pressed.set(pressed);
        }
        Ok(())
    }

    fn press(&self) -> Result<Pressed, NoMemory> {
        let [only] = &self.deliveries[..] else {
            return Deflated::new(self.content()).map(Pressed::Shared);
        };
        let trace_fields = self.trace_fields(only);
        let stream = compress::zlib_stream(trace_fields.as_bytes(), self.content())?;
        Ok(Pressed::Whole(Arc::new(stream)))
    }

    /// Octets it will take in a store, for the sum of a batch.
    pub fn stored_octets(&self) -> usize {
        // What nobody has pressed yet shall not be pressed for a guess.
        let body = self
            .pressed
            .get()
            .map_or(self.content().len(), Pressed::len);
        self.deliveries.len() * (body + ROW_OCTETS)
    }
}

/// About what the other columns of a row and the trace fields take.
const ROW_OCTETS: usize = 600;
