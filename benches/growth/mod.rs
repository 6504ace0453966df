//! How cost grows with names in GM_ALLOWED_HOSTS, sessions, rows in the table, and receivers on one cluster.

mod allowed_hosts;
mod quota;
mod receivers;
mod rows;
mod sessions;

/// Measures each part whose name contains the filter and prints its table at once.
pub fn measure(filter: &str) {
    for (name, measure) in PARTS {
        if name.contains(filter) {
            println!("{}", measure());
        }
    }
}

/// The parts, with the filter names that select them.
const PARTS: [Part; 4] = [
    ("growth-allowed-hosts", allowed_hosts::measure),
    ("growth-sessions", sessions::measure),
    ("growth-rows", rows::measure),
    ("growth-receivers", receivers::measure),
];

type Part = (&'static str, fn() -> String);
