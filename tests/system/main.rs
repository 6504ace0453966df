//! Tests that need root, or other programs than databases: mail servers and clients, proxies, strace, cargo, the installation.

mod clients;
mod clock;
mod database_moved;
mod deb;
mod debian_machine;
mod dependencies;
mod dependent;
mod examples;
mod fault_injection;
mod haproxy;
mod image;
mod inbox;
mod install;
mod list_show;
mod log;
mod mtas;
mod nginx;
mod pid_file;
mod pipelining;
mod privileges;
mod prometheus;
mod proxy;
mod retention;
mod shutdown;
mod smuggling;
mod sqlite_faults;
mod starttls;
mod status;
mod status_page;
mod systemd;
mod xclient;

testkit::main!(
    4,
    "starttls::testssl_and_nmap_find_no_old_tls_version_no_ticket_and_no_weakness",
    "deb::debian_package_serves_after_installation_and_upgrade_and_keeps_mail_when_purged",
    "image::image_contains_only_the_program_and_a_container_finishes_mail_at_sigterm",
    "clock::wall_clock_jump_affects_no_mail_no_session_and_no_certificate_renewal",
);
