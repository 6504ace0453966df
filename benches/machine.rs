//! The machine on which figures were measured.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::thread;
use std::time::{Duration, Instant};

/// Describes the processor, the kernel, and the time of an fdatasync on this disk, but not the name of the host.
pub fn description() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = thread::available_parallelism().map_or(0, |cores| cores.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = match cores {
        1 => "1 core".to_owned(),
        _ => format!("{cores} cores"),
    };
    format!(
        "{cores} of {}, Linux {}, fdatasync {:.2} ms",
        model.unwrap_or("an unknown processor").trim(),
        kernel.split(['-', '+']).next().unwrap_or_default().trim(),
        time_of_sync().as_secs_f64() * 1_000.0,
    )
}

/// Returns the load average of the last minute, which should be small before a measurement.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
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
