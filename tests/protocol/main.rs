//! Tests that need no other program and no root: sessions, the SQLite store, TLS, limits, commands and the sources.

mod allowed_hosts_files;
mod architecture;
mod arguments;
mod auth_http;
mod benchmarks;
mod capacity;
mod check;
mod check_sqlite;
mod command_limit;
mod configs;
mod corpus;
mod cves;
mod database_moved;
mod database_truncated;
mod dialogs;
mod discarding;
mod documentation;
mod domains;
mod durability;
mod environment;
mod feed;
mod file_modes;
mod follow;
mod hold;
mod limits;
mod list_show;
mod log;
mod memory;
mod migration;
mod panics;
mod password_files;
mod pid_file;
mod pipelining;
mod privileges;
mod properties;
mod proxy;
mod readiness;
mod ready;
mod recipient_hook;
mod recipients;
mod refusals;
mod reload;
mod retention;
mod shutdown;
mod slot_exhaustion;
mod smoke;
mod smuggling;
mod sqlite_faults;
mod sqlite_file;
mod starttls;
mod status;
mod status_page;
mod table;
mod test_matrix;
mod time;
mod tls_files;
mod upgrade;
mod waits;
mod writer;
mod xclient;

testkit::main!(
    8,
    "shutdown::unfinished_message_is_aborted_30_seconds_after_sigterm",
    "starttls::invalid_new_certificate_is_ignored_and_a_valid_one_is_loaded_without_sighup",
);
