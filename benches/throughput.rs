//! Measures this program next to Postfix, aiosmtpd and `openssl s_server`, and how cost grows.
//!
//! `make bench` runs all groups, `make bench ROWS='peers tls'` some of them; [`GROUPS`] and `benches/growth` have the names.
//! The result of each group is a file of values, from which a picture and a Markdown table are made
//! ([`testkit::report`]), in `target/bench` or in the folder of the environment variable [`FOLDER`]. The group `pages` measures
//! nothing and only makes pictures and tables again. With `GOGUERRILLA_BENCH_QUICK` all counts are small, to try the benchmark,
//! and the parts of `growth` run only if they are named.
//!
//! Messages per second depend on the whole machine including the client. The server's processor time per message is the
//! figure that is stable from run to run.

mod cases;
mod counts;
mod databases;
mod domains;
mod growth;
mod latency;
mod load;
mod machine;
mod other_servers;
mod peer;
mod process;
mod program;
mod tls;
mod versions;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use testkit::report::{self, Table};

/// The name of a group that writes files, and its measurement.
type Group = (&'static str, fn() -> Table);

const GROUPS: [Group; 8] = [
    ("sessions", cases::sessions),
    ("sizes", cases::sizes),
    ("peers", cases::peers),
    ("versions", cases::versions),
    ("latency", latency::measure),
    ("handshakes", tls::handshakes),
    ("tls", tls::mails),
    ("domains", domains::measure),
];

fn main() -> ExitCode {
    testkit::set_build(testkit::build!());
    // cargo passes --bench as well.
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|text| !text.starts_with('-'))
        .collect();
    match run(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the groups with these names, or all of them.
fn run(wanted: &[String]) -> io::Result<()> {
    let names: Vec<&str> = GROUPS
        .map(|(name, _)| name)
        .into_iter()
        .chain(growth::names())
        .collect();
    let is_known = |name: &&String| names.contains(&name.as_str()) || name.as_str() == PAGES;
    if let Some(name) = wanted.iter().find(|name| !is_known(name)) {
        let known = names.join(", ");
        return Err(io::Error::other(format!(
            "no group {name}; the groups are {known} and {PAGES}"
        )));
    }
    let folder = env::var_os(FOLDER).filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(default_folder, PathBuf::from);
    eprintln!("load average at the start: {}", machine::load());
    for (name, measure) in GROUPS {
        if is_wanted(wanted, name) {
            publish(measure(), &folder)?;
        }
    }
    if wanted.iter().any(|name| name == PAGES) {
        for table in report::read_all(&folder) {
            table.publish_text(&folder)?;
        }
    }
    // The parts of `growth` have no small counts.
    growth::measure(|name| !(wanted.is_empty() && counts::is_quick()) && is_wanted(wanted, name));
    Ok(())
}

fn is_wanted(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == name)
}

/// Completes a table, prints it, and writes its files.
fn publish(mut table: Table, folder: &Path) -> io::Result<()> {
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    table.measured = format!("{today}, {}", machine::description());
    let target = if counts::is_quick() {
        "bench-quick"
    } else {
        "bench"
    };
    table.command = format!("make {target} ROWS={}", table.name);
    println!("### {}\n\n{}\n", table.title, table.section());
    table.publish(folder)
}

/// Returns the folder for files that are not committed.
fn default_folder() -> PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    temporary.with_file_name("bench")
}

/// The environment variable with the folder for the files, such as `docs`.
const FOLDER: &str = "GOGUERRILLA_BENCH_FOLDER";
/// The name that makes pictures and tables again from the values.
const PAGES: &str = "pages";
