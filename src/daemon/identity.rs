//! The user and group that the server runs as: those configured in GUID and SGID, or those of the process.

use std::net::SocketAddr;

use nix::unistd::{Gid, Uid, geteuid};

use super::ServerProcessError;
use crate::config::Config;
use crate::logging::LogFile;
use crate::os::pid_file::PidFile;
use crate::os::privileges::{UserAndGroup, drop_privileges_to};
use crate::os::secure_open;
use crate::server::http_endpoints;
use crate::server::listeners::all_smtp_listen_addresses;

/// Returns the user and group to change to, or `None` to keep those of the process. The process may keep root only if
/// all listeners are on loopback.
///
/// # Errors
/// [`ServerProcessError::StaysRoot`].
pub fn user_and_group_to_run_as(
    config: &Config,
) -> Result<Option<UserAndGroup>, ServerProcessError> {
    if let Some(identity) = configured_user_and_group(config) {
        return Ok(Some(identity));
    }
    let http = http_endpoints::http_endpoint_addresses(config).map(|(address, _)| address);
    reject_staying_root(None, all_smtp_listen_addresses(config).chain(http))?;
    Ok(None)
}

/// Changes a command that was started as root to the configured user and group, so that it opens files with the rights of the
/// server and creates none that the server cannot use. Does nothing if GUID or SGID is empty or 0.
///
/// # Errors
/// [`ServerProcessError`]: the process cannot change its user.
pub fn become_configured_user(config: &Config) -> Result<(), ServerProcessError> {
    match configured_user_and_group(config) {
        Some(identity) if geteuid().is_root() => Ok(drop_privileges_to(identity)?),
        _ => Ok(()),
    }
}

/// Returns GUID and SGID; `None` if they are empty, or if one of them is root's 0.
fn configured_user_and_group(config: &Config) -> Option<UserAndGroup> {
    let (user, group) = config.run_as?;
    let identity = UserAndGroup {
        user: Uid::from_raw(user),
        group: Gid::from_raw(group),
    };
    (user != 0 && group != 0).then_some(identity)
}

/// Fails if the process is root, will not change its user (`identity` is `None`), and one of `addresses` is not loopback.
///
/// # Errors
/// [`ServerProcessError::StaysRoot`].
pub fn reject_staying_root(
    identity: Option<UserAndGroup>,
    mut addresses: impl Iterator<Item = SocketAddr>,
) -> Result<(), ServerProcessError> {
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    match addresses.find(|address| !is_loopback(address)) {
        Some(address) if identity.is_none() && geteuid().is_root() => {
            Err(ServerProcessError::StaysRoot(address))
        }
        _ => Ok(()),
    }
}

/// Changes the owner of the log file and the PID file to `identity`, so that this user can write them later.
pub fn chown_log_and_pid_file(
    identity: UserAndGroup,
    log_file: &LogFile,
    pid_file: Option<&PidFile>,
) {
    let log = log_file.chown_to(identity.user, identity.group);
    let pid = pid_file.map_or(Ok(()), |pid_file| {
        secure_open::chown_to(pid_file.pid_file_handle(), identity.user, identity.group)
    });
    for (file, outcome) in [("log file", log), ("PID file", pid)] {
        if let Err(error) = outcome {
            log::warn!(file = file, reason:% = error; "chown_failed");
        }
    }
}
