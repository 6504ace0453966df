//! Throughput: the same load for each server in turn, so that other activity of the machine affects all of them alike.

use testkit::report::{NO_FIGURE, Table, whole};

use crate::counts::{COUNTS, median};
use crate::load::{BASE64_10_KB, BASE64_100_KB, HTML_10_KB, HTML_100_KB, Load, Message, OwnClient};
use crate::other_servers::{AIOSMTPD, POSTFIX, POSTFIX_IN_MEMORY, SMTP_SINK};
use crate::peer::{DISCARD, MARIADB, Peer, SQLITE, Server};
use crate::versions::{self, OLD_DISCARD, OLD_MARIADB, OLD_SQLITE};

/// A load that every server gets in turn.
struct Case {
    name: &'static str,
    load: Load,
}

/// The result of a run, or the medians of several.
#[derive(Clone, Copy)]
pub struct Figures {
    /// Messages per second.
    pub rate: f64,
    /// Processor seconds of the server and its child processes per 1,000 messages.
    pub cpu: f64,
    /// Processor seconds of its databases per 1,000 messages.
    databases: f64,
}

impl Figures {
    /// Sends `count` messages to a server.
    pub fn measure(server: &Server, load: &Load, count: usize) -> Figures {
        let look = || [server.cpu_seconds(), server.database_cpu_seconds()];
        let before = look();
        let done = load.run(server.address, count);
        server.wait_until_idle();
        let after = look();
        let thousands = done.messages as f64 / 1_000.0;
        Figures {
            rate: done.messages as f64 / done.time.as_secs_f64(),
            cpu: (after[0] - before[0]) / thousands,
            databases: (after[1] - before[1]) / thousands,
        }
    }

    fn medians(runs: &[Figures]) -> Figures {
        let of = |figure: fn(&Figures) -> f64| median(runs.iter().map(figure));
        Figures {
            rate: of(|run| run.rate),
            cpu: of(|run| run.cpu),
            databases: of(|run| run.databases),
        }
    }
}

/// Measures short mails: one for each connection, several on one, and grouped into fewer writes.
pub fn sessions() -> Table {
    let cases = [
        smtp_source(
            "2 KB of text, one mail per connection",
            Message::Short,
            false,
        ),
        smtp_source("2 KB of text, connections kept", Message::Short, true),
        built_in_client("the same, 8 connections, one command per write", false),
        built_in_client("the same, 8 connections, pipelined", true),
    ];
    let mut table = table("sessions", "Mails of 2 KB");
    measure(
        &cases,
        &[&SMTP_SINK, &DISCARD, &SQLITE, &MARIADB],
        &mut table,
    );
    table
}

/// Measures mails of the sizes and kinds that most octets arrive in.
pub fn sizes() -> Table {
    let cases = [
        smtp_source("10 KB of base64", BASE64_10_KB, true),
        smtp_source("10 KB of HTML", HTML_10_KB, true),
        smtp_source("100 KB of base64", BASE64_100_KB, true),
        smtp_source("100 KB of HTML", HTML_100_KB, true),
    ];
    let mut table = table("sizes", "Mails of 10 and 100 KB, connections kept");
    measure(
        &cases,
        &[&SMTP_SINK, &DISCARD, &SQLITE, &MARIADB],
        &mut table,
    );
    table
}

/// Measures servers of other projects next to this one.
pub fn peers() -> Table {
    let mut table = table("peers", "Servers of other projects");
    let peers = [
        &SMTP_SINK,
        &AIOSMTPD,
        &DISCARD,
        &POSTFIX_IN_MEMORY,
        &POSTFIX,
        &SQLITE,
        &MARIADB,
    ];
    note_meanings(&mut table, &peers);
    measure(&short_and_large_mails(), &peers, &mut table);
    table
}

/// Measures an older version next to this one.
pub fn versions() -> Table {
    let mut table = table("versions", "An older version and this one");
    if let Some(version) = versions::old_version() {
        let new = env!("CARGO_PKG_VERSION");
        table.note(format!(
            "old: {version}; the other rows of goguerrilla: {new}"
        ));
    }
    let peers = [
        &SMTP_SINK,
        &OLD_DISCARD,
        &DISCARD,
        &OLD_SQLITE,
        &SQLITE,
        &OLD_MARIADB,
        &MARIADB,
    ];
    measure(&short_and_large_mails(), &peers, &mut table);
    table
}

fn table(name: &str, title: &str) -> Table {
    let columns = [
        "load",
        "server",
        "mails/s",
        "CPU s per 1,000 mails",
        "× smtp-sink",
        "CPU s of databases",
    ];
    Table::new(name, title, &columns, &["mails/s", "CPU s per 1,000 mails"])
}

/// Returns the loads for servers that are compared in one table.
fn short_and_large_mails() -> [Case; 3] {
    [
        smtp_source(
            "2 KB of text, one mail per connection",
            Message::Short,
            false,
        ),
        smtp_source("2 KB of text, connections kept", Message::Short, true),
        smtp_source("100 KB of base64, connections kept", BASE64_100_KB, true),
    ]
}

/// Returns a load of 50 sessions of smtp-source.
const fn smtp_source(name: &'static str, message: Message, keep: bool) -> Case {
    let load = Load::smtp_source(message, keep);
    Case { name, load }
}

/// Returns a load of 8 connections of the built-in client.
fn built_in_client(name: &'static str, pipelined: bool) -> Case {
    let load = Load::OwnClient(OwnClient {
        connections: 8,
        pipelined,
        users: 1,
        time: COUNTS.run_time,
    });
    Case { name, load }
}

/// Appends what the 250 of each server means.
pub fn note_meanings(table: &mut Table, peers: &[&Peer]) {
    for peer in peers {
        table.note(format!("250 of {}: {}", peer.name, peer.meaning));
    }
}

/// Returns the servers that can run here, and notes which cannot.
pub fn available<'a>(peers: &[&'a Peer], table: &mut Table) -> Vec<&'a Peer> {
    let mut found = Vec::new();
    for peer in peers {
        match (peer.missing)() {
            None => found.push(*peer),
            Some(what) => {
                eprintln!("{} is not measured: it {what}", peer.name);
                table.note(format!("{} was not measured: it {what}", peer.name));
            }
        }
    }
    found
}

/// Starts the servers, warms each up, then loads them in turn.
fn measure(cases: &[Case], peers: &[&Peer], table: &mut Table) {
    let peers = available(peers, table);
    for case in cases {
        eprintln!("{}: {}", table.name, case.name);
        let servers: Vec<Server> = peers.iter().map(|peer| Server::start(peer)).collect();
        let warm_up = |server: &Server| {
            let figures = Figures::measure(server, &case.load, COUNTS.warm_up);
            ((figures.rate * COUNTS.run_time.as_secs_f64()) as usize).max(COUNTS.warm_up)
        };
        let counts: Vec<usize> = servers.iter().map(warm_up).collect();
        let mut runs: Vec<Vec<Figures>> = vec![Vec::new(); servers.len()];
        for _ in 0..COUNTS.rounds {
            for ((server, count), runs) in servers.iter().zip(&counts).zip(&mut runs) {
                runs.push(Figures::measure(server, &case.load, *count));
            }
        }
        let medians: Vec<Figures> = runs.iter().map(|runs| Figures::medians(runs)).collect();
        let reference = peers.iter().position(|peer| peer.name == SMTP_SINK.name);
        for (peer, figures) in peers.iter().zip(&medians) {
            let has_databases = figures.databases > 0.0;
            let ratio = reference.map(|place| figures.cpu / medians[place].cpu);
            let or_none = |figure: Option<String>| figure.unwrap_or_else(|| NO_FIGURE.to_owned());
            table.push(vec![
                case.name.to_owned(),
                peer.name.to_owned(),
                whole(figures.rate),
                format!("{:.3}", figures.cpu),
                or_none(ratio.map(|ratio| format!("{ratio:.2}"))),
                or_none(has_databases.then(|| format!("{:.3}", figures.databases))),
            ]);
        }
    }
}
