//! What every configuration satisfies, whatever text it was made from.

use super::Config;

impl Config {
    /// Returns which invariant does not hold, or `None`. Debug builds and the fuzz tests assert `None`.
    #[doc(hidden)]
    pub fn find_broken_invariant(&self) -> Option<&'static str> {
        let is_host = |host: &str| {
            host.len() <= 255 && !host.contains(|c: char| c.is_control() || c.is_whitespace())
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let invariants = [
            (
                (1..=512 << 20).contains(&self.max_content_octets),
                "message size",
            ),
            (
                (1..=86_400).contains(&self.client_timeout.as_secs()),
                "timeout",
            ),
            ((1..=100_000).contains(&self.max_clients), "clients"),
            (
                self.max_clients_per_address <= 100_000,
                "clients of an address",
            ),
            ((1..=10_000).contains(&self.max_recipients), "recipients"),
            ((1..=64).contains(&self.save_workers), "writers"),
            (
                (1..=usize::MAX / 4).contains(&self.max_memory_octets),
                "memory",
            ),
            (self.hold_time.as_secs() <= 300, "hold"),
            (self.feed_length > 0, "length of the feed"),
            (!self.listen_addresses.is_empty(), "addresses"),
            (
                self.tls_listen_addresses.is_empty() || self.tls_files.is_some(),
                "certificate",
            ),
            (
                self.allowed_hosts_files
                    .iter()
                    .all(|file| file.is_absolute()),
                "files of domains",
            ),
            // These values become part of replies, Received fields and SQL statements.
            (
                is_host(&self.host_name) && self.host_name.is_ascii(),
                "host name",
            ),
            (is_host(&self.primary_mail_host), "primary mail host"),
            (
                !self.mail_table.is_empty() && self.mail_table.chars().all(is_word),
                "table",
            ),
        ];
        let broken = invariants.into_iter().find(|(holds, _)| !holds);
        broken.map(|(_, name)| name)
    }
}
