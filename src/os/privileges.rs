//! Changes permanently from root to the configured user and group.

use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, getegid, geteuid, getgroups, getresgid, getresuid, setgid, setgroups, setuid,
};

/// The user and group to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAndGroup {
    /// The user id (GUID in the configuration).
    pub user: Uid,
    /// The group id (SGID in the configuration).
    pub group: Gid,
}

/// Why privileges could not be dropped. The server then does not start.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// A system call failed.
    #[error("cannot become user {user} and group {group}: {step}: {source}; start as root", user = .identity.user, group = .identity.group)]
    Refused {
        /// The requested user and group.
        identity: UserAndGroup,
        /// The name of the system call.
        step: &'static str,
        /// The error of the system call.
        source: nix::Error,
    },
    /// The check after the change failed: privileges are not dropped completely.
    #[error("became user {user}, but {what}; this kernel does not drop privileges completely", user = .identity.user)]
    NotPermanent {
        /// The requested user and group.
        identity: UserAndGroup,
        /// What the check found.
        what: &'static str,
    },
}

/// Sets the user and group for all threads and drops supplementary groups, unless the process already runs as `identity`
/// and is not root. In any case, drops the ability to gain privileges by exec, and checks that root cannot be regained.
///
/// # Errors
/// [`PrivilegeError`]; the process must not continue.
pub fn drop_privileges_to(identity: UserAndGroup) -> Result<(), PrivilegeError> {
    let UserAndGroup { user, group } = identity;
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
    verify_process_user_and_group(identity, must_change)
}

/// Checks the user and group ids, and that root cannot be regained. Supplementary groups are allowed if the ids were already
/// right at the start: the service manager may have granted the groups, for example to read the TLS key.
fn verify_process_user_and_group(
    identity: UserAndGroup,
    has_changed: bool,
) -> Result<(), PrivilegeError> {
    let UserAndGroup { user, group } = identity;
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
