//! Limits a process to a share of one processor with a Linux control group, to simulate a smaller machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A control group. Drop it after its process has ended; this removes the group.
pub struct Quota {
    folder: PathBuf,
}

impl Quota {
    /// Limits a process and its threads to this share of one processor.
    ///
    /// # Errors
    /// Fails without the right to create control groups, which root has on most machines.
    pub fn confine(process: u32, part: f64) -> io::Result<Quota> {
        // Short periods slow the process down without long pauses.
        let quota = format!("{:.0}", part * f64::from(PERIOD));
        let first = Path::new("/sys/fs/cgroup/cpu");
        let (root, settings) = match first.is_dir() {
            true => {
                let period = ("cpu.cfs_period_us", PERIOD.to_string());
                (first, vec![period, ("cpu.cfs_quota_us", quota)])
            }
            false => {
                let max = ("cpu.max", format!("{quota} {PERIOD}"));
                (Path::new("/sys/fs/cgroup"), vec![max])
            }
        };
        let folder = root.join(format!("goguerrilla-bench-{process}"));
        fs::create_dir(&folder)?;
        let group = Quota { folder };
        for (name, value) in settings {
            fs::write(group.folder.join(name), value)?;
        }
        fs::write(group.folder.join("cgroup.procs"), process.to_string())?;
        Ok(group)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The period in microseconds.
const PERIOD: u32 = 10_000;
