//! The thread that stores bodies for one writer: the socket's time-outs restart with every octet, so the writer does not
//! wait for it beyond its budget.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Bodies, SlotAccess, StoreFailure};
use crate::metrics::Component;
use crate::panics;

/// Bodies to store, and the number that the answer carries.
pub struct Request {
    pub number: u64,
    pub bodies: Arc<Bodies>,
    pub entry: SlotAccess,
}

/// Number of a request and its outcome.
pub type Answer = (u64, Result<(), StoreFailure>);

/// Starts the thread; it ends when its requests or the receiver of its answers are dropped. A panic costs the request at hand
/// its place in Redis, and the thread goes on.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    store: impl Fn(&Bodies, SlotAccess) -> Result<(), StoreFailure> + Send + 'static,
) -> io::Result<(Sender<Request>, Receiver<Answer>)> {
    let (requests, requested) = bounded::<Request>(1);
    let (answer, answers) = bounded(16);
    let work = move || {
        for request in requested {
            let stored = panics::catch(Component::Redis, || store(&request.bodies, request.entry));
            let stored = stored.unwrap_or_else(|text| {
                Err(StoreFailure::new(format!(
                    "the client library panicked: {text}"
                )))
            });
            if answer.send((request.number, stored)).is_err() {
                return;
            }
        }
    };
    let builder = thread::Builder::new().name("redis".to_owned());
    builder.spawn(work)?;
    Ok((requests, answers))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn redis_worker_panic_fails_one_request_and_is_counted() {
        let (requests, answers) = start(|bodies, _| match bodies.len() {
            0 => Ok(()),
            _ => panic!("on purpose"),
        })
        .unwrap();
        let hash = crate::mail::MailId::random(1).unwrap()[0];
        let full: Bodies = vec![(hash, Arc::default())];
        for (number, bodies, is_stored) in [
            (1, full.clone(), false),
            (2, full, false),
            (3, vec![], true),
        ] {
            let request = Request {
                number,
                bodies: Arc::new(bodies),
                entry: SlotAccess::Owner,
            };
            requests
                .send_timeout(request, Duration::from_secs(10))
                .unwrap_or_else(|_| panic!("request {number} is taken"));
            let (answered, stored) = answers.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!((answered, stored.is_ok()), (number, is_stored));
        }
        let page = crate::metrics::render();
        assert!(
            page.contains("goguerrilla_panics_total{component=\"redis\"} 2\n"),
            "{page}"
        );
    }
}
