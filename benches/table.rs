//! The printed output: the machine, and one Markdown table.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use crate::Medians;
use crate::peer::REFERENCE;

/// Describes processor, kernel, load, and the time of an fdatasync on this disk.
pub fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = thread::available_parallelism().map_or(0, |cores| cores.get());
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores ({}), Linux {}, load at the start {}, fdatasync {:.2} ms",
        model.unwrap_or("model unknown"),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or_default(),
        time_of_sync().as_secs_f64() * 1_000.0,
    )
}

/// Returns the median time of writing and syncing one page.
fn time_of_sync() -> Duration {
    let measure = || -> std::io::Result<Duration> {
        let mut file: File = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut times = Vec::new();
        for _ in 0..51 {
            file.seek(SeekFrom::Start(0))?;
            let started_at = Instant::now();
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
            times.push(started_at.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    measure().expect("a temporary file")
}

/// Returns a table with one row for each result, relative to smtp-sink in the same case.
pub fn markdown(results: &[Medians]) -> String {
    let mut text = String::from(
        "| case | server | messages/s | × smtp-sink | CPU s per 1,000 | × smtp-sink | rounds |\n\
         |---|---|---:|---:|---:|---:|---:|\n",
    );
    for result in results {
        let is_yardstick = |other: &&Medians| other.case == result.case && other.peer == REFERENCE;
        let yardstick = results.iter().find(is_yardstick).unwrap_or(result).figures;
        let Medians {
            case,
            peer,
            figures,
            rounds,
        } = result;
        let _ = writeln!(
            text,
            "| {case} | {peer} | {:.0} | {:.2} | {:.3} | {:.2} | {rounds} |",
            figures.rate,
            figures.rate / yardstick.rate,
            figures.cpu,
            figures.cpu / yardstick.cpu,
        );
    }
    text
}
