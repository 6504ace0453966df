//! The same mails with more sessions: each store with 50, 200 and 1,000 sessions of smtp-source.

use std::fmt::Write as _;

use crate::cases::Figures;
use crate::counts::{COUNTS, median};
use crate::load::{Load, Message};
use crate::peer::{STORES, Server};

/// Returns one table.
pub fn measure() -> String {
    let mut text = String::from(
        "| 2 KB, messages/s (CPU s per 1,000) | 50 sessions | 200 | 1,000 |\n|---|---:|---:|---:|\n",
    );
    for peer in STORES {
        let server = Server::start(peer);
        for (how, keep) in [("conn", false), ("keep", true)] {
            let mut runs = vec![Vec::new(); SESSIONS.len()];
            let mut count = COUNTS.warm_up;
            // The first round is not counted; it determines the number of messages per run.
            for round in 0..=COUNTS.rounds {
                for (sessions, runs) in SESSIONS.into_iter().zip(&mut runs) {
                    let figures = run(&server, keep, sessions, count.max(sessions * 3));
                    count = (figures.rate * COUNTS.run_time.as_secs_f64()) as usize;
                    if round > 0 {
                        runs.push(figures);
                    }
                }
            }
            let _ = write!(text, "| {}, {how}", peer.name);
            for runs in &runs {
                let rate = median(runs.iter().map(|run| run.rate));
                let cpu = median(runs.iter().map(|run| run.cpu));
                let _ = write!(text, " | {rate:.0} ({cpu:.3})");
            }
            text += " |\n";
        }
    }
    text
}

fn run(server: &Server, keep: bool, sessions: usize, count: usize) -> Figures {
    let message = Message::Short;
    let load = Load::SmtpSource {
        message,
        keep,
        sessions,
    };
    Figures::measure(server, &load, count)
}

const SESSIONS: [usize; 3] = [50, 200, 1_000];
