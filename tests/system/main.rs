//! Tests that need root, or other programs than databases: mail servers and clients, proxies, strace, cargo, the installation.

mod anomalies;
mod clients;
mod clock;
mod database_moved;
mod dependencies;
mod dependent;
mod examples;
mod haproxy;
mod install;
mod log;
mod mtas;
mod nginx;
mod pid_file;
mod pipelining;
mod privileges;
mod proxy;
mod reading;
mod shutdown;
mod smuggling;
mod sqlite_faults;
mod starttls;
mod status;
mod systemd;
mod xclient;

testkit::main!();
