//! Cost of a recipient, and time to load the configuration, with many names in GM_ALLOWED_HOSTS.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use goguerrilla::Config;
use goguerrilla::internals::smtp::{AllowedHosts, ForwardPath};

/// Half of the names are domains, half of them parents.
const NAMES: [usize; 3] = [1, 20_000, 100_000];
/// Look-ups in one round of each kind of recipient, spread over all names.
const LOOK_UPS: usize = 20_000;
/// Rounds of each kind; the shortest counts, which other programs disturbed least.
const ROUNDS: usize = 5;

/// Returns a table with one row for each number of names. Each look-up parses its path, as RCPT does.
pub fn measure() -> String {
    let mut text = String::from(
        "| names in GM_ALLOWED_HOSTS | loaded in ms | domain, µs | A-label | U-label | subdomain | refused |\n\
         |---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for names in NAMES {
        let (allowed, load_time) = load(names);
        write!(
            text,
            "| {names} | {:.1} |",
            load_time.as_secs_f64() * 1_000.0
        )
        .expect("text");
        let recipients: [(&dyn Fn(usize) -> String, bool); 5] = [
            (&|n| format!("<u@n{n}.example>"), true),
            (&|n| format!("<u@xn--mnchen{n}-q9a.example>"), false),
            (&|n| format!("<u@münchen{n}.example>"), false),
            (&|n| format!("<u@a.w{n}.example>"), names > 1),
            (&|n| format!("<u@a.b.foreign{n}.example>"), false),
        ];
        for (recipient, accepted) in recipients {
            let each = names.div_ceil(2);
            let paths: Vec<String> = (0..LOOK_UPS)
                .map(|number| recipient(number * 7919 % each))
                .collect();
            let time = (0..ROUNDS)
                .map(|_| look_up(&allowed, &paths, accepted))
                .min();
            let micros = time.unwrap_or_default().as_secs_f64() * 1e6 / LOOK_UPS as f64;
            write!(text, " {micros:.2} |").expect("text");
        }
        text.push('\n');
    }
    text
}

fn load(names: usize) -> (AllowedHosts, Duration) {
    let items: Vec<String> = (0..names)
        .map(|number| match number % 2 {
            0 => format!("n{}.example", number / 2),
            _ => format!("*.w{}.example", number / 2),
        })
        .collect();
    let text = format!("{{\"GM_ALLOWED_HOSTS\": \"{}\"}}", items.join(","));
    let started_at = Instant::now();
    Config::from_json(&text).expect("a configuration");
    let elapsed = started_at.elapsed();
    let allowed = AllowedHosts::from_host_patterns(items.iter().map(String::as_str));
    (allowed.expect("valid domains"), elapsed)
}

fn look_up(allowed: &AllowedHosts, paths: &[String], accepted: bool) -> Duration {
    let started_at = Instant::now();
    for path in paths {
        let (path, _) = ForwardPath::parse(black_box(path)).expect("a path");
        assert_eq!(allowed.accepts_recipient_path(&path), accepted);
    }
    started_at.elapsed()
}
