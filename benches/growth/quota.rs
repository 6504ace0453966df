//! A process with a part of a processor, as it would have on a smaller machine: a control group of Linux.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Dropped after its process has ended, the group goes as well.
pub struct Quota {
    folder: PathBuf,
}

impl Quota {
    /// Confines a process and its threads to this part of one processor.
    ///
    /// # Errors
    /// Without the right to make groups, which root has on most machines.
    pub fn confine(process: u32, part: f64) -> io::Result<Quota> {
        // In short periods, so that it is slow and does not stand still.
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

/// Microseconds.
const PERIOD: u32 = 10_000;
