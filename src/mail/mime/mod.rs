//! MIME parsing: subject, charset and attachments of a message (RFC 2045 to 2049, 2183, 2231).

mod charset;
mod charset_names;
mod cns_11643;
mod content_type;
mod encoded_word;
mod escape_sequence;
mod header;
mod jis_x_0213;
mod multipart;
mod parameter_value;
mod parameters;
mod quoted_string;
mod raw_text;
mod single_byte;
mod stateful_charset;
mod summary;
mod transfer_encoding;
mod unicode;

pub use summary::{Attachment, MimeSummary};
