//! Mails as stores receive them: envelope, content, and facts about the connection.

mod builder;
mod compress;
mod mail_id;
mod mime;
mod trace;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

pub use builder::{MailBuildError, MailBuilder};
pub use compress::{
    CompressAllocError, Deflated, InflateError, Run, inflate, zlib_stream, zlib_stream_in_runs,
};
pub use mail_id::MailId;
pub use mime::{Attachment, MimeSummary};
pub(crate) use trace::MailOrigin;

use crate::smtp::{Envelope, MemoryReservation, MessageOctets};

/// One received message with its envelope, as a store receives it.
///
/// Subject, charset, content type, attachments and the compressed content are computed at their first use. For the stores of
/// this crate the connection's thread does this work, for the store of an embedding program the writer's thread.
///
/// [`Mail::builder`] makes a mail for tests.
#[derive(Debug)]
pub struct Mail {
    envelope: Envelope,
    content: MessageOctets,
    origin: MailOrigin,
    recipients: Vec<Recipient>,
    summary: OnceLock<MimeSummary>,
    compressed: OnceLock<CompressedBody>,
    /// The part of the memory budget that `compressed` uses.
    compressed_reservation: OnceLock<MemoryReservation>,
}

/// Compressed content of a mail.
#[derive(Debug)]
enum CompressedBody {
    /// The whole zlib stream of the only recipient.
    Whole(Arc<Vec<u8>>),
    /// The content, deflated once; the zlib stream of each recipient includes it.
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

/// One recipient of a mail; each recipient is stored as one row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recipient {
    /// The identifier of the row (column `hash`).
    pub hash: MailId,
    /// Column `to`: the local-part, `@`, and the value of GM_PRIMARY_MAIL_HOST.
    pub to: String,
    /// Column `recipient`: the forward-path as the client sent it, without angle brackets.
    pub recipient: String,
}

impl Mail {
    /// Returns a builder of a mail for the tests of a store.
    pub fn builder() -> MailBuilder {
        MailBuilder::default()
    }

    /// Creates a mail with a new identifier for each recipient. `to_address` converts a forward-path to the value of column
    /// `to`.
    ///
    /// # Errors
    /// The kernel provides no random numbers, or the envelope has no recipient.
    pub(crate) fn new(
        envelope: Envelope,
        content: MessageOctets,
        origin: MailOrigin,
        to_address: impl Fn(&crate::smtp::ForwardPath) -> String,
    ) -> io::Result<Mail> {
        if envelope.recipients.is_empty() {
            return Err(io::Error::other("expected a recipient, but found none"));
        }
        let ids = MailId::new_mail_ids(envelope.recipients.len(), origin.received_at)?;
        let recipients = ids
            .into_iter()
            .zip(&envelope.recipients)
            .map(|(id, path)| Recipient {
                hash: id,
                to: to_address(path),
                recipient: path.as_str().to_owned(),
            })
            .collect();
        Ok(Mail {
            envelope,
            content,
            origin,
            recipients,
            summary: OnceLock::new(),
            compressed: OnceLock::new(),
            compressed_reservation: OnceLock::new(),
        })
    }

    /// Returns the sender's address without angle brackets: column `from`. It is empty for `<>`, the sender of a bounce.
    pub fn reverse_path(&self) -> &str {
        self.envelope.reverse_path.as_str()
    }

    /// Returns the recipients; there is at least one.
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// Returns the identifier of the first recipient's row. The 250 reply contains this identifier.
    #[expect(
        clippy::indexing_slicing,
        reason = "`new` rejects an envelope without recipients"
    )]
    pub fn hash(&self) -> MailId {
        self.recipients[0].hash
    }

    /// Returns the message content as received, after removal of dot-stuffing. It is not changed in any other way.
    pub fn content(&self) -> &[u8] {
        self.content.octets()
    }

    /// Returns the subject, decoded to one line of UTF-8: column `subject`. It is empty if there is no Subject field.
    ///
    /// Only the first 16,384 octets of a header field are read. Control characters other than TAB are replaced by spaces, here
    /// and in the other texts that are read from the content. The value is not truncated to the width of a column.
    pub fn subject(&self) -> &str {
        &self.mime_summary().subject
    }

    /// Returns the charset of the text in the sender's spelling: column `charset`. It is `UTF-8` if the sender names none.
    pub fn charset(&self) -> &str {
        &self.mime_summary().charset
    }

    /// Returns the top-level media type in lower case: column `content_type`. It is `text/plain` if there is no Content-Type
    /// field.
    pub fn content_type(&self) -> &str {
        &self.mime_summary().content_type
    }

    /// Returns the attachments in the order of the message, at most 4,096.
    pub fn attachments(&self) -> &[Attachment] {
        &self.mime_summary().attachments
    }

    /// Returns the number of attachments: column `has_attach`.
    pub fn attachment_count(&self) -> usize {
        self.attachments().len()
    }

    /// Returns the attachments as JSON, `[{"name":"a.pdf","type":"application/pdf","size":5}]`: column `attach_info`. The
    /// text is empty if there is no attachment.
    pub fn attach_info(&self) -> String {
        let entries: Vec<String> = self.attachments().iter().map(Attachment::to_json).collect();
        match entries.is_empty() {
            true => String::new(),
            false => format!("[{}]", entries.join(",")),
        }
    }

    /// Returns the client's IP address: column `ip_addr`. An IPv4-mapped IPv6 address is converted to IPv4.
    pub fn client_ip(&self) -> IpAddr {
        self.origin.client_ip
    }

    /// Returns the argument of HELO or EHLO, unchanged: at most 255 octets without control characters. The client may write
    /// anything here.
    pub fn helo_name(&self) -> &str {
        &self.origin.helo_name
    }

    /// Returns the protocol keyword of the `Received` field, such as `ESMTPS` ([RFC
    /// 3848](https://www.rfc-editor.org/rfc/rfc3848), [RFC 6531 §4.3](https://www.rfc-editor.org/rfc/rfc6531#section-4.3)).
    pub fn protocol(&self) -> &'static str {
        self.origin.protocol
    }

    /// Returns the server's host name (GSMTP_HOST_NAME).
    pub fn host_name(&self) -> &str {
        &self.origin.host_name
    }

    /// Returns the time at which the end of the message was received.
    pub fn received_at(&self) -> SystemTime {
        self.origin.received_at
    }

    /// Returns subject, charset, content type and attachments of the content.
    pub(crate) fn mime_summary(&self) -> &MimeSummary {
        self.summary
            .get_or_init(|| MimeSummary::parse(self.content()))
    }

    /// Returns `Return-Path`, `Delivered-To` and `Received` for one recipient; stores write them before the content.
    pub fn trace_fields(&self, recipient: &Recipient) -> String {
        let id = recipient.hash.as_str();
        trace::trace_fields(&self.origin, self.reverse_path(), &recipient.to, id)
    }

    /// Returns one zlib stream ([RFC 1950](https://www.rfc-editor.org/rfc/rfc1950)) of the recipient's trace fields and the
    /// content: column `mail`.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`]: the memory for the stream cannot be allocated. A smaller mail may still succeed.
    pub fn zlib_body(&self, recipient: &Recipient) -> io::Result<Arc<Vec<u8>>> {
        Ok(self.compressed_body(recipient)?)
    }

    /// Returns the same stream as [`zlib_body`](Mail::zlib_body), with an error that the stores of this crate recognize.
    ///
    /// # Errors
    /// [`CompressAllocError`]: the memory for the stream cannot be allocated. A smaller mail may still succeed.
    pub(crate) fn compressed_body(
        &self,
        recipient: &Recipient,
    ) -> Result<Arc<Vec<u8>>, CompressAllocError> {
        let compressed = match self.compressed.get() {
            Some(compressed) => compressed,
            None => match self.compress()? {
                // The stream of a single recipient is not kept, because it is needed only once.
                CompressedBody::Whole(stream) => return Ok(stream),
                shared => self.compressed.get_or_init(|| shared),
            },
        };
        match compressed {
            CompressedBody::Whole(stream) => Ok(Arc::clone(stream)),
            CompressedBody::Shared(deflated) => {
                let trace_fields = self.trace_fields(recipient);
                deflated.zlib_stream(trace_fields.as_bytes()).map(Arc::new)
            }
        }
    }

    /// Computes the summary and the compressed content on the calling thread, so that the writer's thread does not have to.
    ///
    /// If the memory budget has no room for a second copy of the content, the content is not compressed here. The writer's
    /// thread then compresses it when it saves the mail.
    ///
    /// # Errors
    /// [`CompressAllocError`]: the memory for the compressed content cannot be allocated.
    pub(crate) fn precompute_summary_and_body(&self) -> Result<(), CompressAllocError> {
        self.mime_summary();
        if self.compressed.get().is_none()
            && let Some(mut reservation) =
                self.content.reserve_for_derived_data(self.content().len())
        {
            let compressed = self.compress()?;
            reservation.reduce_reservation_to(compressed.len());
            let _ = self.compressed_reservation.set(reservation);
            let _ = self.compressed.set(compressed);
        }
        Ok(())
    }

    fn compress(&self) -> Result<CompressedBody, CompressAllocError> {
        let [only] = &self.recipients[..] else {
            return Deflated::new(self.content()).map(CompressedBody::Shared);
        };
        let trace_fields = self.trace_fields(only);
        let stream = zlib_stream(trace_fields.as_bytes(), self.content())?;
        Ok(CompressedBody::Whole(Arc::new(stream)))
    }

    /// Returns the estimated size of all rows of the mail in a store, in octets. The sum of these
    /// estimates limits how many mails are saved together in a batch.
    pub(crate) fn estimated_stored_octets(&self) -> usize {
        self.recipients.len() * self.estimated_row_octets(true)
    }

    /// Returns the estimated size of one row of the mail in a store, in octets, with or without its body.
    pub(crate) fn estimated_row_octets(&self, with_body: bool) -> usize {
        // Uncompressed content is counted at its full length, because compressing it for an estimate would cost too much.
        let body = || {
            let compressed = self.compressed.get();
            compressed.map_or(self.content().len(), CompressedBody::len)
        };
        ROW_OCTETS_WITHOUT_BODY + if with_body { body() } else { 0 }
    }
}

/// Estimated size of the trace fields and of the other columns of a row, in octets.
const ROW_OCTETS_WITHOUT_BODY: usize = 600;
