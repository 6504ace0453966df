//! Identifiers of stored rows (column `hash`). They are random, so that they cannot be guessed.

use std::fmt;
use std::io;

/// The identifier of a stored row: 128 random bits, written as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MailId {
    digits: [u8; 32],
}

impl MailId {
    /// Returns `count` new identifiers; uses a single call of getrandom(2).
    ///
    /// # Errors
    /// The kernel provides no random numbers.
    pub(crate) fn new_random_mail_ids(count: usize) -> io::Result<Vec<MailId>> {
        let mut octets = vec![0; 16 * count];
        getrandom::fill(&mut octets).map_err(io::Error::from)?;
        Ok(octets.chunks_exact(16).map(MailId::from_octets).collect())
    }

    /// Returns the 32 hex digits.
    #[expect(clippy::expect_used, reason = "hex digits are ASCII")]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits).expect("hex digits are ASCII")
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "each pair has two digits, and half an octet has 16 values"
    )]
    fn from_octets(octets: &[u8]) -> MailId {
        let mut digits = [0; 32];
        for (pair, octet) in digits.chunks_exact_mut(2).zip(octets) {
            pair[0] = HEX[usize::from(octet >> 4)];
            pair[1] = HEX[usize::from(octet & 15)];
        }
        MailId { digits }
    }
}

impl fmt::Display for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_ids_are_lower_case_hex_and_unique() {
        let ids = MailId::new_random_mail_ids(2).unwrap();
        assert_ne!(ids[0], ids[1]);
        assert!(ids[0].as_str().bytes().all(|digit| HEX.contains(&digit)));
        assert_eq!(MailId::from_octets(&[0xab; 16]).as_str(), "ab".repeat(16));
    }
}
