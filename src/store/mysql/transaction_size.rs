//! The largest transaction of a replication group.
//!
//! A group rejects a larger transaction only at COMMIT, after all of its rows were sent and with an error (3100) that other
//! faults cause as well. The size is therefore estimated before the first row is sent.

use std::collections::HashSet;
use std::fmt;
use std::io;

use super::connection::MySqlConnection;
use crate::mail::Mail;
use crate::store::redis::BodiesInRedis;

/// The error of rows that are too large for one transaction of the group.
#[derive(Debug)]
pub struct TransactionTooLarge {
    octets: usize,
    rows: usize,
    limit: usize,
}

/// Checks that the rows of `mails` that are not in `stored` fit into one transaction of the group of this server.
///
/// # Errors
/// [`TransactionTooLarge`]. Nothing was sent.
pub fn check_transaction_size(
    connection: &MySqlConnection,
    mails: &[Mail],
    bodies_in: &BodiesInRedis,
    stored: &HashSet<String>,
) -> io::Result<()> {
    let group = connection.server.group.as_ref();
    let Some(limit) = group.and_then(|group| group.max_transaction_octets) else {
        return Ok(());
    };
    let (mut octets, mut rows) = (0_usize, 0);
    for mail in mails {
        for recipient in mail.recipients() {
            if !stored.contains(recipient.hash.as_str()) {
                rows += 1;
                let is_in_table = !bodies_in.is_body_in_redis(&recipient.hash);
                octets = octets.saturating_add(mail.estimated_row_octets(is_in_table));
            }
        }
    }
    if octets <= limit {
        return Ok(());
    }
    Err(io::Error::other(TransactionTooLarge {
        octets,
        rows,
        limit,
    }))
}

impl fmt::Display for TransactionTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TransactionTooLarge {
            octets,
            rows,
            limit,
        } = self;
        write!(
            f,
            "{rows} rows of together {octets} octets are more than the replication group takes in one transaction \
             (group_replication_transaction_size_limit = {limit}): raise that limit on all members, lower GSMTP_MAX_SIZE or \
             GM_MAX_RECIPIENTS, or store bodies in Redis"
        )
    }
}

impl std::error::Error for TransactionTooLarge {}
