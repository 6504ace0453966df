//! Keeps a Redis in trouble out of the way, and tries it again by itself.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::BUDGET;
use crate::locks;
use crate::metrics;

/// Whether Redis is worth trying now. Clones share one state.
#[derive(Clone, Default)]
pub struct Breaker {
    state: Arc<Mutex<BreakerState>>,
}

#[derive(Default)]
struct BreakerState {
    open_until: Option<Instant>,
    pause: Duration,
}

impl Breaker {
    /// Whether to try now. While it is open, one batch after each pause may.
    pub fn may_try(&self) -> bool {
        let mut state = self.lock();
        match state.open_until {
            None => true,
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                // This one probes; the others wait for what it finds.
                state.open_until = Some(Instant::now() + BUDGET * 2);
                true
            }
        }
    }

    /// Redis took what it was given.
    pub fn succeeded(&self) {
        let mut state = self.lock();
        if state.open_until.take().is_some() {
            log::warn!("redis_back");
        }
        state.pause = Duration::ZERO;
    }

    /// Redis did not: it is left alone for a while.
    pub fn failed(&self, reason: &str) {
        metrics::REDIS_ERRORS.count(());
        let mut state = self.lock();
        state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        state.open_until = Some(Instant::now() + state.pause);
        log::error!(reason = reason, pause_seconds = state.pause.as_secs(), bodies = "go into column mail"; "redis_trouble");
    }

    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        locks::lock(&self.state)
    }
}

/// How long Redis is left alone after its first failure; doubled for each one after.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest it is left alone.
const LAST_PAUSE: Duration = Duration::from_secs(30);
