//! A MariaDB and a Redis server for one benchmark, reached through sockets in the folder of the server that uses them.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use goguerrilla::internals::store::TableName;

use crate::program::program;

/// Starts both and creates the table that `goguerrilla schema` prints. MariaDB syncs each COMMIT, which is its default;
/// Redis runs with default options.
pub fn start(folder: &Path) -> Vec<Child> {
    let path = |name: &str| {
        folder
            .join(name)
            .to_str()
            .expect("a path of UTF-8")
            .to_owned()
    };
    let data = format!("--datadir={}", path("data"));
    let status = Command::new("mariadb-install-db")
        .args([
            "--no-defaults",
            &data,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "mariadb-install-db of mariadb-server works"
    );
    let socket = format!("--socket={}", path("my.sock"));
    let mut children = vec![spawn_without_output(program("mariadbd").args([
        "--no-defaults",
        &data,
        &socket,
        "--skip-networking",
        "--innodb-flush-log-at-trx-commit=1",
        // mariadbd refuses to run as root without this option.
        "--user=root",
        &format!("--pid-file={}", path("my.pid")),
    ]))];
    children.push(spawn_without_output(program("redis-server").args([
        "--port",
        "0",
        "--save",
        "",
        "--unixsocket",
        &path("redis.sock"),
    ])));
    let table = TableName::default().mysql_schema();
    let statements = format!("CREATE DATABASE mail; USE mail; {table}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = Command::new("mariadb")
            .args(["--no-defaults", &socket, "-u", "root", "-e", &statements])
            .stderr(Stdio::null())
            .status();
        if status.is_ok_and(|status| status.success()) {
            return children;
        }
        assert!(Instant::now() < deadline, "MariaDB does not start");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the configuration keys of a server that uses both.
pub fn settings(folder: &Path) -> Vec<(&'static str, String)> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    vec![
        ("GM_STORE", "mysql".to_owned()),
        ("MYSQL_HOST", path("my.sock")),
        ("MYSQL_USER", "root".to_owned()),
        ("MYSQL_DB", "mail".to_owned()),
        ("REDIS_INTERFACE", path("redis.sock")),
    ]
}

/// Runs statements with MariaDB's client and returns its output.
pub fn execute(folder: &Path, statements: &str) -> String {
    let mut child = Command::new("mariadb")
        .args(["--no-defaults", "-u", "root", "-N", "-S"])
        .arg(folder.join("my.sock"))
        .arg("mail")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("mariadb of mariadb-client starts");
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(statements.as_bytes())
        .expect("mariadb reads its input");
    drop(input);
    let output = child.wait_with_output().expect("mariadb ends");
    assert!(output.status.success(), "{statements}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn spawn_without_output(command: &mut Command) -> Child {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
        .spawn()
        .expect("setpriv of util-linux starts the server")
}
