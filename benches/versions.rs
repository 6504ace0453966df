//! An older version of this program next to this one.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::databases;
use crate::peer::{
    DISCARD, DISCARD_SETTINGS, MARIADB, Peer, SQLITE, SQLITE_SETTINGS, program_of_goguerrilla,
};

/// The older program without a store.
pub const OLD_DISCARD: Peer = Peer {
    name: "old, discard",
    missing: missing_for_old,
    command: |folder, address| old(folder, address, &DISCARD_SETTINGS),
    ..DISCARD
};

/// The older program with SQLite.
pub const OLD_SQLITE: Peer = Peer {
    name: "old, SQLite",
    missing: missing_for_old,
    command: |folder, address| old(folder, address, &SQLITE_SETTINGS),
    ..SQLITE
};

/// The older program with MariaDB and Redis.
pub const OLD_MARIADB: Peer = Peer {
    name: "old, MariaDB + Redis",
    missing: || missing_for_old().or_else(MARIADB.missing),
    command: |folder, address| old(folder, address, &databases::settings(folder)),
    ..MARIADB
};

/// Returns the version that the older program prints, if there is one.
pub fn old_version() -> Option<String> {
    let output = Command::new(old_file()?).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn old<S: AsRef<str>>(folder: &Path, address: SocketAddr, settings: &[(&str, S)]) -> Command {
    let file = old_file().expect("it was found before");
    program_of_goguerrilla(&file, folder, address, settings)
}

fn missing_for_old() -> Option<String> {
    let is_missing = old_version().is_none();
    is_missing.then(|| format!("needs the file of an older version in {OLD_FILE}"))
}

fn old_file() -> Option<String> {
    env::var(OLD_FILE).ok().filter(|file| !file.is_empty())
}

/// The environment variable with the path of the older program.
const OLD_FILE: &str = "GOGUERRILLA_OLD";
