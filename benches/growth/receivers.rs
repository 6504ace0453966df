//! One and two receivers on one Galera cluster, which replicates each mail to its three nodes before the 250.
//!
//! All processes share one machine, whose processors soon are the limit instead of the receivers. So the same is also
//! measured with a fraction of a processor for each receiver, as if each ran on a small machine.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use super::quota::Quota;
use crate::counts::median;
use crate::load::{Load, Message};
use crate::peer::{Server, goguerrilla};
use crate::process::{TICKS_PER_SECOND, cpu_seconds};
use testkit::galera::Galera;
use testkit::mariadb::with_hosts;

/// Returns one table.
pub fn measure() -> String {
    let galera = Galera::start();
    let mut text = String::from(
        "| receivers | each has | messages/s | × one | cores: receivers | nodes | all of the machine |\n\
         |---:|---|---:|---:|---:|---:|---:|\n",
    );
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    for part in [None, Some(PART)] {
        let each = match part {
            None => format!("the machine ({cores} cores)"),
            Some(part) => format!("{part} of a core"),
        };
        let mut rate_of_one = None;
        for count in [1, 2] {
            let receivers: Vec<Receiver> = (0..count)
                .map(|_| Receiver::start(&galera.hosts()))
                .collect();
            let quotas = receivers.iter().map(|one| one.confine(part)).collect();
            let _quotas: Vec<Option<Quota>> = match quotas {
                Ok(quotas) => quotas,
                Err(error) => {
                    let _ = writeln!(text, "\nA receiver cannot be confined: {error}");
                    return text;
                }
            };
            let run = measure_one(&receivers, &galera);
            let of_one = *rate_of_one.get_or_insert(run.rate);
            let _ = writeln!(
                text,
                "| {count} | {each} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
                run.rate,
                run.rate / of_one,
                run.receivers,
                run.nodes,
                run.machine,
            );
            // The processes must end before their control groups are removed.
            drop(receivers);
        }
    }
    text
}

struct Receiver {
    server: Server,
}

impl Receiver {
    fn start(hosts: &str) -> Receiver {
        let settings = with_hosts(hosts, &[]);
        let command = |folder: &std::path::Path, address| goguerrilla(folder, address, &settings);
        Receiver {
            server: Server::start_prepared("goguerrilla", |_| Vec::new(), command),
        }
    }

    fn confine(&self, part: Option<f64>) -> std::io::Result<Option<Quota>> {
        part.map(|part| Quota::confine(self.server.id(), part))
            .transpose()
    }
}

/// Messages per second, and the number of busy cores.
struct Run {
    rate: f64,
    receivers: f64,
    nodes: f64,
    machine: f64,
}

fn measure_one(receivers: &[Receiver], galera: &Galera) -> Run {
    let warm_up = run(receivers, galera, WARM_UP_MESSAGES);
    let count = ((warm_up.rate * RUN_SECONDS) as usize).max(WARM_UP_MESSAGES);
    let runs: Vec<Run> = (0..ROUNDS).map(|_| run(receivers, galera, count)).collect();
    let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
    Run {
        rate: of(|run| run.rate),
        receivers: of(|run| run.receivers),
        nodes: of(|run| run.nodes),
        machine: of(|run| run.machine),
    }
}

/// Sends with two clients of 50 sessions each, for any number of receivers.
fn run(receivers: &[Receiver], galera: &Galera, count: usize) -> Run {
    let look = || {
        let receivers = receivers.iter().map(|one| one.server.cpu_seconds()).sum();
        let nodes = galera.processes().into_iter().map(cpu_seconds).sum();
        [receivers, nodes, busy_seconds()]
    };
    let before: [f64; 3] = look();
    let started_at = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let address: SocketAddr = receivers[client % receivers.len()].server.address;
            scope.spawn(move || {
                Load::smtp_source(Message::Short, true).run(address, count / CLIENTS)
            });
        }
    });
    let time = started_at.elapsed().as_secs_f64();
    let after = look();
    let cores = |which: usize| (after[which] - before[which]) / time;
    Run {
        rate: count as f64 / time,
        receivers: cores(0),
        nodes: cores(1),
        machine: cores(2),
    }
}

/// Returns the processor time that the whole machine has used.
fn busy_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("proc is mounted");
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // proc(5): user, nice, system, idle, iowait, irq, softirq; the later fields do not count.
    let busy: u64 = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|&field| ticks.get(field))
        .sum();
    busy as f64 / TICKS_PER_SECOND
}

/// The share of one core for a limited receiver: small enough that two receivers, the nodes and the clients fit into
/// two cores.
const PART: f64 = 0.15;
const CLIENTS: usize = 2;
const WARM_UP_MESSAGES: usize = 1_000;
const RUN_SECONDS: f64 = 4.0;
const ROUNDS: usize = 3;
