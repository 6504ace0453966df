//! The cost of a recipient in the running server with many names in GM_ALLOWED_HOSTS.

use std::io::{BufReader, Write};
use std::time::Instant;

use testkit::report::{Table, whole};

use crate::counts::{COUNTS, is_quick, median};
use crate::load::{RandomNumbers, SENDER, expect, open};
use crate::peer::{Server, goguerrilla};
use crate::process::resident_megabytes;

/// Measures 2, 20,000 and 100,000 names.
pub fn measure() -> Table {
    let columns = [
        "GM_ALLOWED_HOSTS",
        "recipients",
        "CPU µs per RCPT",
        "more than with two names",
        "ready after ms",
        "resident MB",
    ];
    let drawn = ["CPU µs per RCPT", "ready after ms", "resident MB"];
    let title = "Recipients with many accepted domains";
    let mut table = Table::new("domains", title, &columns, &drawn);
    table.note(format!(
        "Mails with {RECIPIENTS} recipients at random names, pipelined, store `discard`; the processor time of the whole server, \
         with all of the mail, divided by the recipients. Half of the names are domains, half of them `*.` and a domain. Ready: \
         from the start of the process to the greeting."
    ));
    let servers: Vec<(usize, Server, f64)> = NAMES.into_iter().map(start).collect();
    let kinds = [
        ("goguerrilla, domain", "n"),
        ("goguerrilla, subdomain", "a.w"),
    ];
    let mut cells = Vec::new();
    for (kind, prefix) in kinds {
        let mut runs = vec![Vec::new(); servers.len()];
        // The first round only warms up.
        for round in 0..=COUNTS.rounds {
            for ((names, server, _), runs) in servers.iter().zip(&mut runs) {
                let micros = run(server, prefix, *names);
                if round > 0 {
                    runs.push(micros);
                }
            }
        }
        let medians: Vec<f64> = runs
            .into_iter()
            .map(|runs| median(runs.into_iter()))
            .collect();
        for ((names, server, ready), micros) in servers.iter().zip(&medians) {
            let row = vec![
                format!("{} names", whole(*names as f64)),
                kind.to_owned(),
                format!("{micros:.2}"),
                format!("{:.2}", micros - medians[0]),
                format!("{ready:.0}"),
                format!("{:.1}", resident_megabytes(server.id())),
            ];
            cells.push((*names, row));
        }
    }
    // The rows of one number of names stand together.
    cells.sort_by_key(|(names, _)| *names);
    cells.into_iter().for_each(|(_, row)| table.push(row));
    table
}

/// Starts a server and returns it with the milliseconds until its greeting.
fn start(names: usize) -> (usize, Server, f64) {
    let each = names.div_ceil(2);
    let items = (0..each).flat_map(|n| [format!("n{n}.example"), format!("*.w{n}.example")]);
    let list = items.collect::<Vec<_>>().join(",");
    let mut started_at = Instant::now();
    let server = Server::start_prepared(
        "goguerrilla",
        |_| Vec::new(),
        |folder, address| {
            let settings = [("GM_STORE", "discard"), ("GM_ALLOWED_HOSTS", &list)];
            let command = goguerrilla(folder, address, &settings);
            started_at = Instant::now();
            command
        },
    );
    let ready = started_at.elapsed().as_secs_f64() * 1_000.0;
    (names, server, ready)
}

/// Sends mails to random recipients and returns the microseconds of processor time for one.
fn run(server: &Server, prefix: &str, names: usize) -> f64 {
    let mails = if is_quick() { 10 } else { MAILS };
    let mut random = RandomNumbers(0x9e37_79b9_7f4a_7c15);
    let each = names.div_ceil(2);
    let socket = open(server.address);
    let mut replies = BufReader::new(&socket);
    let mut say = |text: &str, codes: &[&str]| {
        (&socket)
            .write_all(text.as_bytes())
            .expect("the server reads");
        codes.iter().for_each(|code| expect(&mut replies, code));
    };
    say("", &["220"]);
    say("EHLO client.test\r\n", &["250"]);
    let mut codes = vec!["250"; RECIPIENTS + 1];
    codes.push("354");
    let before = server.cpu_seconds();
    for _ in 0..mails {
        let mut text = format!("MAIL FROM:<{SENDER}>\r\n");
        for user in 0..RECIPIENTS {
            let name = random.below(each);
            text += &format!("RCPT TO:<u{user}@{prefix}{name}.example>\r\n");
        }
        say(&(text + "DATA\r\n"), &codes);
        say("Subject: A\r\n\r\nA\r\n.\r\n", &["250"]);
    }
    let seconds = server.cpu_seconds() - before;
    say("QUIT\r\n", &["221"]);
    seconds * 1e6 / (mails * RECIPIENTS) as f64
}

/// An even number of names has as many domains as parents; 2 stands for one of each kind.
const NAMES: [usize; 3] = [2, 20_000, 100_000];
/// The number that every server must accept (RFC 5321 §4.5.3.1.8).
const RECIPIENTS: usize = 100;
/// A run takes more than half a second of processor time, which is counted in hundredths.
const MAILS: usize = 5_000;
