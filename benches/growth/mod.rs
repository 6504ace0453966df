//! How cost grows with names in GM_ALLOWED_HOSTS, sessions, rows in the table, and receivers on one cluster.

mod allowed_hosts;
mod quota;
mod receivers;
mod rows;
mod sessions;

/// Returns the names of the parts.
pub fn names() -> impl Iterator<Item = &'static str> {
    PARTS.into_iter().map(|(name, _)| name)
}

/// Measures each wanted part and prints its table at once.
pub fn measure(is_wanted: impl Fn(&str) -> bool) {
    for (name, measure) in PARTS {
        if is_wanted(name) {
            println!("{}", measure());
        }
    }
}

/// The parts, with their names.
const PARTS: [Part; 4] = [
    ("growth-allowed-hosts", allowed_hosts::measure),
    ("growth-sessions", sessions::measure),
    ("growth-rows", rows::measure),
    ("growth-receivers", receivers::measure),
];

type Part = (&'static str, fn() -> String);
