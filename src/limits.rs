//! What the kernel lets this process use.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;
use scheduler::Policy;

/// Raises the limit of open descriptors so that `needed` fit; answers how many there may be now.
///
/// The soft limit may always be raised to the hard one; root may raise that as well.
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

/// How many mappings of memory the kernel lets a process have; `None` where it does not tell.
pub fn mapping_limit() -> Option<u64> {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    limit.trim().parse().ok()
}

/// Asks the kernel for long turns instead of quick ones, for this thread and all that it starts.
///
/// A thread that gets a command then does not push another one of ours from its processor, which would wait with its
/// commit or its reply half done: about a seventh less CPU for each message. Where an administrator chose another policy
/// (chrt(1), `CPUSchedulingPolicy=`), or the kernel refuses, everything stays as it is.
pub fn prefer_long_turns() {
    if matches!(scheduler::get_self_policy(), Ok(Policy::Other)) {
        // The old policy serves mail as well, only a little dearer.
        let _ = scheduler::set_self_policy(Policy::Batch, 0);
    }
}
