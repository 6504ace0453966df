//! Pauses between retries.

use std::time::Duration;

/// Returns the pause multiplied by a random factor between 0.75 and 1.25, so that writers of several servers do not retry
/// at the same moment.
pub fn jittered(pause: Duration) -> Duration {
    let mut octet = [0];
    // If random numbers are unavailable, the factor is 0.75.
    let _ = getrandom::fill(&mut octet);
    pause.mul_f64(0.75 + f64::from(octet[0]) / 512.0)
}

/// Pause before the first retry; doubled for each further retry.
pub const MIN_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Maximum pause between two retries of a batch.
pub const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
