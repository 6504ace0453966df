//! Limits of the process for open files and memory mappings, and its scheduling policy.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;
use scheduler::Policy;

/// Raises the limit of open files to at least `needed` if possible. Returns the limit that is then in force,
/// or `needed` if the limit cannot be read.
///
/// Any user may raise the soft limit up to the hard limit; root may raise the hard limit too.
pub fn raise_descriptor_limit(needed: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return needed;
    };
    if soft >= needed {
        return soft;
    }
    let hard_wanted = if geteuid().is_root() {
        hard.max(needed)
    } else {
        hard
    };
    for (soft, hard) in [
        (needed.min(hard_wanted), hard_wanted),
        (needed.min(hard), hard),
    ] {
        if setrlimit(Resource::RLIMIT_NOFILE, soft, hard).is_ok() {
            return soft;
        }
    }
    soft
}

/// Returns the maximum number of memory mappings (`vm.max_map_count`), or `None` if it cannot be read.
pub fn mapping_limit() -> Option<u64> {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    limit.trim().parse().ok()
}

/// Sets SCHED_BATCH for this thread and the threads that it starts.
///
/// Under SCHED_OTHER, a connection thread that wakes up preempts another thread of this process in the middle of its commit
/// or reply. SCHED_BATCH avoids the preemption and saves about a seventh of the CPU time per mail. If the administrator chose
/// another policy (chrt(1), `CPUSchedulingPolicy=`), that policy is kept.
pub fn set_sched_batch_policy() {
    if matches!(scheduler::get_self_policy(), Ok(Policy::Other)) {
        // If the call fails, the server only uses more CPU time.
        let _ = scheduler::set_self_policy(Policy::Batch, 0);
    }
}
