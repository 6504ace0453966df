//! How soon mail is saved again after a database server was lost.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};

use crate::{Server, release_or_debug, short_mail, wait_at_most};

/// The time from the loss of a server until other servers took writes, and until new mail was saved.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    pub writable: Duration,
    pub saved: Duration,
}

impl Recovery {
    /// Measures how soon after `lost_at` one of `nodes` takes a row for table `mail.writes`, and how soon the server saves a
    /// new mail. Each mail is sent on its own connection, from p@client.test.
    pub fn measure(server: &Server, nodes: &[OptsBuilder], lost_at: Instant) -> Recovery {
        let (writable, is_saved) = (OnceLock::new(), AtomicBool::new(false));
        let saved = thread::scope(|scope| {
            for node in nodes {
                scope.spawn(|| {
                    wait_at_most(LIMIT, || {
                        let written = Conn::new(node.clone()).and_then(|mut connection| {
                            connection.query_drop("INSERT INTO mail.writes VALUES ()")
                        });
                        if written.is_ok() {
                            let _ = writable.set(lost_at.elapsed());
                        }
                        let is_over = writable.get().is_some() || is_saved.load(Ordering::SeqCst);
                        is_over.then_some(())
                    });
                });
            }
            let saved = wait_at_most(LIMIT, || is_mail_saved(server).then(|| lost_at.elapsed()));
            is_saved.store(true, Ordering::SeqCst);
            saved.unwrap_or_else(|| panic!("no mail was saved\n{}", server.log()))
        });
        // If no write of this function was faster, the mail was the first one.
        let writable = writable.get().copied().unwrap_or(saved);
        Recovery { writable, saved }
    }

    /// Prints the times, and asserts that mail was saved soon after the database took writes.
    pub fn assert_soon(self, what: &str) {
        let Recovery { writable, saved } = self;
        crate::note!("{what}: writes after {writable:.1?}, the next 250 after {saved:.1?}");
        assert!(saved < writable + RECOVERY_LIMIT, "{what}: {self:?}");
    }
}

fn is_mail_saved(server: &Server) -> bool {
    let mut client = server.client();
    client.set_reply_timeout(LIMIT);
    let reply = client.deliver("p@client.test", "u@ours.test", &short_mail("probe"));
    assert!([250, 451].contains(&reply.code), "{reply:?}");
    reply.code == 250
}

/// How soon after the database takes writes new mail must be saved.
const RECOVERY_LIMIT: Duration = release_or_debug(Duration::from_secs(2), Duration::from_secs(10));
/// How soon mail must be saved at the latest. A replication group needs about 21 seconds for a killed primary.
const LIMIT: Duration = Duration::from_secs(120);
