//! How cost grows with sessions, with rows in the table, and with receivers on one cluster.

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
const PARTS: [Part; 3] = [
    ("growth-sessions", sessions::measure),
    ("growth-rows", rows::measure),
    ("growth-receivers", receivers::measure),
];

type Part = (&'static str, fn() -> String);
