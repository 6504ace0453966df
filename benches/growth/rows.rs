//! The same load with more rows in the table: 50 connections that send 2 KB to random recipients.
//!
//! Only the index entries of hash and recipient are inserted at random positions; everything else is appended. So the
//! existing rows need no large bodies: 300 octets in SQLite, none in MariaDB, whose bodies are in Redis.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use goguerrilla::internals::store::TableName;
use rusqlite::Connection;

use crate::counts::median;
use crate::databases::{self, execute};
use crate::load::{Load, OwnClient};
use crate::peer::{Server, goguerrilla};
use crate::process::cpu_seconds;
use testkit::project_files::dist_file;

/// Returns one table, and the size of the rows.
pub fn measure() -> String {
    let mut text = String::from(
        "| store | rows before | messages/s | CPU s per 1,000 | of MariaDB | KB read a message | KB written |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut sizes = String::new();
    for rows in ROWS {
        let server = start_mariadb(rows, "");
        text += &line("MariaDB + Redis", rows, &server);
        let _ = writeln!(sizes, "MariaDB, {rows} rows: {}", tables_size(&server));
        if rows == ROWS[ROWS.len() - 1] {
            enlarge_pool(&server);
            text += &line("the same with a pool of 1 GB", rows, &server);
        }
    }
    let by_day = dist_file("mysql-partitions.sql");
    // Simulates partitioning since yesterday: all existing rows are older than today.
    let by_day =
        format!("SET timestamp = UNIX_TIMESTAMP() - 86400;\n{by_day}\nSET timestamp = DEFAULT;\n");
    let last = ROWS[ROWS.len() - 1];
    let server = start_mariadb(last, &format!("{by_day}{TODAY}"));
    text += &line("MariaDB + Redis, by day", last, &server);
    drop(server);
    for rows in ROWS {
        let server = Server::start_prepared("sqlite", no_databases, |folder, address| {
            fill_sqlite(folder, rows);
            goguerrilla(folder, address, &[("GM_STORE", "sqlite")])
        });
        text += &line("SQLite", rows, &server);
        let _ = writeln!(sizes, "SQLite, {rows} rows: {}", file_size(&server));
    }
    format!("{text}\n{sizes}")
}

/// Makes the partition of today, as GM_KEEP_DAYS does.
const TODAY: &str = "EXECUTE IMMEDIATE CONCAT('ALTER TABLE new_mail REORGANIZE PARTITION later INTO (PARTITION today VALUES \
    LESS THAN (', TO_DAYS(CURDATE()) + 1, '), PARTITION later VALUES LESS THAN MAXVALUE)');";

/// The result of a run with one state of the table.
struct Run {
    rate: f64,
    cpu: f64,
    database_cpu: f64,
    /// KB read per message.
    read: f64,
    written: f64,
}

fn line(name: &str, rows: usize, server: &Server) -> String {
    run(server, WARM_UP_TIME);
    let runs: Vec<Run> = (0..ROUNDS).map(|_| run(server, RUN_TIME)).collect();
    let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
    let database = match server.database_processes().is_empty() {
        true => "–".to_owned(),
        false => format!("{:.3}", of(|run| run.database_cpu)),
    };
    let line = format!(
        "| {name} | {rows} | {:.0} | {:.3} | {database} | {:.1} | {:.1} |\n",
        of(|run| run.rate),
        of(|run| run.cpu),
        of(|run| run.read),
        of(|run| run.written),
    );
    eprint!("{line}");
    line
}

fn run(server: &Server, time: Duration) -> Run {
    let load = Load::OwnClient(OwnClient {
        connections: 50,
        pipelined: false,
        users: USERS,
        time,
    });
    let database = server.database_processes().first().copied();
    let look = || {
        let database_cpu = database.map_or(0.0, cpu_seconds);
        (server.cpu_seconds(), database_cpu, file_octets(server))
    };
    let (cpu, database_cpu, (read, written)) = look();
    let done = load.run(server.address, 0);
    let (cpu_after, database_cpu_after, (read_after, written_after)) = look();
    let messages = done.messages as f64;
    Run {
        rate: messages / done.time.as_secs_f64(),
        cpu: (cpu_after - cpu) * 1_000.0 / messages,
        database_cpu: (database_cpu_after - database_cpu) * 1_000.0 / messages,
        read: (read_after - read) as f64 / 1_000.0 / messages,
        written: (written_after - written) as f64 / 1_000.0 / messages,
    }
}

/// Returns the octets that the store has read from and written to its files. For SQLite, reads from the page cache count
/// too.
fn file_octets(server: &Server) -> (u64, u64) {
    let (counters, names) = match server.database_processes().is_empty() {
        true => {
            let io = fs::read_to_string(format!("/proc/{}/io", server.id()));
            (io.expect("the process runs"), ["rchar: ", "wchar: "])
        }
        false => {
            let status = "SHOW GLOBAL STATUS LIKE 'Innodb_data_%'";
            let names = ["Innodb_data_read\t", "Innodb_data_written\t"];
            (execute(server.folder(), status), names)
        }
    };
    let figure = |name: &str| {
        let figure = counters.lines().find_map(|line| line.strip_prefix(name));
        let figure = figure.and_then(|figure| figure.parse().ok());
        figure.expect("a figure")
    };
    (figure(names[0]), figure(names[1]))
}

/// Starts MariaDB with `rows` rows of the thirty days before today, oldest first. The indices are built afterwards,
/// which is faster, with the fill factor that random insertion leads to.
fn start_mariadb(rows: usize, before: &str) -> Server {
    Server::start_prepared("mysql + redis", databases::start, |folder, address| {
        execute(folder, before);
        if rows > 0 {
            execute(
                folder,
                &format!(
                    "ALTER TABLE new_mail DROP KEY `to`, DROP KEY hash, DROP KEY `date`;
                     INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash,
                       content_type, recipient, has_attach, ip_addr, attach_info)
                     SELECT CURDATE() - INTERVAL 30 * 86400 * (1 - (seq - 1) / {rows}) SECOND, 'sender@client.test',
                       CONCAT('u', FLOOR(RAND() * {USERS}), '@mx.test'), 'A few words', 'redis', 'us-ascii', '', 0,
                       MD5(RAND()), 'text/plain', 'user@example.com', 0, '127.0.0.1', ''
                     FROM seq_1_to_{rows};
                     SET GLOBAL innodb_fill_factor = 70;
                     ALTER TABLE new_mail ADD KEY `to` (`to`), ADD KEY hash (hash), ADD KEY `date` (`date`);
                     FLUSH TABLES new_mail FOR EXPORT; UNLOCK TABLES"
                ),
            );
        }
        goguerrilla(folder, address, &databases::settings(folder))
    })
}

/// Enlarges the buffer pool so that the whole table fits, and loads its indices.
fn enlarge_pool(server: &Server) {
    execute(
        server.folder(),
        "SET GLOBAL innodb_buffer_pool_size = 1 << 30;
         DO (SELECT COUNT(*) FROM new_mail FORCE INDEX (hash) WHERE hash > ''),
            (SELECT COUNT(*) FROM new_mail FORCE INDEX (`to`) WHERE `to` > '')",
    );
}

fn tables_size(server: &Server) -> String {
    execute(
        server.folder(),
        "ANALYZE TABLE new_mail;
         SELECT CONCAT(DATA_LENGTH, ' octets of rows, ', INDEX_LENGTH, ' of indices')
         FROM information_schema.TABLES WHERE TABLE_NAME = 'new_mail'",
    )
    .lines()
    .last()
    .unwrap_or_default()
    .to_owned()
}

/// Fills an SQLite file in the order in which mails arrive, so that the indices grow as in operation.
fn fill_sqlite(folder: &Path, rows: usize) {
    let file = folder.join("goguerrilla.db");
    let database = Connection::open(&file).expect("a new file");
    let schema = TableName::default().sqlite_schema();
    let filled = database.execute_batch(&format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000; {schema} BEGIN;
         WITH RECURSIVE mails(number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM mails WHERE number < {rows})
         INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash, content_type,
           recipient, has_attach, ip_addr, attach_info)
         SELECT datetime('now', 'start of day', (-30 * 86400 * ({rows} - number) / {rows}) || ' seconds'),
           'sender@client.test', 'u' || abs(random() % {USERS}) || '@mx.test', 'A few words', 'gzencode', 'us-ascii',
           randomblob(300), 0, lower(hex(randomblob(16))), 'text/plain', 'user@example.com', 0, '127.0.0.1', ''
         FROM mails WHERE number < {rows};
         COMMIT;"
    ));
    filled.expect("enough disk space");
    drop(database);
    let synced = File::open(&file).and_then(|file| file.sync_all());
    synced.expect("enough disk space");
}

fn file_size(server: &Server) -> String {
    let database = Connection::open(server.folder().join("goguerrilla.db")).expect("its file");
    let figure = "SELECT (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size) || ' octets for '
                  || COUNT(*) || ' rows' FROM new_mail";
    let figure = database.query_row(figure, [], |row| row.get(0));
    figure.expect("a figure")
}

fn no_databases(_: &Path) -> Vec<Child> {
    Vec::new()
}

const ROWS: [usize; 3] = [0, 1_000_000, 5_000_000];
const USERS: usize = 1_000_000;
const ROUNDS: usize = 3;
const WARM_UP_TIME: Duration = Duration::from_secs(2);
/// Longer than in other parts, because delayed writes are part of the cost.
const RUN_TIME: Duration = Duration::from_secs(3);
