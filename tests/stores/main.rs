//! Tests with MariaDB or MySQL, Redis or Valkey, and Galera.

mod backup;
mod check_mysql;
mod check_redis;
mod client_left;
mod commit_in_doubt;
mod durability_mysql;
mod feed;
mod feed_examples;
mod follow;
mod galera;
mod hold;
mod memory;
mod migration;
mod mysql_driver;
mod mysql_ed25519;
mod mysql_faults;
mod mysql_hanging;
mod mysql_tls;
mod partitioning;
mod password_files;
mod readiness;
mod receiver_cluster;
mod recipient_query;
mod recipient_query_faults;
mod redis_cluster;
mod redis_faults;
mod redis_tls;
mod reload;
mod retention;
mod status;
mod status_page;
mod storage;
mod store_change;
mod table;
mod upgrade;

testkit::main!(
    6,
    "check_mysql::check_names_the_protocol_of_a_server_that_is_not_mysql",
    "readiness::readyz_is_503_while_the_database_hangs_even_if_no_mail_arrives",
    "mysql_hanging::commit_that_hangs_while_a_lost_batch_is_repeated_is_detected",
    "storage::subject_outside_the_column_charset_fails_neither_its_mail_nor_the_batch",
);
