//! Reads the passwords of MySQL and Redis from files (MYSQL_PASS_FILE, REDIS_PASS_FILE).
//!
//! The program reads them before it drops its privileges, so that only root needs to be able to read them, and again at each
//! reload. A file that the unprivileged user cannot read then keeps its password.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Secret, StoreKind};
use crate::os::regular_file::read_regular_file;

/// Why a password file cannot be used. No part of its content is shown.
#[derive(Debug)]
pub struct PasswordFileError {
    key: &'static str,
    file: PathBuf,
    source: io::Error,
}

impl PasswordFileError {
    /// Returns the key and the file, without the cause.
    pub fn what_failed(&self) -> String {
        format!("{}: cannot use {}", self.key, self.file.display())
    }

    /// Returns the error of the system call, or what is wrong with the content.
    pub fn into_source(self) -> io::Error {
        self.source
    }

    fn is_permission_denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

impl fmt::Display for PasswordFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; {PASSWORD_FILE_FIX}",
            self.what_failed(),
            self.source
        )
    }
}

/// Reads the password files of the configuration, if its store uses them, and sets the passwords.
///
/// # Errors
/// [`PasswordFileError`] for the first file that cannot be used.
pub fn read_password_files(config: &mut Config) -> Result<(), PasswordFileError> {
    for (key, file) in password_files(config) {
        set_password(config, key, read_password(key, &file)?);
    }
    Ok(())
}

/// Reads the password files of a new configuration. If a file is the same as in the running configuration and permission is
/// denied, its password is kept; the function returns these errors.
///
/// # Errors
/// [`PasswordFileError`] for the first file that cannot be used for another reason.
pub fn read_password_files_again(
    new_config: &mut Config,
    running: &Config,
) -> Result<Vec<PasswordFileError>, PasswordFileError> {
    let running_files = password_files(running);
    let mut kept = Vec::new();
    for (key, file) in password_files(new_config) {
        let password = match read_password(key, &file) {
            Ok(password) => password,
            Err(error) if error.is_permission_denied() && running_files.contains(&(key, file)) => {
                kept.push(error);
                password_of(running, key).clone()
            }
            Err(error) => return Err(error),
        };
        set_password(new_config, key, password);
    }
    Ok(kept)
}

/// Returns a warning for each password file that other users can read.
pub fn readable_password_file_warnings(config: &Config) -> Vec<String> {
    let files = password_files(config).into_iter();
    let warnings = files.filter_map(|(key, file)| {
        let metadata = fs::metadata(&file).ok()?;
        if is_systemd_credential(&file) {
            return None;
        }
        let mode = metadata.mode();
        let is_group_of_server = config
            .run_as
            .is_some_and(|(_, group)| group == metadata.gid());
        let (who, what) = match () {
            () if mode & 0o004 != 0 => ("every user", "go-r"),
            () if mode & 0o040 != 0 && !is_group_of_server => ("its group", "g-r"),
            () => return None,
        };
        let file = file.display();
        Some(format!(
            "{key}: {who} may read {file}; run: chmod {what} {file}"
        ))
    });
    warnings.collect()
}

/// Returns a warning for each password file that the current user cannot read. Call it after the privilege drop.
pub fn unreadable_password_file_warnings(config: &Config) -> Vec<String> {
    let files = password_files(config).into_iter();
    let warnings = files.filter_map(|(key, file)| {
        let error = read_password(key, &file).err()?;
        if !error.is_permission_denied() {
            return None;
        }
        let (file, user) = (file.display(), nix::unistd::geteuid());
        let reason = error.into_source();
        Some(format!(
            "{key}: user {user} cannot read {file}: {reason}; a changed password will not be loaded before the next start; make \
             user {user} the owner of the file"
        ))
    });
    warnings.collect()
}

/// Returns the configured files with their keys; none if the store does not use them.
fn password_files(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let has_redis = !config.redis_urls.is_empty();
    let redis_file = config.redis_pass_file.clone();
    let files = [
        (MYSQL_KEY, config.mysql_pass_file.clone()),
        (REDIS_KEY, redis_file.filter(|_| has_redis)),
    ];
    let is_used = config.store == StoreKind::MySql;
    let configured = files.into_iter().filter(|_| is_used);
    configured
        .filter_map(|(key, file)| Some((key, file?)))
        .collect()
}

/// Returns the password that was read from the file of `key`.
fn password_of<'a>(config: &'a Config, key: &str) -> &'a Secret {
    match key {
        MYSQL_KEY => &config.mysql_password,
        _ => &config.redis_password,
    }
}

fn set_password(config: &mut Config, key: &str, password: Secret) {
    match key {
        MYSQL_KEY => config.mysql_password = password,
        _ => config.redis_password = password,
    }
}

fn read_password(key: &'static str, file: &Path) -> Result<Secret, PasswordFileError> {
    let password = read_regular_file(file, MAX_PASSWORD_FILE_OCTETS)
        .and_then(|(octets, _)| parse_password(octets).map_err(io::Error::other));
    password
        .map(Secret::new)
        .map_err(|source| PasswordFileError {
            key,
            file: file.to_owned(),
            source,
        })
}

/// Returns the password without one line end at its end. The client libraries of MySQL and Redis take a password as UTF-8, and
/// the protocol of MySQL ends it with NUL.
fn parse_password(octets: Vec<u8>) -> Result<String, &'static str> {
    let mut text = String::from_utf8(octets).map_err(|_| "its content is not UTF-8")?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    match text.as_str() {
        "" => Err("it contains no password"),
        _ if text.contains('\0') => Err("it contains a NUL octet"),
        _ if text.starts_with('\u{feff}') => Err("it begins with a byte order mark"),
        _ => Ok(text),
    }
}

/// Returns whether systemd made this file for the server. Other users cannot enter its folder, so its mode does not matter.
fn is_systemd_credential(file: &Path) -> bool {
    let below_run = file.strip_prefix("/run").ok();
    below_run.is_some_and(|path| {
        path.starts_with("credentials")
            || (path.starts_with("user")
                && path.iter().nth(2).is_some_and(|part| part == "credentials"))
    })
}

/// How to fix any [`PasswordFileError`].
pub const PASSWORD_FILE_FIX: &str =
    "name a regular file that this user may read and that contains only the password";

const MYSQL_KEY: &str = "MYSQL_PASS_FILE";
const REDIS_KEY: &str = "REDIS_PASS_FILE";

/// Maximum size of a password file in octets; a longer file is an error. Tokens that replace passwords have up to about 2,000.
const MAX_PASSWORD_FILE_OCTETS: u64 = 8_192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_cut_from_a_password_file() {
        for (content, want) in [
            ("s3cr3t", Ok("s3cr3t")),
            ("s3cr3t\n", Ok("s3cr3t")),
            ("s3cr3t\r\n", Ok("s3cr3t")),
            ("s3cr3t\n\n", Ok("s3cr3t\n")),
            ("s3cr3t\r", Ok("s3cr3t\r")),
            (" s3cr3t ", Ok(" s3cr3t ")),
            ("gehe\u{ef}m\n", Ok("gehe\u{ef}m")),
            ("", Err("it contains no password")),
            ("\r\n", Err("it contains no password")),
            ("s3\0cr3t", Err("it contains a NUL octet")),
            ("\u{feff}s3cr3t", Err("it begins with a byte order mark")),
        ] {
            let parsed = parse_password(content.as_bytes().to_vec());
            assert_eq!(
                parsed.as_deref(),
                want.as_ref().map(|text| *text),
                "{content:?}"
            );
        }
        assert_eq!(
            parse_password(b"s3cr3t\xff".to_vec()),
            Err("its content is not UTF-8")
        );
    }

    #[test]
    fn only_files_in_a_folder_of_systemd_credentials_are_recognized() {
        for (file, want) in [
            ("/run/credentials/goguerrilla.service/mysql", true),
            ("/run/user/1000/credentials/mx.service/mysql", true),
            ("/run/mysql", false),
            ("/run/user/1000/mysql", false),
            ("/etc/credentials/mysql", false),
            ("run/credentials/mysql", false),
        ] {
            assert_eq!(is_systemd_credential(Path::new(file)), want, "{file}");
        }
    }
}
