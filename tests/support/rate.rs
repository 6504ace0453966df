//! How fast mail is acknowledged, before and after something is lost.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use super::load::Load;

/// What a load reached while all was well: mails in a second.
#[derive(Clone, Copy, Debug)]
pub struct Rate(f64);

impl Rate {
    /// Looks for three seconds.
    pub fn of(load: &Load) -> Rate {
        let window = WINDOW * 3;
        Rate(acknowledged_in(load, window) as f64 / window.as_secs_f64())
    }

    /// How long after something was lost the first whole second began in which half as many mails were acknowledged as before.
    pub fn is_back_after(self, load: &Load, lost_at: Instant, patience: Duration) -> Duration {
        // When each look was made, and what it saw; the last second of them.
        let mut looks = VecDeque::from([(Instant::now(), load.acknowledged())]);
        loop {
            thread::sleep(LOOK_EVERY);
            let (now, seen) = (Instant::now(), load.acknowledged());
            while let Some((at, before)) = looks.front().copied()
                && now - at >= WINDOW
            {
                let rate = (seen - before) as f64 / (now - at).as_secs_f64();
                if rate >= self.0 / 2.0 {
                    return at - lost_at;
                }
                looks.pop_front();
            }
            looks.push_back((now, seen));
            assert!(
                now - lost_at < patience + WINDOW,
                "{} mails in {patience:?}, where {} a second were usual",
                seen - looks.front().map_or(0, |(_, first)| *first),
                self.0
            );
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} mails a second", self.0)
    }
}

fn acknowledged_in(load: &Load, window: Duration) -> usize {
    let before = load.acknowledged();
    thread::sleep(window);
    load.acknowledged() - before
}

/// A rate is one of so long at least.
const WINDOW: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
