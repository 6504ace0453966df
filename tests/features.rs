//! The program built with any combination of the Cargo features `sqlite` and `mysql`: which stores it has, and what it says
//! about the others. `make test` runs these tests once for each combination.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lettre::address::Envelope;
use lettre::{SmtpTransport, Transport};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_goguerrilla");

/// The values of GM_STORE that select a store with a Cargo feature of the same name, and whether this build has it.
const OPTIONAL_STORES: [(&str, bool); 2] = [
    ("sqlite", cfg!(feature = "sqlite")),
    ("mysql", cfg!(feature = "mysql")),
];

/// The beginning of the error about a store that this build does not have.
const NOT_PART: &str = "GM_STORE: \"";

#[test]
fn store_without_its_feature_is_an_error_of_the_start_and_of_each_command() {
    for (store, is_built) in OPTIONAL_STORES {
        let expected = error_text(store);
        let folder = folder_with(&format!(r#""GM_STORE": "{store}""#));
        let hash = "0".repeat(32);
        let commands: [&[&str]; 5] = [
            &[],
            &["check"],
            &["schema"],
            &["list"],
            &["show", hash.as_str()],
        ];
        for command in commands {
            // A server with its store would run until it is stopped.
            if is_built && command.is_empty() {
                continue;
            }
            let output = run(folder.path(), command);
            let printed = printed(&output);
            match is_built {
                true => assert!(!printed.contains(NOT_PART), "{command:?} {printed}"),
                false => {
                    assert!(printed.contains(&expected), "{command:?} {printed}");
                    assert_eq!(output.status.code(), Some(1), "{command:?}");
                    assert_eq!(printed.matches(NOT_PART).count(), 1, "{printed}");
                }
            }
        }
    }
}

#[test]
fn default_store_without_its_feature_is_the_same_error() {
    let selections = [r#""GSMTP_VERBOSE": "N""#, r#""MYSQL_DB": "mail""#];
    for ((store, is_built), keys) in OPTIONAL_STORES.into_iter().zip(selections) {
        let folder = folder_with(keys);
        let printed = printed(&run(folder.path(), &["check"]));
        let has_error = printed.contains(&error_text(store));
        assert_eq!(has_error, !is_built, "{printed}");
    }
}

#[test]
fn configuration_accepts_all_keys_with_any_features() {
    let folder = TempDir::new().expect("a temporary folder");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("goguerrilla.conf.sample");
    let sample = fs::read_to_string(sample).expect("the sample");
    let selected = r#""GM_STORE": "sqlite""#;
    assert!(sample.contains(selected), "{sample}");
    let config = sample.replace(selected, r#""GM_STORE": "discard""#);
    fs::write(folder.path().join("goguerrilla.conf"), config).expect("a writable folder");
    let printed = printed(&run(folder.path(), &["-if=127.0.0.1:0", "check"]));
    assert!(!printed.contains("unknown key"), "{printed}");
    assert!(!printed.contains("error:"), "{printed}");
}

#[test]
fn server_without_any_store_feature_receives_mail() {
    let folder = folder_with(r#""GM_STORE": "discard""#);
    let mut server = command(folder.path(), &["-if=127.0.0.1:0"])
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let log = server.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let port = lines.find_map(|line| port_of_listener(&line));
    let client = SmtpTransport::builder_dangerous("127.0.0.1").port(port.expect("a listener"));
    let address = |text: &str| text.parse().expect("an address");
    let recipients = vec![address("b@primary.test")];
    let envelope = Envelope::new(Some(address("a@client.test")), recipients);
    let content = b"Subject: test\r\n\r\ntext\r\n";
    let sent = client
        .build()
        .send_raw(&envelope.expect("a recipient"), content);
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM).expect("the server runs");
    assert!(sent.expect("a reply").is_positive());
    // Reads the log to its end, so that the server can write it.
    assert!(lines.any(|line| line.contains("stopped")));
    assert!(server.wait().expect("an exit status").success());
}

/// Returns the expected error for a store that this build does not have.
fn error_text(store: &str) -> String {
    let selected_by = match store {
        "sqlite" => "the default",
        _ => "the default if a MYSQL_ key is set",
    };
    let built = OPTIONAL_STORES.iter().filter(|(_, is_built)| *is_built);
    let names = built.map(|(name, _)| *name).chain(["discard"]);
    let expected = names.collect::<Vec<_>>().join("\" or \"");
    format!(
        "GM_STORE: \"{store}\" ({selected_by}) is not part of this program; expected \"{expected}\": set GM_STORE, or build \
         the program with `cargo build --release --features {store}`\n"
    )
}

/// Returns a temporary folder with a configuration of these keys.
fn folder_with(keys: &str) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let config = format!(
        r#"{{"GSTMP_LISTEN_INTERFACE": "127.0.0.1:0", "GSMTP_LOG_FILE": "/dev/stdout", "GM_ALLOWED_HOSTS": "primary.test",
            "GM_PRIMARY_MAIL_HOST": "primary.test", {keys}}}"#
    );
    fs::write(folder.path().join("goguerrilla.conf"), config).expect("a writable folder");
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(folder).args(arguments);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = command(folder, arguments).output();
    output.expect("the program")
}

fn printed(output: &Output) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Returns the port in the log line of a listener.
fn port_of_listener(line: &str) -> Option<u16> {
    let (_, address) = line.split_once(" listening ")?.1.split_once("address=")?;
    let address = address.split(' ').next()?;
    address.rsplit(':').next()?.trim_matches('"').parse().ok()
}
