//! The configuration key and the fix for each error code.

pub const PLUGIN_FIX: &str = "MySQL 9 returns this error if MYSQL_USER does not exist: correct it or create the account; if it exists, run: \
     ALTER USER ... IDENTIFIED WITH caching_sha2_password BY '...' (MariaDB: mysql_native_password)";
pub const PASSWORD_FIX: &str = "run on the server: ALTER USER ... IDENTIFIED WITH caching_sha2_password BY '...' (MariaDB: \
     mysql_native_password)";
const RIGHTS_FIX: &str =
    "grant INSERT, SELECT and UPDATE on {table} to MYSQL_USER, or correct MYSQL_USER and MYSQL_DB";
const CONNECTIONS_FIX: &str = "allow more connections on the server (max_connections, max_user_connections), or lower GM_SAVE_WORKERS";
const READ_ONLY_FIX: &str = "name a server in MYSQL_HOST that takes writes, or make this one writable: \
     SET GLOBAL super_read_only = 0 (MySQL), SET GLOBAL read_only = 0";
const DISK_FIX: &str = "free space on the disk of the database";
const ADDRESS_FIX: &str = "start the database, or correct MYSQL_HOST";
const VIEW_FIX: &str = "name a table in GM_MAIL_TABLE, or a view of one table that shows each of its columns unchanged";
const GENERATED_FIX: &str = "make it an ordinary column: {modify}";
const CHECK_FIX: &str = "drop that constraint: ALTER TABLE {table} DROP CONSTRAINT ...; the table must accept every mail";

/// Error code of MySQL or MariaDB, configuration key and fix.
/// [`mysql_error_finding_text`](super::fixes::mysql_error_finding_text) replaces the placeholders in braces.
#[rustfmt::skip]
pub const FIXES: &[(u16, &str, &str)] = &[
    (3, "GM_MAIL_TABLE", DISK_FIX),
    (167, "GM_MAIL_TABLE", "if mail_id has reached its end, run: ALTER TABLE {table} MODIFY `mail_id` bigint unsigned NOT NULL auto_increment; else {modify}"),
    (1021, "GM_MAIL_TABLE", DISK_FIX),
    (1026, "GM_MAIL_TABLE", DISK_FIX),
    (1030, "GM_MAIL_TABLE", "see the error log of the database; errno 28 is a full disk"),
    (1036, "GM_MAIL_TABLE", "make the table writable: its files belong to the database's user, and innodb_read_only is off"),
    (1040, "MYSQL_HOST", CONNECTIONS_FIX),
    (1044, "MYSQL_DB", RIGHTS_FIX),
    (1045, "MYSQL_USER", "correct MYSQL_USER and MYSQL_PASS; an account that requires TLS (REQUIRE SSL) gets the same error without TLS: set MYSQL_TLS to Y"),
    (1046, "MYSQL_DB", "set it, or name database.table in GM_MAIL_TABLE"),
    (1047, "MYSQL_HOST", "wait until the node is synced with its cluster, or name another one"),
    (1048, "GM_MAIL_TABLE", "{modify}; if a trigger sets it to NULL, correct the trigger"),
    (1049, "MYSQL_DB", "correct MYSQL_DB, or create the database and the table that `goguerrilla schema` prints"),
    (1053, "MYSQL_HOST", "the database is shutting down: start it again"),
    (1054, "GM_MAIL_TABLE", "compare the table, its triggers and its view with what `goguerrilla schema` prints"),
    (1062, "GM_MAIL_TABLE", "make that key an ordinary one (ALTER TABLE {table} DROP INDEX ..., ADD INDEX ...): mails may have equal values"),
    (1114, "GM_MAIL_TABLE", "free space on the disk of the database, or raise the limit of the table: innodb_data_file_path, or max_heap_table_size for a MEMORY table"),
    (1129, "MYSQL_HOST", "run on the server: FLUSH HOSTS (MySQL 8.4: TRUNCATE TABLE performance_schema.host_cache), and raise max_connect_errors"),
    (1130, "MYSQL_HOST", "create the account for the address of this machine on the server: CREATE USER 'user'@'address' IDENTIFIED BY '...'"),
    (1142, "MYSQL_USER", RIGHTS_FIX),
    (1143, "MYSQL_USER", RIGHTS_FIX),
    (1146, "GM_MAIL_TABLE", "if it is the table of mails, run what `goguerrilla schema` prints; else correct the trigger or view that names it"),
    (1153, "GSMTP_MAX_SIZE", "run: SET GLOBAL max_allowed_packet = 67108864, and set it in the server's configuration file"),
    (1203, "MYSQL_HOST", CONNECTIONS_FIX),
    (1205, "GM_MAIL_TABLE", "another session holds a lock on the table: find it with SHOW FULL PROCESSLIST, and wait for it or KILL it"),
    (1216, "GM_MAIL_TABLE", "drop that foreign key: ALTER TABLE {table} DROP FOREIGN KEY ...; the table must accept every mail"),
    (1226, "MYSQL_USER", "raise that limit of the account, such as: ALTER USER ... WITH MAX_USER_CONNECTIONS 0 MAX_CONNECTIONS_PER_HOUR 0 MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0"),
    (1227, "MYSQL_USER", "grant the right in the message to MYSQL_USER, or to the definer of the trigger or view"),
    (1231, "MYSQL_HOST", "the server must accept the session settings (sql_mode STRICT_ALL_TABLES, utf8mb4): use MySQL 5.7 or MariaDB 10.4 at least, without a proxy in between that refuses them"),
    (1251, "MYSQL_USER", PASSWORD_FIX),
    (1264, "GM_MAIL_TABLE", "{modify}"),
    (1265, "GM_MAIL_TABLE", "{modify}"),
    (1288, "GM_MAIL_TABLE", VIEW_FIX),
    (1290, "MYSQL_HOST", READ_ONLY_FIX),
    (1292, "GM_MAIL_TABLE", "{modify}"),
    (1348, "GM_MAIL_TABLE", VIEW_FIX),
    (1356, "GM_MAIL_TABLE", "correct the view: SHOW CREATE VIEW {table} shows the columns it names and its definer"),
    (1364, "GM_MAIL_TABLE", "give that column a default, or: {modify}"),
    (1366, "GM_MAIL_TABLE", "{modify}"),
    (1369, "GM_MAIL_TABLE", "create the view without WITH CHECK OPTION: it must accept every mail"),
    (1370, "MYSQL_USER", "grant EXECUTE on that routine to the definer of the trigger"),
    (1393, "GM_MAIL_TABLE", VIEW_FIX),
    (1394, "GM_MAIL_TABLE", VIEW_FIX),
    (1406, "GM_MAIL_TABLE", "{modify}"),
    (1423, "GM_MAIL_TABLE", "give a default to each column of the table that the view does not contain"),
    (1442, "GM_MAIL_TABLE", "correct the trigger: it must not write to the table of mails"),
    (1449, "GM_MAIL_TABLE", "create the account that is the definer of the trigger or view, or create the trigger or view again"),
    (1452, "GM_MAIL_TABLE", "drop that foreign key: ALTER TABLE {table} DROP FOREIGN KEY ...; the table must accept every mail"),
    (1467, "GM_MAIL_TABLE", "run: ALTER TABLE {table} MODIFY `mail_id` bigint unsigned NOT NULL auto_increment"),
    (1471, "GM_MAIL_TABLE", VIEW_FIX),
    (1524, "MYSQL_USER", PASSWORD_FIX),
    (1526, "GM_MAIL_TABLE", "add a partition for the current values: ALTER TABLE {table} ADD PARTITION (PARTITION ... VALUES LESS THAN MAXVALUE), or VALUES IN (...) if it is partitioned by list"),
    (1644, "GM_MAIL_TABLE", "a trigger refuses the row: correct or drop it; SHOW TRIGGERS LIKE '...' lists those of the table"),
    (1698, "MYSQL_USER", "the account logs in as a user of the system (auth_socket, unix_socket) and has no password: run: ALTER USER ... IDENTIFIED BY '...', or create an account for goguerrilla"),
    (1792, "MYSQL_HOST", READ_ONLY_FIX),
    (1820, "MYSQL_USER", "its password has expired: run: ALTER USER ... IDENTIFIED BY '...' PASSWORD EXPIRE NEVER"),
    (1836, "MYSQL_HOST", READ_ONLY_FIX),
    (1862, "MYSQL_USER", "its password has expired: run: ALTER USER ... IDENTIFIED BY '...' PASSWORD EXPIRE NEVER"),
    (1906, "GM_MAIL_TABLE", GENERATED_FIX),
    (2002, "MYSQL_HOST", ADDRESS_FIX),
    (2003, "MYSQL_HOST", ADDRESS_FIX),
    (2005, "MYSQL_HOST", "correct the name of the host, or the resolver of this machine"),
    (2013, "MYSQL_HOST", ADDRESS_FIX),
    (3032, "MYSQL_HOST", "run on the server: SET GLOBAL offline_mode = OFF"),
    (3100, "GSMTP_MAX_SIZE", "raise group_replication_transaction_size_limit of the database, or lower GSMTP_MAX_SIZE"),
    (3105, "GM_MAIL_TABLE", GENERATED_FIX),
    (3118, "MYSQL_USER", "the account is locked: run: ALTER USER ... ACCOUNT UNLOCK"),
    (3159, "MYSQL_HOST", "the server refuses connections without TLS (require_secure_transport): set MYSQL_TLS to Y, connect to the path of the server's socket, or run: SET GLOBAL require_secure_transport = OFF"),
    (3819, "GM_MAIL_TABLE", CHECK_FIX),
    (3854, "GM_MAIL_TABLE", "{modify}"),
    (3955, "MYSQL_USER", "the account is blocked after too many wrong passwords: run: ALTER USER ... ACCOUNT UNLOCK"),
    (3988, "GM_MAIL_TABLE", "{modify}"),
    (3989, "MYSQL_DB", "the database is read-only: run: ALTER SCHEMA ... READ ONLY = 0"),
    (4025, "GM_MAIL_TABLE", CHECK_FIX),
    (4151, "MYSQL_USER", "the account is locked: run: ALTER USER ... ACCOUNT UNLOCK"),
];
