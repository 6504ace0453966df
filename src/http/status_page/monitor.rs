//! Records the state of the server once a second, whether or not a browser shows the page.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use super::history::History;
use super::problem::{ServerState, find_problems};
use super::sample::{Sample, save_seconds_bounds};
use crate::connection::{ConnectionSettings, SharedSettings};
use crate::http::status::unready_reason;
use crate::metrics::Component;
use crate::net::accept_pool::AcceptPool;
use crate::panics;
use crate::store::HostStatus;
use crate::sync;

/// The state of the server, now and in the last five minutes.
pub struct StatusMonitor {
    pool: Arc<AcceptPool>,
    settings: Arc<SharedSettings>,
    history: Mutex<History>,
    started_at: Option<u64>,
}

impl StatusMonitor {
    /// Starts the thread that records the state until the returned sender is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        pool: Arc<AcceptPool>,
        settings: Arc<SharedSettings>,
    ) -> io::Result<(Arc<StatusMonitor>, Sender<()>)> {
        let monitor = Arc::new(StatusMonitor {
            started_at: pool.metrics().started_at.value(),
            pool,
            settings,
            history: Mutex::default(),
        });
        let (running, ended) = bounded(0);
        let recording = Arc::clone(&monitor);
        let run = move || {
            while ended.recv_timeout(RECORD_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let metrics = recording.pool.metrics();
                let record = || recording.record_state_and_sample();
                // A panic costs one point of the charts.
                if let Err(reason) = panics::catch_and_count_panic(metrics, Component::Http, record)
                {
                    log::error!(reason = reason.as_str(); "http_panicked");
                }
            }
        };
        thread::Builder::new()
            .name("status".to_owned())
            .stack_size(STACK_OCTETS)
            .spawn(run)?;
        Ok((monitor, running))
    }

    /// Returns the current state, and `newest_mails`, as a JSON object. Records the problems and the hosts of this moment.
    pub fn record_and_return_state_as_json(&self, newest_mails: Value) -> Value {
        let settings = self.settings.current();
        let mut history = sync::lock(&self.history);
        let ServerReading {
            sample,
            unready_reason,
            hosts,
        } = self.record_state(&settings, &mut history);
        let ids_used = sample.mail_id_used_billionths;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "host_name": settings.session.host_name,
            "started_at": self.started_at,
            "is_ready": unready_reason.is_none(),
            "problems": history.current_problems_as_json(),
            "past_problems": history.past_problems_as_json(),
            "hosts": history.hosts_as_json(&hosts),
            "certificate_expires_at": sample.certificate_expires_at,
            "mail_id_used_ratio": ids_used.map(|billionths| billionths as f64 / 1e9),
            "save_seconds_bounds": save_seconds_bounds(self.pool.metrics()),
            "sample": sample.sample_as_json(),
            "newest": newest_mails,
        })
    }

    /// Returns the samples of the last five minutes as a JSON object.
    pub fn samples_as_json(&self) -> Value {
        json!({ "samples": sync::lock(&self.history).samples_as_json() })
    }

    fn record_state_and_sample(&self) {
        let settings = self.settings.current();
        let mut history = sync::lock(&self.history);
        let reading = self.record_state(&settings, &mut history);
        history.push_sample(reading.sample);
    }

    /// Reads the current state, and records the problems and the hosts in `history`. Reads each value once, so that what the
    /// page shows does not contradict its problems.
    fn record_state(&self, settings: &ConnectionSettings, history: &mut History) -> ServerReading {
        let sample = Sample::take(&self.pool, settings);
        let unready_reason = unready_reason(&self.pool, settings);
        let hosts = settings.saver.health().host_status();
        let now = sample.unix_seconds;
        let at_start = Sample::default();
        let problems = find_problems(&ServerState {
            unready_reason: unready_reason.clone(),
            hosts: &hosts,
            now: &sample,
            minute_ago: history.sample_before(now, 60.0).unwrap_or(&at_start),
        });
        history.record_problems(now, problems);
        history.record_hosts(now, &hosts);
        ServerReading {
            sample,
            unready_reason,
            hosts,
        }
    }
}

/// The state of the server at one moment.
struct ServerReading {
    sample: Sample,
    unready_reason: Option<String>,
    hosts: Vec<HostStatus>,
}

/// The interval at which the state is recorded, which is that of the points in the charts.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// Stack size in octets of the thread; only pages in use take memory.
const STACK_OCTETS: usize = 256 * 1_024;
