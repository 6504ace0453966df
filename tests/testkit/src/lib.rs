//! What the tests and benchmarks share: the `#[test]` attribute and its runner, the program under test and an SMTP client that
//! checks the form of each reply, and the servers and proxies that surround the program.

pub mod auth_http;
pub mod certificates;
pub mod dialog;
pub mod fault_proxy;
pub mod feed;
pub mod feed_ledger;
pub mod follow;
pub mod galera;
pub mod galera_faults;
pub mod group_replication;
pub mod kill_rounds;
pub mod kill_rounds_mysql;
pub mod load;
pub mod mariadb;
pub mod mta;
pub mod old_rows;
mod output;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod project_files;
pub mod proxies;
pub mod receiver_cluster;
pub mod recovery;
pub mod redis;
pub mod redis_tls;
pub mod report;
mod requirements;
pub mod root;
mod runner;
pub mod sample_mails;
pub mod senders;
mod server;
pub mod server_programs;
pub mod smuggling;
pub mod soak_settings;
pub mod status;
pub mod steps;
pub mod store;
pub mod throughput;
pub mod tls;
pub mod upgrade;
mod wait;
pub mod web;

pub use inventory;
pub use output::record;
pub use requirements::{command, has_program, needs, needs_program, needs_root};
pub use runner::{Build, Test, binary, cache, root_folder, run, set_build};
pub use server::{
    Client, Reply, Server, connect_with_small_buffers, incompressible, release_or_debug, run_in,
    send_signal, short_mail, stuffed, tail, under_strace, value, wait_until_threads_are,
    with_umask, without_trace, write_config,
};
pub use testkit_macros::test;
pub use wait::{
    AT_ONCE, TEST_TIMEOUT, assert_took, check_for, let_time_pass, wait_at_most, wait_for,
    wait_for_within,
};
