//! Converts column values to text.

/// Returns a column's octets as text; invalid UTF-8 becomes U+FFFD.
pub fn column_octets_to_text(octets: Vec<u8>) -> String {
    String::from_utf8(octets)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
