//! Command-line arguments of the server, and its exit status and error text when it cannot start.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use testkit::process::run;
use testkit::{Client, Server, binary, test, value, wait_for, write_config};

#[test]
fn options_accept_one_dash_or_two() {
    let forms: &[&[&str]] = &[
        &["-config=x.conf", "-if=127.0.0.2:0", "-v=y"],
        &["-config", "x.conf", "-if", "127.0.0.2:0", "-v", "y"],
        &["--config=x.conf", "--if=127.0.0.2:0", "--verbose=y"],
        &["--config", "x.conf", "--if", "127.0.0.2:0", "--verbose"],
    ];
    for form in forms {
        let folder = TempDir::new().expect("a temporary folder");
        write_config(folder.path(), &[]);
        let usual = folder.path().join("goguerrilla.conf");
        fs::copy(usual, folder.path().join("x.conf")).expect("a copy");
        let server = Server::start_with(folder, &[("GSMTP_MAX_SIZE", "not this file")], |_| {
            command(form)
        });
        assert_eq!(server.address.ip().to_string(), "127.0.0.2", "{form:?}");
        assert!(logs_smtp_lines(&server), "{form:?}");
        for dashes in ["-", "--"] {
            let [to, limit, json] = ["to", "limit", "json"].map(|name| format!("{dashes}{name}"));
            let listed = run(
                server.folder.path(),
                &[
                    "list",
                    "-config=x.conf",
                    &to,
                    "u@ours.test",
                    &limit,
                    "1",
                    &json,
                ],
            );
            assert_eq!((listed.status, listed.stderr.as_str()), (0, ""), "{dashes}");
        }
    }
}

#[test]
fn verbose_argument_overrides_the_configuration_file() {
    for (arguments, is_verbose) in [
        (&[][..], true),
        (&["-v=n"][..], false),
        (&["--verbose=n"][..], false),
        // The last of two flags counts, as in Go's flag package.
        (&["-v=y", "-v=n"][..], false),
        (&["-v", "n"][..], false),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        // Without -config the server reads goguerrilla.conf.
        let server = Server::start_with(folder, &[("GSMTP_VERBOSE", "Y")], |_| command(arguments));
        assert_eq!(logs_smtp_lines(&server), is_verbose, "{arguments:?}");
    }
}

#[test]
fn missing_default_configuration_file_starts_with_defaults_and_is_logged() {
    let folder = TempDir::new().expect("a temporary folder");
    let log = folder.path().join("stdout");
    let mut child = command(&["-if=127.0.0.1:0"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(File::create(&log).expect("a file for stdout"))
        .spawn()
        .expect("the program starts");
    let address = wait_for("the server to listen", || {
        let log = fs::read_to_string(&log).ok()?;
        let line = log.lines().find(|line| line.contains(" listening "))?;
        value(line, "address")?.parse().ok()
    });
    let mut client = Client::connect(address);
    client.expect("220 ");
    let offers = client.command("EHLO client.test", "250-").text();
    child.kill().expect("the server runs");
    child.wait().expect("a child process");
    assert!(offers.contains("SIZE 131072"), "{offers}");
    let log = fs::read_to_string(log).expect("the log");
    assert!(
        log.contains("no -config and no goguerrilla.conf in the current folder"),
        "{log}"
    );
    assert!(folder.path().join("goguerrilla.db").exists());
}

#[test]
fn server_accepts_on_every_listed_listen_address() {
    let server = Server::start(&[("GSTMP_LISTEN_INTERFACE", "127.0.0.1:0, 127.0.0.2:0,[::1]:0")]);
    let addresses = wait_for("three listeners", || {
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains(" listening "));
        let addresses: Vec<String> = lines.filter_map(|line| value(line, "address")).collect();
        (addresses.len() == 3).then_some(addresses)
    });
    for address in addresses {
        let mut client = Client::connect(address.parse().expect("an address"));
        client.expect("220 mx.test ESMTP");
    }
}

#[test]
fn invalid_arguments_exit_with_2_and_create_no_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let cases: &[&[&str]] = &[
        &["--nonsense"],
        &["-configs=x"],
        &["frobnicate"],
        &["-if=2525"],
        &["-if=localhost:2525"],
        &["-if"],
        &["-config"],
        &["-v=maybe"],
        &["show"],
        &["show", "a", "b"],
        &["list", "--limit", "x"],
        &["list", "--limit", "-1"],
        &["check", "now"],
    ];
    for arguments in cases {
        let ended = run(folder.path(), arguments);
        assert_eq!(ended.status, 2, "{arguments:?}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
        assert!(
            ended.stderr.starts_with("error: "),
            "{arguments:?}: {ended:?}"
        );
    }
    let left = fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(left, 0);
}

#[test]
fn help_and_version_print_to_stdout_and_exit_with_0() {
    let folder = TempDir::new().expect("a temporary folder");
    for (argument, expected_text) in [
        ("--help", "Usage: goguerrilla"),
        ("-help", "Usage: goguerrilla"),
        (
            "--version",
            concat!("goguerrilla ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
        (
            "-version",
            concat!("goguerrilla ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
    ] {
        let ended = run(folder.path(), &[argument]);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{argument}");
        assert!(
            ended.stdout.contains(expected_text),
            "{argument}: {}",
            ended.stdout
        );
    }
}

#[test]
fn nonexistent_config_file_is_an_error_for_every_command() {
    let folder = TempDir::new().expect("a temporary folder");
    let line = "no.conf: No such file or directory (os error 2); \
                name a configuration file that exists and that this user may read\n";
    for arguments in [
        &["-config=no.conf"][..],
        &["schema", "-config=no.conf"],
        &["list", "-config", "no.conf"],
        &["show", "0f", "--config=no.conf"],
    ] {
        let ended = run(folder.path(), arguments);
        assert_eq!(
            ended.stderr,
            format!("goguerrilla: {line}"),
            "{arguments:?}"
        );
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (1, ""),
            "{arguments:?}"
        );
    }
    let ended = run(folder.path(), &["check", "-config=no.conf"]);
    assert_eq!(ended.stdout, format!("error: {line}"));
    assert_eq!((ended.status, ended.stderr.as_str()), (1, ""));
}

#[test]
fn port_in_use_at_start_is_an_error_with_the_address_and_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let line = format!(
        "goguerrilla: cannot bind {address}: Address already in use (os error 98); \
         stop the program that listens there, or choose another port with -if=\n"
    );
    let folder = TempDir::new().expect("a temporary folder");
    let interface = format!("-if={address}");
    let ended = run(folder.path(), &[&interface]);
    assert_eq!((ended.status, ended.stderr), (1, line.clone()));

    let both = format!("127.0.0.1:0,{address}");
    write_config(folder.path(), &[("GSTMP_LISTEN_INTERFACE", &both)]);
    let ended = run(folder.path(), &["-config=goguerrilla.conf"]);
    assert_eq!((ended.status, ended.stderr), (1, line));
}

#[test]
fn log_or_store_that_cannot_be_opened_is_a_start_error_naming_the_file() {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(
        folder.path().join("no.db"),
        "no database at all\n".repeat(100),
    )
    .expect("a file");
    for (key, value, line) in [
        (
            "GSMTP_LOG_FILE",
            "missing/log",
            "goguerrilla: GSMTP_LOG_FILE: cannot open missing/log: No such file or directory (os error 2); \
             name a file that this user may append to\n",
        ),
        (
            "GM_SQLITE_FILE",
            "no.db",
            "goguerrilla: GM_SQLITE_FILE: no.db: file is not a database; name another file, or move this one away\n",
        ),
    ] {
        write_config(folder.path(), &[(key, value)]);
        let ended = run(folder.path(), &["-config=goguerrilla.conf"]);
        assert_eq!((ended.status, ended.stderr.as_str()), (1, line));
    }
}

/// Returns whether the log contains the command that a client sent, after the session has been logged as ended.
fn logs_smtp_lines(server: &Server) -> bool {
    let mut client = server.client();
    client.command("NOOP said", "250 2.0.0 ");
    client.command("QUIT", "221 2.0.0 ");
    let log = wait_for("the session to end", || {
        Some(server.log()).filter(|log| log.contains(" disconnected "))
    });
    log.contains(" smtp_in line=\"NOOP said\"")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    command
}

#[test]
fn endless_configuration_file_is_an_error_and_a_pipe_is_read() {
    let folder = TempDir::new().expect("a temporary folder");
    for arguments in [&["-config=/dev/zero"][..], &["check", "-config=/dev/zero"]] {
        let ended = run(folder.path(), arguments);
        assert_eq!(ended.status, 1, "{arguments:?}");
        let text = ended.stdout + &ended.stderr;
        assert!(
            text.contains("/dev/zero: the file is longer than 16777216 octets; name a "),
            "{text}"
        );
    }
    let script =
        r#"(sleep 0.1; echo '{"GM_MAIL_TABLE": "piped"}') | "$1" schema -config=/dev/stdin"#;
    let shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(binary())
        .output();
    let printed = shell.expect("the shell starts").stdout;
    let printed = String::from_utf8(printed).expect("UTF-8");
    assert!(printed.contains("`piped`"), "{printed}");
}
