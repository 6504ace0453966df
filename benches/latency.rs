//! Latency under an open load: mails arrive at scheduled times, whether or not earlier ones have been answered.
//!
//! Each connection sends everything but the final dot beforehand. The latency of a mail is the time from the scheduled final
//! dot to the 250, also if the connection was still busy at that time. So a stall of the server counts for every mail that
//! should have been sent during it: there is no coordinated omission.

use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use testkit::report::{Table, whole};

use crate::cases::{available, note_meanings};
use crate::counts::{COUNTS, median};
use crate::load::{Message, RandomNumbers, SENDER, USER, expect, open};
use crate::other_servers::{AIOSMTPD, POSTFIX, SMTP_SINK};
use crate::peer::{DISCARD, MARIADB, SQLITE, Server};

/// Measures this program with each store and others.
pub fn measure() -> Table {
    let columns = [
        "load",
        "server",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "longest ms",
        "mails/s",
    ];
    let drawn = ["p50 ms", "p99 ms", "p99.9 ms"];
    let title = "Time from the final dot to the 250 under an open load";
    let mut table = Table::new("latency", title, &columns, &drawn);
    table.note(format!(
        "The intervals between arrivals are random with an exponential distribution, over {CONNECTIONS} connections, in runs of \
         {} seconds; the figures are medians of {} runs.",
        COUNTS.open_load_time.as_secs_f64(),
        COUNTS.rounds
    ));
    table
        .note("A time includes the client's: the row of smtp-sink shows how much that is at most.");
    let peers = [&SMTP_SINK, &AIOSMTPD, &DISCARD, &POSTFIX, &SQLITE, &MARIADB];
    note_meanings(&mut table, &peers);
    let peers = available(&peers, &mut table);
    let servers: Vec<Server> = peers.iter().map(|peer| Server::start(peer)).collect();
    let mut runs: Vec<Vec<Figures>> = servers.iter().map(|_| Vec::new()).collect();
    // The first round only warms up.
    for round in 0..=COUNTS.rounds {
        let time = match round {
            0 => COUNTS.run_time,
            _ => COUNTS.open_load_time,
        };
        for (server, runs) in servers.iter().zip(&mut runs) {
            let figures = run(server.address, time);
            server.wait_until_idle();
            if round > 0 {
                runs.push(figures);
            }
        }
    }
    for (peer, runs) in peers.iter().zip(&runs) {
        let of = |figure: fn(&Figures) -> f64| median(runs.iter().map(figure));
        table.push(vec![
            format!("{RATE:.0} mails/s of 2 KB"),
            peer.name.to_owned(),
            format!("{:.2}", of(|run| run.p50)),
            format!("{:.2}", of(|run| run.p99)),
            format!("{:.2}", of(|run| run.p999)),
            format!("{:.2}", of(|run| run.longest)),
            whole(of(|run| run.rate)),
        ]);
    }
    table
}

/// Latencies in milliseconds, and the rate at which mails were acknowledged.
struct Figures {
    p50: f64,
    p99: f64,
    p999: f64,
    longest: f64,
    rate: f64,
}

/// Sends mails for this time.
fn run(address: SocketAddr, time: Duration) -> Figures {
    let arrivals = arrivals(time);
    let content = Message::Short.text("\r\n");
    let starts_at = Instant::now() + CONNECT_TIME;
    let mut latencies: Vec<Duration> = thread::scope(|scope| {
        let send = |number: usize| {
            let mine = arrivals.iter().skip(number).step_by(CONNECTIONS);
            send_at(address, &content, mine.map(|&after| starts_at + after))
        };
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|number| scope.spawn(move || send(number)))
            .collect();
        let sent = senders.into_iter().map(|sender| sender.join());
        sent.flat_map(|latencies| latencies.expect("a sender that was answered"))
            .collect()
    });
    let elapsed = starts_at.elapsed().as_secs_f64();
    latencies.sort();
    let part = |part: f64| {
        // The smallest latency that at least this part of all mails do not exceed.
        let rank = (latencies.len() as f64 * part).ceil() as usize;
        latencies[rank.max(1) - 1].as_secs_f64() * 1_000.0
    };
    Figures {
        p50: part(0.5),
        p99: part(0.99),
        p999: part(0.999),
        longest: part(1.0),
        rate: latencies.len() as f64 / elapsed,
    }
}

/// Returns the times of the final dots, from the start of the run.
fn arrivals(time: Duration) -> Vec<Duration> {
    let mut random = RandomNumbers(0x9e37_79b9_7f4a_7c15);
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    while at < time.as_secs_f64() {
        arrivals.push(Duration::from_secs_f64(at));
        let uniform = (random.below(STEPS) + 1) as f64 / STEPS as f64;
        at -= uniform.ln() / RATE;
    }
    arrivals
}

/// Sends a mail at each of these times over one connection and returns the latencies.
fn send_at(
    address: SocketAddr,
    content: &str,
    times: impl Iterator<Item = Instant>,
) -> Vec<Duration> {
    let socket = open(address);
    let mut replies = BufReader::new(&socket);
    let mut say = |line: &str, code: &str| {
        let sent = (&socket).write_all(line.as_bytes());
        sent.expect("the server reads");
        if !code.is_empty() {
            expect(&mut replies, code);
        }
    };
    say("", "220");
    say("EHLO client.test\r\n", "250");
    let mut latencies = Vec::new();
    for time in times {
        say(&format!("MAIL FROM:<{SENDER}>\r\n"), "250");
        say(&format!("RCPT TO:<{USER}>\r\n"), "250");
        say("DATA\r\n", "354");
        say(content, "");
        thread::sleep(time.saturating_duration_since(Instant::now()));
        say(".\r\n", "250");
        latencies.push(time.elapsed());
    }
    say("QUIT\r\n", "221");
    latencies
}

/// Mails per second.
const RATE: f64 = 500.0;
/// So many that a connection is prepared again long before its next mail is due, 100 ms later on average.
const CONNECTIONS: usize = 50;
/// The time in which all connections are opened and the first mails prepared.
const CONNECT_TIME: Duration = Duration::from_millis(300);
const STEPS: usize = 1 << 20;
