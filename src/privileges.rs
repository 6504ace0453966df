//! From root to the user and group of the configuration, for good.

use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, getegid, geteuid, getgroups, getresgid, getresuid, setgid, setgroups, setuid,
};

/// Whom to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// GUID.
    pub user: Uid,
    /// SGID.
    pub group: Gid,
}

/// Why privileges could not be dropped; the server does not start then.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// A step was refused.
    #[error("cannot become user {user} and group {group}: {step}: {source}; start as root", user = .identity.user, group = .identity.group)]
    Refused {
        /// Whom.
        identity: Identity,
        /// The system call.
        step: &'static str,
        /// What the kernel said.
        source: nix::Error,
    },
    /// Afterwards root was still in reach.
    #[error("became user {user}, but {what}; this kernel cannot be trusted with it", user = .identity.user)]
    NotForGood {
        /// Whom.
        identity: Identity,
        /// What was still so.
        what: &'static str,
    },
}

/// Becomes `identity` in all threads, gives up every other group and the right to gain privileges by running a program,
/// and proves that root cannot come back. Does nothing when we are that identity already.
///
/// # Errors
/// [`PrivilegeError`], after which the process must not go on.
pub fn drop_to(identity: Identity) -> Result<(), PrivilegeError> {
    let Identity { user, group } = identity;
    let refused = |step| {
        move |source| PrivilegeError::Refused {
            identity,
            step,
            source,
        }
    };
    let is_somebody_else = geteuid() != user || getegid() != group || geteuid().is_root();
    if is_somebody_else {
        setgroups(&[]).map_err(refused("setgroups"))?;
        setgid(group).map_err(refused("setgid"))?;
        setuid(user).map_err(refused("setuid"))?;
    }
    prctl::set_no_new_privs().map_err(refused("no_new_privs"))?;
    prove(identity, is_somebody_else)
}

/// Where nothing had to change, other groups are what whoever started us gave us, for the keys for instance.
fn prove(identity: Identity, has_changed: bool) -> Result<(), PrivilegeError> {
    let Identity { user, group } = identity;
    let users = getresuid().map(|ids| [ids.real, ids.effective, ids.saved]);
    let groups = getresgid().map(|ids| [ids.real, ids.effective, ids.saved]);
    let others = getgroups().unwrap_or_default();
    let what = if users != Ok([user; 3]) {
        "not all user ids are its"
    } else if groups != Ok([group; 3]) {
        "not all group ids are its"
    } else if has_changed && others.iter().any(|other| *other != group) {
        "other groups are left"
    } else if setuid(Uid::from_raw(0)).is_ok() || setgid(Gid::from_raw(0)).is_ok() {
        "root came back"
    } else {
        return Ok(());
    };
    Err(PrivilegeError::NotForGood { identity, what })
}
