//! Reads subject, charset and attachments from the content of a mail (RFC 2045 to 2049, 2047, 2183, 2231).

mod charset;
mod charset_names;
mod cns_11643;
mod encoded_word;
mod escape_sequence;
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
mod transfer_encoding;
mod unicode;

pub use summary::{Attachment, Summary};
