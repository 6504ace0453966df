//! Throughput compared with Postfix's smtp-sink, handshakes compared with openssl, in alternating runs, and how cost
//! grows. Prints Markdown tables.
//!
//! Run `make bench`, or `cargo bench --bench throughput -- FILTER` for the cases and servers whose name contains FILTER
//! (smtp-sink always runs, as the reference). FILTER `handshakes` measures TLS only; `growth` measures how cost grows,
//! in the parts `growth-allowed-hosts`, `growth-sessions`, `growth-rows` and `growth-receivers`.
//!
//! Messages per second depend on the whole machine including the client. The server's processor time per message is the
//! figure that is stable from run to run.

mod databases;
mod growth;

mod load;
mod peer;
mod program;
mod table;
mod tls;

use std::time::{Duration, Instant};

use load::{Load, Message, OwnClient};
use peer::{PEERS, Peer, Server};

/// A load that every server gets in turn.
struct Case {
    name: &'static str,
    load: Load,
}

/// "conn" sends one message per connection, "keep" keeps 50 connections open; the last two cases differ only in how
/// commands are grouped into writes.
const CASES: &[Case] = &[
    Case {
        name: "2 KB conn",
        load: Load::smtp_source(Message::Short, false),
    },
    Case {
        name: "2 KB keep",
        load: Load::smtp_source(Message::Short, true),
    },
    Case {
        name: "100 KB conn",
        load: Load::smtp_source(Message::Long, false),
    },
    Case {
        name: "100 KB keep",
        load: Load::smtp_source(Message::Long, true),
    },
    Case {
        name: "2 KB one by one",
        load: built_in_client(false),
    },
    Case {
        name: "2 KB pipelined",
        load: built_in_client(true),
    },
];

/// Returns a load of 8 connections of the built-in client.
const fn built_in_client(pipelined: bool) -> Load {
    Load::OwnClient(OwnClient {
        connections: 8,
        pipelined,
        users: 1,
        time: RUN_TIME,
    })
}

/// The result of one run.
#[derive(Clone, Copy)]
struct Figures {
    /// Messages per second.
    rate: f64,
    /// Processor seconds of the server per 1,000 messages.
    cpu: f64,
}

/// The medians of one server in one case.
struct Medians {
    case: &'static str,
    peer: &'static str,
    figures: Figures,
    rounds: usize,
}

fn main() {
    testkit::set_build(testkit::build!());
    // cargo passes --bench as well.
    let filter = std::env::args().skip(1).find(|text| !text.starts_with('-'));
    let filter = filter.unwrap_or_default();
    let deadline = Instant::now() + WHOLE_TIME;
    println!("{}\n", table::machine());
    let mut results = Vec::new();
    for case in CASES {
        let is_wanted = |peer: &Peer| format!("{}, {}", case.name, peer.name).contains(&filter);
        if PEERS.iter().any(is_wanted) {
            let peers = PEERS
                .iter()
                .filter(|peer| is_wanted(peer) || peer.name == peer::REFERENCE);
            results.extend(measure(case, &peers.collect::<Vec<_>>(), deadline));
        }
    }
    if !results.is_empty() {
        println!("{}", table::markdown(&results));
    }
    if tls::NAME.contains(&filter) {
        println!("{}", tls::measure());
    }
    growth::measure(&filter);
}

/// Starts the servers, warms each up, then loads them in turn, so that other activity of the machine affects all of
/// them alike.
fn measure(case: &Case, peers: &[&Peer], deadline: Instant) -> Vec<Medians> {
    let servers: Vec<Server> = peers.iter().map(|peer| Server::start(peer)).collect();
    let one_run = |server: &Server, count| {
        let cpu_before = server.cpu_seconds();
        let done = case.load.run(server.address, count);
        let thousands = done.messages as f64 / 1_000.0;
        Figures {
            rate: done.messages as f64 / done.time.as_secs_f64(),
            cpu: (server.cpu_seconds() - cpu_before) / thousands,
        }
    };
    let counts: Vec<usize> = servers
        .iter()
        .map(|server| {
            let warm_up = one_run(server, WARM_UP_MESSAGES);
            ((warm_up.rate * RUN_TIME.as_secs_f64()) as usize).max(WARM_UP_MESSAGES)
        })
        .collect();
    let mut runs: Vec<Vec<Figures>> = vec![Vec::new(); servers.len()];
    for round in 0..ROUNDS {
        if round > 0 && Instant::now() >= deadline {
            break;
        }
        for ((server, count), runs) in servers.iter().zip(&counts).zip(&mut runs) {
            runs.push(one_run(server, *count));
        }
    }
    let results = peers.iter().zip(&runs).map(|(peer, runs)| Medians {
        case: case.name,
        peer: peer.name,
        figures: Figures {
            rate: median(runs.iter().map(|run| run.rate)),
            cpu: median(runs.iter().map(|run| run.cpu)),
        },
        rounds: runs.len(),
    });
    results.collect()
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

const ROUNDS: usize = 3;
/// The number of messages of the warm-up run, which fills caches, opens the store, and determines the number of
/// messages per run.
const WARM_UP_MESSAGES: usize = 500;
/// The intended duration of one run.
const RUN_TIME: Duration = Duration::from_millis(1_500);
/// Maximum time of all cases; after it no case gets another round.
const WHOLE_TIME: Duration = Duration::from_secs(180);
