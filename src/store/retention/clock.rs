//! Detects that the machine's clock was set forward: every row would then seem old.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// The time when the server started or read its configuration again.
#[derive(Clone, Copy, Debug)]
pub struct StartTime {
    wall: SystemTime,
    since_boot: Option<Duration>,
}

impl StartTime {
    /// Returns the present time.
    pub fn now() -> StartTime {
        StartTime {
            wall: SystemTime::now(),
            since_boot: since_boot(),
        }
    }

    /// Returns by how much the clock was set forward since this time, if it is more than `LARGEST_CORRECTION`.
    pub fn step_forward(&self) -> Option<Duration> {
        let wall = SystemTime::now().duration_since(self.wall).ok()?;
        let passed = since_boot()?.checked_sub(self.since_boot?)?;
        step_forward(wall, passed)
    }
}

fn step_forward(wall: Duration, passed: Duration) -> Option<Duration> {
    let step = wall.checked_sub(passed)?;
    (step > LARGEST_CORRECTION).then_some(step)
}

/// Returns the time since the machine started, with the time that it was suspended. No program can set this clock.
fn since_boot() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .map(Duration::from)
}

/// A clock that differs by more is not trusted, as with a database's clock.
const LARGEST_CORRECTION: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_step_forward_is_reported() {
        let minute = Duration::from_secs(60);
        assert_eq!(step_forward(minute * 600, minute * 600), None);
        assert_eq!(step_forward(minute * 60, Duration::ZERO), None);
        assert_eq!(step_forward(Duration::ZERO, minute * 600), None);
        assert_eq!(step_forward(minute * 62, minute), Some(minute * 61));
        assert_eq!(StartTime::now().step_forward(), None);
    }
}
