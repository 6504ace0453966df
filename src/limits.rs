//! What the kernel lets this process use.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

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
