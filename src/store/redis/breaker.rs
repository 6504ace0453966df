//! Circuit breaker: after a failure, no command is sent to Redis for some time; then Redis is tried again.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::STORE_TIMEOUT;
use crate::metrics::Metrics;
use crate::sync;

/// A circuit breaker, which decides whether Redis may be used now. Clones share one state.
#[derive(Clone)]
pub struct RedisCircuitBreaker {
    state: Arc<Mutex<RedisBreakerState>>,
    /// Counts the failures.
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct RedisBreakerState {
    open_until: Option<Instant>,
    pause: Duration,
}

impl RedisCircuitBreaker {
    /// Returns a closed breaker, which counts failures in `metrics`.
    pub fn new(metrics: &Arc<Metrics>) -> RedisCircuitBreaker {
        RedisCircuitBreaker {
            state: Arc::default(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Returns whether to use Redis for this batch. While the breaker is open, one batch is allowed after each pause.
    pub fn may_use_redis_for_batch(&self) -> bool {
        let mut state = self.lock();
        match state.open_until {
            None => true,
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                // Only this batch tries Redis. Other batches do not use Redis until the result of this batch is recorded, at
                // most for twice `STORE_TIMEOUT`.
                state.open_until = Some(Instant::now() + STORE_TIMEOUT * 2);
                true
            }
        }
    }

    /// Records a success and closes the breaker, so that all batches use Redis again.
    pub fn record_redis_success(&self) {
        let mut state = self.lock();
        if state.open_until.take().is_some() {
            log::warn!("redis_recovered");
        }
        state.pause = Duration::ZERO;
    }

    /// Records a failure and opens the breaker: the next time without Redis is twice as long as the last one, at most
    /// `MAX_PAUSE`.
    pub fn record_redis_failure(&self, reason: &str) {
        self.metrics.redis_errors.count(());
        let mut state = self.lock();
        state.pause = (state.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        state.open_until = Some(Instant::now() + state.pause);
        log::error!(reason = reason, pause_seconds = state.pause.as_secs(), bodies = "go into column mail"; "redis_failed");
    }

    fn lock(&self) -> MutexGuard<'_, RedisBreakerState> {
        sync::lock(&self.state)
    }
}

/// Time for which Redis is not used after the first failure; doubled after each further failure up to `MAX_PAUSE`.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Longest time for which Redis is not used after repeated failures.
const MAX_PAUSE: Duration = Duration::from_secs(30);
