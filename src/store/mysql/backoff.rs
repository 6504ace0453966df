//! Pauses between retries.

use std::time::Duration;

/// Returns the pause multiplied by a random factor between 0.75 and 1.25, so that the writers of several SMTP servers do not
/// retry at the same moment.
pub fn jittered(pause: Duration) -> Duration {
    let mut octet = [0];
    // If random numbers are unavailable, the factor is 0.75.
    let _ = getrandom::fill(&mut octet);
    pause.mul_f64(0.75 + f64::from(octet[0]) / 512.0)
}

/// Pause before the first retry of a batch. The pause is doubled for each further retry, up to [`MAX_RETRY_PAUSE`].
pub const MIN_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Maximum pause between two retries of a batch, before [`jittered`] is applied.
pub const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);
