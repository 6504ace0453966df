//! Identifiers of stored rows (column `hash`).
//!
//! They begin with the time, so that new entries of an index on `hash` are at its end, and continue with random digits, so that
//! they cannot be guessed.

use std::fmt;
use std::io;
use std::time::SystemTime;

/// The identifier of a stored row: 32 lower-case hex digits. The first 8 are the time at which the message was received, in
/// seconds since 1970; the other 24 are random.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MailId {
    digits: [u8; 32],
}

impl MailId {
    /// Returns `count` new identifiers of a message that was received at `time`; uses a single call of getrandom(2).
    ///
    /// # Errors
    /// The kernel provides no random numbers.
    pub(crate) fn new_mail_ids(count: usize, time: SystemTime) -> io::Result<Vec<MailId>> {
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH);
        // 32 bits suffice until 2106. After that the digits begin at 0 again, and the ids are still unique.
        let seconds = since_1970.unwrap_or_default().as_secs() as u32;
        let mut random = vec![0; RANDOM_OCTETS * count];
        getrandom::fill(&mut random).map_err(io::Error::from)?;
        let random = random.chunks_exact(RANDOM_OCTETS);
        Ok(random
            .map(|random| MailId::from_octets(seconds.to_be_bytes().iter().chain(random)))
            .collect())
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
    fn from_octets<'a>(octets: impl Iterator<Item = &'a u8>) -> MailId {
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

/// Number of random octets of an identifier: 96 bits.
const RANDOM_OCTETS: usize = 12;

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn mail_ids_begin_with_the_time_and_are_unique_lower_case_hex() {
        for (seconds, want) in [
            (0, "00000000"),
            (1_800_000_000, "6b49d200"),
            (1 << 32, "00000000"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            for id in MailId::new_mail_ids(2, time).unwrap() {
                assert_eq!(&id.as_str()[..8], want);
            }
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert!(MailId::new_mail_ids(1, before_1970).is_ok());
        let ids = MailId::new_mail_ids(2, SystemTime::now()).unwrap();
        assert_ne!(ids[0], ids[1]);
        assert!(ids[0].as_str().bytes().all(|digit| HEX.contains(&digit)));
        assert_eq!(
            MailId::from_octets([0xab; 16].iter()).as_str(),
            "ab".repeat(16)
        );
    }
}
