//! What the process asks of Linux: files opened as root, user ids, limits, signals.

pub mod pid_file;
pub mod privileges;
pub mod rlimits;
pub mod secure_open;
pub mod signals;
pub mod systemd;
