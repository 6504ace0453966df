//! Linux interfaces: systemd, files opened as root, privileges, resource limits, signals.

pub mod pid_file;
pub mod privileges;
pub mod regular_file;
pub mod rlimits;
pub mod secure_open;
pub mod signals;
pub mod systemd;
