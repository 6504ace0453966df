//! The last five minutes of the server, and since when it has each problem.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::problem::Problem;
use super::sample::Sample;
use crate::store::{HostState, HostStatus};

/// What [`StatusMonitor`](super::monitor::StatusMonitor) has recorded so far, so that a page that is opened after a problem
/// began shows since when.
#[derive(Default)]
pub struct History {
    samples: VecDeque<Sample>,
    current: Vec<ProblemPeriod>,
    /// The problems that have ended, the newest first.
    past: VecDeque<ProblemPeriod>,
    /// The state of each host, and since when.
    hosts: HashMap<String, (HostState, f64)>,
}

/// A problem from the first to the last time that it was found. Times are in seconds since 1970.
struct ProblemPeriod {
    problem: Problem,
    since: f64,
    until: f64,
}

impl History {
    /// Returns the newest sample that is at least `seconds` older than `now`; the oldest one if all are younger.
    pub fn sample_before(&self, now: f64, seconds: f64) -> Option<&Sample> {
        let newest_first = self.samples.iter().rev();
        let mut old = newest_first.filter(|sample| sample.unix_seconds <= now - seconds);
        old.next().or(self.samples.front())
    }

    /// Keeps a sample for the charts.
    pub fn push_sample(&mut self, sample: Sample) {
        // A rate between two samples needs ascending times, also if the clock was set back.
        let time = sample.unix_seconds;
        while (self.samples.back()).is_some_and(|last| last.unix_seconds >= time) {
            self.samples.pop_back();
        }
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Records which problems the server has at the time `now`.
    pub fn record_problems(&mut self, now: f64, problems: Vec<Problem>) {
        let before = std::mem::take(&mut self.current);
        let since = |problem: &Problem| {
            let same = before.iter().find(|old| old.problem.key == problem.key);
            same.map_or(now, |old| old.since)
        };
        let current = problems.into_iter().map(|problem| ProblemPeriod {
            since: since(&problem),
            until: now,
            problem,
        });
        self.current = current.collect();
        for mut ended in before {
            if !self
                .current
                .iter()
                .any(|one| one.problem.key == ended.problem.key)
            {
                ended.until = now;
                self.past.push_front(ended);
            }
        }
        self.past.truncate(MAX_PAST_PROBLEMS);
    }

    /// Records the state of each host at the time `now`.
    pub fn record_hosts(&mut self, now: f64, hosts: &[HostStatus]) {
        let before = std::mem::take(&mut self.hosts);
        self.hosts = hosts
            .iter()
            .map(|host| {
                let same = before
                    .get(&host.name)
                    .filter(|(state, _)| *state == host.state);
                let since = same.map_or(now, |(_, since)| *since);
                (host.name.clone(), (host.state, since))
            })
            .collect();
    }

    /// Returns the current problems as a JSON array.
    pub fn current_problems_as_json(&self) -> Value {
        self.current.iter().map(|one| one.as_json(None)).collect()
    }

    /// Returns the problems that have ended as a JSON array, the newest first.
    pub fn past_problems_as_json(&self) -> Value {
        let past = self.past.iter();
        past.map(|one| one.as_json(Some(one.until))).collect()
    }

    /// Returns the hosts as a JSON array.
    pub fn hosts_as_json(&self, hosts: &[HostStatus]) -> Value {
        let since = |name: &str| self.hosts.get(name).map(|(_, since)| *since);
        let host = |host: &HostStatus| {
            json!({
                "name": host.name,
                "state": state_name(host.state),
                "reason": host.reason,
                "since": since(&host.name),
            })
        };
        hosts.iter().map(host).collect()
    }

    /// Returns the samples as a JSON array, the oldest first.
    pub fn samples_as_json(&self) -> Value {
        self.samples.iter().map(Sample::sample_as_json).collect()
    }
}

impl ProblemPeriod {
    fn as_json(&self, until: Option<f64>) -> Value {
        json!({
            "severity": self.problem.severity.as_str(),
            "text": self.problem.text,
            "since": self.since,
            "until": until,
        })
    }
}

fn state_name(state: HostState) -> &'static str {
    match state {
        HostState::Up => "up",
        HostState::Standby => "standby",
        HostState::Down => "down",
    }
}

/// Number of samples, one a second: five minutes, about 350 octets each.
const MAX_SAMPLES: usize = 301;
/// Number of past problems that the page lists.
const MAX_PAST_PROBLEMS: usize = 10;

#[cfg(test)]
mod tests {
    use super::super::problem::Severity;
    use super::*;

    fn problem(key: &str, text: &str) -> Problem {
        Problem {
            key: key.to_owned(),
            severity: Severity::Error,
            text: text.to_owned(),
        }
    }

    #[test]
    fn problem_has_the_time_of_its_first_look_and_is_kept_after_its_end() {
        let mut history = History::default();
        history.record_problems(1.0, vec![problem("a", "1 s")]);
        history.record_problems(2.0, vec![problem("a", "2 s"), problem("b", "B")]);
        let current = history.current_problems_as_json();
        assert_eq!(current[0]["since"], 1.0);
        assert_eq!(current[0]["text"], "2 s");
        assert_eq!(current[1]["since"], 2.0);
        assert_eq!(current[0]["severity"], "error");
        history.record_problems(3.0, vec![problem("b", "B")]);
        let past = history.past_problems_as_json();
        assert_eq!(past[0]["text"], "2 s");
        assert_eq!(
            (&past[0]["since"], &past[0]["until"]),
            (&1.0.into(), &3.0.into())
        );
        for time in 0..100 {
            history.record_problems(f64::from(time), vec![problem(&time.to_string(), "")]);
        }
        let past = history.past_problems_as_json();
        assert_eq!(past.as_array().map(Vec::len), Some(MAX_PAST_PROBLEMS));
        assert_eq!(past[0]["until"], 99.0);
    }

    #[test]
    fn host_has_the_time_of_its_last_change_of_state() {
        let host = |state, reason: &str| {
            vec![HostStatus {
                name: "db".to_owned(),
                state,
                reason: reason.to_owned(),
            }]
        };
        let mut history = History::default();
        for (time, state, reason, since) in [
            (1.0, HostState::Up, "", 1.0),
            (2.0, HostState::Up, "", 1.0),
            (3.0, HostState::Down, "a", 3.0),
            (4.0, HostState::Down, "b", 3.0),
            (5.0, HostState::Standby, "c", 5.0),
        ] {
            let hosts = host(state, reason);
            history.record_hosts(time, &hosts);
            let shown = history.hosts_as_json(&hosts);
            assert_eq!(shown[0]["since"], since);
            assert_eq!(shown[0]["reason"], reason);
        }
    }

    #[test]
    fn samples_are_limited_and_found_by_their_age() {
        let mut history = History::default();
        assert!(history.sample_before(0.0, 60.0).is_none());
        for time in 0..1_000 {
            history.push_sample(Sample {
                unix_seconds: f64::from(time),
                ..Sample::default()
            });
        }
        let samples = history.samples_as_json();
        assert_eq!(samples.as_array().map(Vec::len), Some(MAX_SAMPLES));
        let found = |now, seconds| history.sample_before(now, seconds).unwrap().unix_seconds;
        assert_eq!(found(999.0, 60.0), 939.0);
        assert_eq!(found(999.5, 60.0), 939.0);
        assert_eq!(found(999.0, 600.0), 699.0, "the oldest one");
    }

    #[test]
    fn samples_that_are_in_the_future_because_the_clock_was_set_back_are_dropped() {
        let mut history = History::default();
        for time in [1_000.0, 1_001.0, 1_002.0, 1_003.0, 1_001.5, 1_002.5] {
            history.push_sample(Sample {
                unix_seconds: time,
                ..Sample::default()
            });
        }
        let times = |history: &History| -> Vec<f64> {
            let samples = history.samples.iter();
            samples.map(|sample| sample.unix_seconds).collect()
        };
        assert_eq!(times(&history), [1_000.0, 1_001.0, 1_001.5, 1_002.5]);
        history.push_sample(Sample::default());
        assert_eq!(times(&history), [0.0]);
    }
}
