//! Permanent change from root to the configured user and group.

use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, getegid, geteuid, getgroups, getresgid, getresuid, setgid, setgroups, setuid,
};

/// The user and group to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user id, GUID in the configuration.
    pub user: Uid,
    /// The group id, SGID in the configuration.
    pub group: Gid,
}

/// Why privileges could not be dropped; the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// A system call failed.
    #[error("cannot become user {user} and group {group}: {step}: {source}; start as root", user = .identity.user, group = .identity.group)]
    Refused {
        /// The requested user and group.
        identity: Identity,
        /// The system call.
        step: &'static str,
        /// Its error.
        source: nix::Error,
    },
    /// The process could still become root afterwards.
    #[error("became user {user}, but {what}; this kernel does not drop privileges completely", user = .identity.user)]
    NotPermanent {
        /// The requested user and group.
        identity: Identity,
        /// Which check failed.
        what: &'static str,
    },
}

/// Sets user and group for all threads, drops supplementary groups and the ability to gain privileges by exec, and checks
/// that root cannot be regained. Does nothing if the process already runs as `identity`.
///
/// # Errors
/// [`PrivilegeError`]; the process must not continue.
pub fn drop_to(identity: Identity) -> Result<(), PrivilegeError> {
    let Identity { user, group } = identity;
    let refused = |step| {
        move |source| PrivilegeError::Refused {
            identity,
            step,
            source,
        }
    };
    let must_change = geteuid() != user || getegid() != group || geteuid().is_root();
    if must_change {
        setgroups(&[]).map_err(refused("setgroups"))?;
        setgid(group).map_err(refused("setgid"))?;
        setuid(user).map_err(refused("setuid"))?;
    }
    prctl::set_no_new_privs().map_err(refused("no_new_privs"))?;
    verify(identity, must_change)
}

/// Checks that root cannot be regained. If no id had to change, supplementary groups are allowed: the service manager may
/// have granted them, for example to read the TLS key.
fn verify(identity: Identity, has_changed: bool) -> Result<(), PrivilegeError> {
    let Identity { user, group } = identity;
    let users = getresuid().map(|ids| [ids.real, ids.effective, ids.saved]);
    let groups = getresgid().map(|ids| [ids.real, ids.effective, ids.saved]);
    let supplementary = getgroups().unwrap_or_default();
    let what = if users != Ok([user; 3]) {
        "a user id is another one"
    } else if groups != Ok([group; 3]) {
        "a group id is another one"
    } else if has_changed && supplementary.iter().any(|other| *other != group) {
        "supplementary groups remain"
    } else if setuid(Uid::from_raw(0)).is_ok() || setgid(Gid::from_raw(0)).is_ok() {
        "root could be regained"
    } else {
        return Ok(());
    };
    Err(PrivilegeError::NotPermanent { identity, what })
}
