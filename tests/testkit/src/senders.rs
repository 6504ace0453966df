//! Senders that deliver mails until they are stopped, keep an account, and send again what was not acknowledged.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::load::{PlainClient, content_of};
use crate::{let_time_pass, wait_for};

/// Concurrent senders of mails whose subjects are unique.
pub struct Senders {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<SenderAccount>>,
}

/// What the senders sent and the replies that they got, by subject.
#[derive(Debug, Default)]
pub struct SenderAccount {
    pub acknowledged: BTreeSet<String>,
    /// Mails whose final dot got no reply at least once; they may be stored more than once.
    pub unanswered: BTreeSet<String>,
    /// How often a mail got a 4xx reply, or a connection ended before its final dot was sent.
    pub sent_again: usize,
}

struct Shared {
    address: SocketAddr,
    is_stopped: AtomicBool,
    acknowledged: AtomicUsize,
}

enum Outcome {
    Acknowledged,
    NotTaken,
    Unanswered,
}

impl Senders {
    /// Starts `count` senders, whose subjects begin with `prefix`.
    pub fn start(address: SocketAddr, count: usize, prefix: &str) -> Senders {
        let shared = Arc::new(Shared {
            address,
            is_stopped: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
        });
        let start = |number: usize| {
            let (shared, name) = (Arc::clone(&shared), format!("{prefix}-{number}"));
            thread::spawn(move || shared.send_until_stopped(&name))
        };
        let threads = (0..count).map(start).collect();
        Senders { shared, threads }
    }

    /// Waits until this many more mails have been acknowledged.
    pub fn wait_for_more(&self, count: usize) {
        let acknowledged = || self.shared.acknowledged.load(Ordering::SeqCst);
        let goal = acknowledged() + count;
        wait_for("mails to be acknowledged", || {
            (acknowledged() >= goal).then_some(())
        });
    }

    /// Lets each sender deliver its last mail until it is acknowledged.
    pub fn stop(self) -> SenderAccount {
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        let mut total = SenderAccount::default();
        for thread in self.threads {
            let account = thread.join().expect("no panic in a sender");
            total.acknowledged.extend(account.acknowledged);
            total.unanswered.extend(account.unanswered);
            total.sent_again += account.sent_again;
        }
        total
    }
}

impl Shared {
    fn send_until_stopped(&self, name: &str) -> SenderAccount {
        let mut account = SenderAccount::default();
        let mut client = None;
        for number in 0.. {
            if self.is_stopped.load(Ordering::SeqCst) {
                break;
            }
            // Every third content is a few kilobytes long.
            let more = number % 3 / 2 * 4_000;
            let subject = format!("{name}-{number}+{more}");
            if number % MAILS_PER_CONNECTION == 0 {
                client = None;
            }
            while !account.acknowledged.contains(&subject) {
                match self.deliver(&mut client, &subject) {
                    Outcome::Acknowledged => {
                        account.acknowledged.insert(subject.clone());
                        self.acknowledged.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    Outcome::NotTaken => account.sent_again += 1,
                    Outcome::Unanswered => {
                        account.unanswered.insert(subject.clone());
                    }
                }
                client = None;
                let_time_pass(Duration::from_millis(5), "the pause of a client");
            }
        }
        account
    }

    fn deliver(&self, client: &mut Option<PlainClient>, subject: &str) -> Outcome {
        let begun = self.begin(client);
        let Ok(client) = begun.inspect_err(assert_is_temporary) else {
            return Outcome::NotTaken;
        };
        let content = format!("{}.\r\n", content_of(subject));
        let replied = client
            .send(content.as_bytes())
            .and_then(|()| client.read_code());
        match replied {
            Ok(250) => Outcome::Acknowledged,
            Ok(code @ 400..500) => {
                assert_ne!(code, 452, "{subject}");
                Outcome::NotTaken
            }
            Ok(code) => panic!("{code} to {subject}"),
            Err(_) => Outcome::Unanswered,
        }
    }

    /// Sends the commands up to DATA, over a new connection if there is none.
    fn begin<'a>(&self, client: &'a mut Option<PlainClient>) -> io::Result<&'a mut PlainClient> {
        let client = match client {
            Some(client) => client,
            None => {
                let mut new = PlainClient::connect(self.address)?;
                new.command("EHLO client.test\r\n", 250)?;
                client.insert(new)
            }
        };
        client.command("MAIL FROM:<a@client.test>\r\n", 250)?;
        client.command("RCPT TO:<u@ours.test>\r\n", 250)?;
        client.command("DATA\r\n", 354)?;
        Ok(client)
    }
}

/// Asserts that a command failed because of the connection or with a 4xx reply.
fn assert_is_temporary(error: &io::Error) {
    let is_reply = error.kind() == io::ErrorKind::Other;
    assert!(!is_reply || error.to_string().starts_with('4'), "{error}");
}

/// Asserts that each acknowledged mail and no other is stored, and that only mails without a reply are stored more than once.
/// Returns the number of additional rows.
pub fn assert_stored(account: &SenderAccount, stored: &HashMap<String, usize>) -> usize {
    for subject in &account.acknowledged {
        assert!(stored.contains_key(subject), "{subject} got a 250");
    }
    let mut doubled = 0;
    for (subject, count) in stored {
        assert!(account.acknowledged.contains(subject), "{subject}");
        let is_once = *count == 1 || account.unanswered.contains(subject);
        assert!(is_once, "{subject} is stored {count} times");
        doubled += count - 1;
    }
    doubled
}

/// The number of mails after which a sender reconnects.
const MAILS_PER_CONNECTION: usize = 5;
