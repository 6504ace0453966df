//! The problems that the server has now, as the status page names them.

use jiff::Timestamp;

use super::sample::Sample;
use crate::store::{HostState, HostStatus};

/// Something that needs the administrator's attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Identifies the problem as long as it lasts; its text may change meanwhile.
    pub key: String,
    /// Whether mail is accepted in spite of the problem.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub text: String,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Mail is not accepted now.
    Error,
    /// Mail is accepted, but something needs attention.
    Warning,
}

/// What [`find_problems`] judges.
pub struct ServerState<'a> {
    /// Why /readyz is 503; `None` if it is 200.
    pub unready_reason: Option<String>,
    /// The state of each database host if there are several.
    pub hosts: &'a [HostStatus],
    /// The numbers now.
    pub now: &'a Sample,
    /// The numbers a minute ago.
    pub minute_ago: &'a Sample,
}

impl Severity {
    /// Returns the name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// Returns everything that is wrong now, the errors first.
pub fn find_problems(state: &ServerState) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |key: &str, severity, text: String| {
        problems.push(Problem {
            key: key.to_owned(),
            severity,
            text,
        });
    };
    if let Some(reason) = &state.unready_reason {
        add("unready", Severity::Error, reason.clone());
    }
    if let Some((severity, text)) = connections_problem(state.now) {
        add("connections", severity, text);
    }
    if let Some((severity, text)) = certificate_problem(state.now) {
        add("certificate", severity, text);
    }
    for (key, text) in warnings_from_counts(state.now, state.minute_ago) {
        add(key, Severity::Warning, text);
    }
    for host in state
        .hosts
        .iter()
        .filter(|host| host.state == HostState::Down)
    {
        let text = format!("host {} is down: {}", host.name, host.reason);
        add(&format!("host {}", host.name), Severity::Warning, text);
    }
    // The sort is stable.
    problems.sort_by_key(|problem| problem.severity == Severity::Warning);
    problems
}

fn connections_problem(now: &Sample) -> Option<(Severity, String)> {
    let (active, limit) = (now.connections_active, now.connections_limit);
    if limit > 0 && active >= limit {
        let text = format!("all {limit} connections are taken: further clients get 421");
        return Some((Severity::Error, text));
    }
    let text = || format!("{active} of {limit} connections are taken: timeouts are shortened");
    is_nearly_full(active, limit).then(|| (Severity::Warning, text()))
}

fn certificate_problem(now: &Sample) -> Option<(Severity, String)> {
    let expires_at = now.certificate_expires_at?;
    let seconds_left = expires_at as f64 - now.unix_seconds;
    let date = Timestamp::from_second(i64::try_from(expires_at).ok()?).ok()?;
    let date = date.strftime("%Y-%m-%d %H:%M UTC");
    if seconds_left <= 0.0 {
        return Some((
            Severity::Error,
            format!("the certificate expired on {date}"),
        ));
    }
    let is_soon = seconds_left < CERTIFICATE_WARNING_SECONDS;
    is_soon.then(|| {
        (
            Severity::Warning,
            format!("the certificate expires on {date}"),
        )
    })
}

/// Returns the key and text of each problem that counts and sizes show.
fn warnings_from_counts(now: &Sample, minute_ago: &Sample) -> Vec<(&'static str, String)> {
    let (bytes, limit) = (now.content_bytes, now.content_limit_bytes);
    let ids_used = now.mail_id_used_billionths.unwrap_or_default();
    let grown = |count: fn(&Sample) -> u64| count(now).saturating_sub(count(minute_ago));
    let deferred = grown(Sample::mails_deferred);
    let redis_errors = grown(|sample| sample.redis_errors);
    let log_lines = grown(|sample| sample.log_lines_dropped);
    let panics = grown(|sample| sample.panics);
    let warnings = [
        (
            "held",
            now.mails_held > 0,
            format!("{} mails wait for the store", now.mails_held),
        ),
        (
            "deferred",
            deferred > 0,
            format!("{deferred} mails got 451 or 452 in the last minute"),
        ),
        (
            "memory",
            is_nearly_full(bytes, limit),
            "message content takes 90 % of GM_MAX_MEMORY: above it mail gets 452".to_owned(),
        ),
        (
            "mail_id",
            ids_used >= MAIL_ID_WARNING_BILLIONTHS,
            format!(
                "{} % of the range of mail_id is used: `goguerrilla check` prints the ALTER TABLE",
                ids_used / 10_000_000
            ),
        ),
        (
            "redis",
            redis_errors > 0,
            format!(
                "Redis failed for {redis_errors} batches in the last minute: bodies go into the table"
            ),
        ),
        (
            "log",
            log_lines > 0,
            format!("{log_lines} log lines were dropped in the last minute"),
        ),
        (
            "panics",
            panics > 0,
            format!("{panics} bugs were caught in the last minute: see the log, and report them"),
        ),
    ];
    let present = warnings
        .into_iter()
        .filter(|(_, is_present, _)| *is_present);
    present.map(|(key, _, text)| (key, text)).collect()
}

/// Returns whether nine tenths of a limit are reached. With so many connections, timeouts are at their shortest.
fn is_nearly_full(value: u64, limit: u64) -> bool {
    limit > 0 && value.saturating_mul(10) >= limit.saturating_mul(9)
}

/// A certificate is reported this many seconds before it expires: two weeks. Let's Encrypt's are renewed a month before.
const CERTIFICATE_WARNING_SECONDS: f64 = 14.0 * 86_400.0;
/// The share of used ids that is reported, as in the log at the start: a half.
const MAIL_ID_WARNING_BILLIONTHS: u64 = 500_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            unix_seconds: 1_000_000.0,
            connections_limit: 100,
            content_limit_bytes: 1_000,
            mails: [7, 1, 2, 4, 8],
            redis_errors: 5,
            log_lines_dropped: 5,
            panics: 5,
            certificate_expires_at: Some(3_000_000),
            mail_id_used_billionths: Some(499_999_999),
            ..Sample::default()
        }
    }

    /// Applies `change` to a sample without problems. Returns the problems that are found then, each as `severity text`.
    fn problems(change: impl FnOnce(&mut Sample)) -> Vec<String> {
        let minute_ago = sample();
        let mut now = sample();
        change(&mut now);
        let problems = find_problems(&ServerState {
            unready_reason: None,
            hosts: &[],
            now: &now,
            minute_ago: &minute_ago,
        });
        let line = |problem: &Problem| format!("{} {}", problem.severity.as_str(), problem.text);
        problems.iter().map(line).collect()
    }

    #[test]
    fn each_limit_that_is_reached_is_a_problem() {
        assert_eq!(problems(|_| {}), [""; 0]);
        let change = |now: &mut Sample| {
            now.connections_active = 89;
            now.content_bytes = 899;
            now.mails[0] += 100;
            now.mails[4] += 100;
        };
        assert_eq!(problems(change), [""; 0]);
        for (change, expected) in [
            (
                (|now: &mut Sample| now.connections_active = 90) as fn(&mut Sample),
                "warning 90 of 100 connections are taken: timeouts are shortened",
            ),
            (
                |now| now.connections_active = 100,
                "error all 100 connections are taken: further clients get 421",
            ),
            (
                |now| now.content_bytes = 900,
                "warning message content takes 90 % of GM_MAX_MEMORY: above it mail gets 452",
            ),
            (
                |now| now.mails_held = 3,
                "warning 3 mails wait for the store",
            ),
            (
                |now| now.mails = [7, 2, 3, 5, 8],
                "warning 3 mails got 451 or 452 in the last minute",
            ),
            (
                |now| now.mail_id_used_billionths = Some(500_000_000),
                "warning 50 % of the range of mail_id is used: `goguerrilla check` prints the ALTER TABLE",
            ),
            (
                |now| now.redis_errors = 7,
                "warning Redis failed for 2 batches in the last minute: bodies go into the table",
            ),
            (
                |now| now.log_lines_dropped = 7,
                "warning 2 log lines were dropped in the last minute",
            ),
            (
                |now| now.panics = 6,
                "warning 1 bugs were caught in the last minute: see the log, and report them",
            ),
            (
                |now| now.certificate_expires_at = Some(2_000_000),
                "warning the certificate expires on 1970-01-24 03:33 UTC",
            ),
            (
                |now| now.certificate_expires_at = Some(1_000_000),
                "error the certificate expired on 1970-01-12 13:46 UTC",
            ),
        ] {
            assert_eq!(problems(change), [expected]);
        }
    }

    #[test]
    fn errors_come_before_warnings_and_a_standby_is_no_problem() {
        let host = |name: &str, state| HostStatus {
            name: name.to_owned(),
            state,
            reason: "gone".to_owned(),
        };
        let hosts = [
            host("a", HostState::Down),
            host("b", HostState::Standby),
            host("c", HostState::Up),
        ];
        let mut now = sample();
        now.mails_held = 1;
        now.connections_active = 100;
        let problems = find_problems(&ServerState {
            unready_reason: Some("store: gone".to_owned()),
            hosts: &hosts,
            now: &now,
            minute_ago: &sample(),
        });
        let keys: Vec<&str> = problems
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        assert_eq!(keys, ["unready", "connections", "held", "host a"]);
        assert_eq!(problems[3].text, "host a is down: gone");
    }
}
