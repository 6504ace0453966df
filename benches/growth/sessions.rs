//! The same mails with more sessions: each store with 50, 200 and 1,000 sessions of smtp-source.

use std::fmt::Write as _;

use crate::load::{Load, Message};
use crate::peer::{PEERS, REFERENCE, Server};
use crate::{Figures, RUN_TIME, WARM_UP_MESSAGES, median};

/// Returns one table.
pub fn measure() -> String {
    let mut text = String::from(
        "| 2 KB, messages/s (CPU s per 1,000) | 50 sessions | 200 | 1,000 |\n|---|---:|---:|---:|\n",
    );
    for peer in PEERS.iter().filter(|peer| peer.name != REFERENCE) {
        let server = Server::start(peer);
        for (how, keep) in [("conn", false), ("keep", true)] {
            let mut runs = vec![Vec::new(); SESSIONS.len()];
            let mut count = WARM_UP_MESSAGES;
            // The first round is not counted; it determines the number of messages per run.
            for round in 0..=ROUNDS {
                for (sessions, runs) in SESSIONS.into_iter().zip(&mut runs) {
                    let figures = run(&server, keep, sessions, count.max(sessions * 3));
                    count = (figures.rate * RUN_TIME.as_secs_f64()) as usize;
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
    let cpu_before = server.cpu_seconds();
    let done = load.run(server.address, count);
    Figures {
        rate: done.messages as f64 / done.time.as_secs_f64(),
        cpu: (server.cpu_seconds() - cpu_before) * 1_000.0 / done.messages as f64,
    }
}

const SESSIONS: [usize; 3] = [50, 200, 1_000];
const ROUNDS: usize = 3;
