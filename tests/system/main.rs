//! Tests that need root, or other programs than databases: mail servers and clients, proxies, strace, cargo, the installation.

mod anomalies;
mod clients;
mod clock;
mod dependencies;
mod dependent;
mod examples;
mod haproxy;
mod install;
mod mtas;
mod nginx;
mod privileges;
mod proxy;
mod starttls;
mod systemd;
mod xclient;

testkit::main!();
