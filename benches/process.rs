//! Processes with their descendants, and the processor time that they have used.

use std::collections::HashMap;
use std::fs;

/// Returns a process and all its descendants, each after its parent.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = fields(process).and_then(|fields| fields.get(1).copied()) {
            children.entry(parent as u32).or_default().push(process);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(process) = found.get(next) {
        found.extend(children.remove(process).unwrap_or_default());
        next += 1;
    }
    found
}

/// Returns the processor time that a process, its descendants, and those that have ended and were waited for have used.
pub fn cpu_seconds(root: u32) -> f64 {
    // A parent after its children: the time of a child that ends meanwhile is counted by its parent.
    let ticks = tree(root).into_iter().rev().map(|process| {
        // proc(5): utime, stime, cutime and cstime are the 12th to 15th field after the name.
        let fields = fields(process).unwrap_or_default();
        fields.iter().skip(11).take(4).sum::<u64>()
    });
    ticks.sum::<u64>() as f64 / TICKS_PER_SECOND
}

/// Returns the resident memory of a process in MB.
pub fn resident_megabytes(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1_024.0
}

/// Returns the fields of /proc/PID/stat after the name, of which the first is the state and not a number.
fn fields(process: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    // Negative fields and the state are none of those that are used here.
    let number = |field: &str| field.parse().unwrap_or(0);
    Some(rest.split_whitespace().map(number).collect())
}

/// USER_HZ, which is 100 on every current Linux and independent of the tick rate of the kernel.
pub const TICKS_PER_SECOND: f64 = 100.0;
