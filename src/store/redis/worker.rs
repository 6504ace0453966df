//! The thread that sends one writer's bodies to Redis. The writer waits for the thread only until a deadline. A socket timeout
//! cannot replace the deadline, because the socket timeout restarts with every octet received.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{BatchBodies, RedisStoreError, SlotsOwnedOrMigrating};
use crate::metrics::{Component, Metrics};
use crate::panics;

/// The bodies to store, and the number of the request.
pub struct StoreBodiesRequest {
    pub number: u64,
    pub bodies: Arc<BatchBodies>,
    pub access: SlotsOwnedOrMigrating,
}

/// The number of a request and its result.
pub type BodyWriteOutcome = (u64, Result<(), RedisStoreError>);

/// Starts the thread, which calls `store` for each request and ends after the request sender or the answer receiver is dropped.
/// A panic in `store` fails only the current request, and is counted in `metrics`.
///
/// # Errors
/// The thread cannot be started.
pub fn start(
    metrics: Arc<Metrics>,
    store: impl Fn(&BatchBodies, SlotsOwnedOrMigrating) -> Result<(), RedisStoreError> + Send + 'static,
) -> io::Result<(Sender<StoreBodiesRequest>, Receiver<BodyWriteOutcome>)> {
    let (requests, requested) = bounded::<StoreBodiesRequest>(1);
    let (answer, answers) = bounded(16);
    let run = move || {
        for request in requested {
            let stored = panics::catch_and_count_panic(&metrics, Component::Redis, || {
                store(&request.bodies, request.access)
            });
            let stored = stored.unwrap_or_else(|text| {
                Err(RedisStoreError::new(format!(
                    "the redis crate panicked: {text}"
                )))
            });
            if answer.send((request.number, stored)).is_err() {
                return;
            }
        }
    };
    let builder = thread::Builder::new().name("redis".to_owned());
    builder.spawn(run)?;
    Ok((requests, answers))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn redis_worker_panic_fails_one_request_and_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let (requests, answers) = start(Arc::clone(&metrics), |bodies, _| match bodies.len() {
            0 => Ok(()),
            _ => panic!("on purpose"),
        })
        .unwrap();
        let hash = crate::mail::MailId::new_mail_ids(1, std::time::SystemTime::now()).unwrap()[0];
        let full: BatchBodies = vec![(hash, Arc::default())];
        for (number, bodies, is_stored) in [
            (1, full.clone(), false),
            (2, full, false),
            (3, vec![], true),
        ] {
            let request = StoreBodiesRequest {
                number,
                bodies: Arc::new(bodies),
                access: SlotsOwnedOrMigrating::Owner,
            };
            requests
                .send_timeout(request, Duration::from_secs(10))
                .unwrap_or_else(|_| panic!("request {number} is accepted"));
            let (answered, stored) = answers.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!((answered, stored.is_ok()), (number, is_stored));
        }
        let page = metrics.render();
        assert!(
            page.contains("goguerrilla_panics_total{component=\"redis\"} 2\n"),
            "{page}"
        );
    }
}
