//! Tests with MariaDB or MySQL, Redis or Valkey, and Galera.

mod backup;
mod check_mysql;
mod check_redis;
mod client_left;
mod commit_in_doubt;
mod fleet;
mod galera;
mod growing;
mod memory;
mod mysql_driver;
mod mysql_faults;
mod mysql_hanging;
mod mysql_tls;
mod password_files;
mod promise_mysql;
mod readiness;
mod recipient_query;
mod recipient_query_faults;
mod redis_cluster;
mod redis_faults;
mod reload;
mod status;
mod storage;
mod store_change;
mod table;

testkit::main!();
