//! The programs in examples/, with real clients.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;

use goguerrilla::internals::mail::inflate;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use testkit::load::{Load, assert_no_loss_or_duplicate, content_of};
use testkit::postgres::Postgres;
use testkit::{
    Client, binary, note, short_mail, stuffed, test, under_strace, wait_for,
    wait_until_threads_are, without_trace,
};

#[test]
fn folder_store_writes_one_file_for_each_mail_and_stops_at_sigterm() {
    let folder = TempDir::new().expect("a temporary folder");
    let example = Example::start(&folder, example("folder_store").args([FREE_PORT, "mail"]));
    let swaks = testkit::command("swaks")
        .args(["--server", &example.address.to_string()])
        .args(["--helo", "client.test", "--from", "a@client.test"])
        .args(["--to", "u@ours.test,v@ours.test"])
        .args(["--data", "Subject: swaks\\n\\nA line.\\n.\\n"])
        .output()
        .expect("swaks is installed: tests/install-tools");
    assert!(swaks.status.success(), "{swaks:?}");
    let dialog = String::from_utf8(swaks.stdout).expect("ASCII");

    let [name] = &files(&folder, "mail/new")[..] else {
        panic!("not one file");
    };
    assert!(dialog.contains(&format!("250 2.0.0 OK : queued as {name}\n")));
    let stored = fs::read(folder.path().join("mail/new").join(name)).expect("a file");
    let text = String::from_utf8_lossy(&stored);
    assert!(text.starts_with("Return-Path: <a@client.test>\r\nDelivered-To: u@"));
    assert!(text.contains("\r\nReturn-Path: <a@client.test>\r\nDelivered-To: v@"));
    let content = without_trace(without_trace(&stored));
    assert_eq!(content, b"Subject: swaks\r\n\r\nA line.\r\n");
    assert!(files(&folder, "mail/tmp").is_empty());
    assert!(example.stop(Signal::SIGTERM).success());
}

#[test]
fn folder_store_leaves_nothing_of_a_mail_that_it_does_not_save() {
    let folder = TempDir::new().expect("a temporary folder");
    // In the writer's thread, fsync is called at first for the folder, then for the file and for the folder of each mail:
    // fails for the file of the first mail and the folder of the second.
    let strace = under_strace(&[
        "-e",
        "trace=fsync,rename,renameat,renameat2",
        "-e",
        "inject=fsync:error=ENOSPC:when=2..4+2",
    ]);
    let mut program = example("folder_store");
    program.args([FREE_PORT, "mail"]);
    let example = Example::start(&folder, &mut strace(program));
    let mut client = example.client();
    for name in ["first", "second"] {
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail(name));
        assert_eq!(
            reply.text(),
            "452 4.3.1 Insufficient system storage, try again later"
        );
        assert!(files(&folder, "mail/tmp").is_empty(), "{name}");
        assert!(files(&folder, "mail/new").is_empty(), "{name}");
    }
    let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("third"));
    assert_eq!(files(&folder, "mail/new"), [queued_as(&reply.text())]);
    client.command("QUIT", "221");
    assert!(example.stop(Signal::SIGINT).success());

    let trace = fs::read_to_string(folder.path().join("trace")).expect("a trace");
    let calls = trace
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    let calls = calls.filter_map(|call| Some(call.split_once('(')?.0));
    let calls: Vec<&str> = calls
        .map(|name| {
            if name.starts_with("rename") {
                "rename"
            } else {
                name
            }
        })
        .collect();
    let third = calls.len().checked_sub(3).expect("three calls");
    assert_eq!(calls[third..], ["fsync", "rename", "fsync"], "{trace}");
}

#[test]
fn channel_store_catches_the_mail_of_a_program_under_test() {
    let output = example("channel_store").output().expect("a program");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"caught 1 mail: Your order\n");
}

#[test]
fn recipients_from_set_follow_changes_of_their_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let replace = |addresses: &str| {
        fs::write(file("new"), addresses).expect("a file is written");
        fs::rename(file("new"), file("recipients")).expect("a file is replaced");
    };
    let config = r#"{"GSTMP_LISTEN_INTERFACE": "127.0.0.1:0", "GM_ALLOWED_HOSTS": "ours.test",
        "GM_STORE": "sqlite", "GM_SQLITE_FILE": "mail.db"}"#;
    fs::write(file("config"), config).expect("a file is written");
    replace("Old@Ours.test\n\n  other@ours.test\r\n");
    let mut program = example("recipients_from_set");
    let example = Example::start(&folder, program.args(["config", "recipients"]));

    let mut client = example.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<old@ours.test>", "250 2.1.5");
    client.command("RCPT TO:<OTHER@ours.test>", "250 2.1.5");
    client.command("RCPT TO:<new@ours.test>", "550 5.1.1");
    replace("new@ours.test\n");
    client.command("RCPT TO:<new@ours.test>", "250 2.1.5");
    client.command("RCPT TO:<third@ours.test>", "550 5.1.1");
    client.command("RCPT TO:<postmaster@ours.test>", "250 2.1.5");
    fs::remove_file(file("recipients")).expect("a file");
    client.command("RCPT TO:<fourth@ours.test>", "451 4.3.0");
    replace("fourth@ours.test\n");
    client.command("RCPT TO:<fourth@ours.test>", "250 2.1.5");
    client.command("DATA", "354");
    client.send([&short_mail("set")[..], b".\r\n"].concat());
    client.expect("250 2.0.0");

    let stored = testkit::store::mails_after(&file("mail.db"), 0);
    let recipients: Vec<&str> = stored.iter().map(|row| &*row.recipient).collect();
    let want = ["old", "OTHER", "new", "postmaster", "fourth"];
    assert_eq!(recipients, want.map(|name| format!("{name}@ours.test")));
}

#[test]
fn postgres_store_saves_each_mail_of_concurrent_connections_in_a_row() {
    let database = Postgres::start();
    let folder = TempDir::new().expect("a temporary folder");
    let example = postgres_store(&folder, &database);
    let deliver = |client_number: usize| {
        let mut client = example.client();
        let subjects = (0..25).map(|number| format!("mail {client_number}-{number}"));
        let delivered = subjects.map(|subject| {
            let content = content_of(&subject);
            let reply = client.deliver("a@client.test", "u@ours.test", content.as_bytes());
            (queued_as(&reply.text()).to_owned(), subject)
        });
        delivered.collect::<Vec<_>>()
    };
    let replies: HashMap<String, String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|number| scope.spawn(move || deliver(number)))
            .collect();
        let delivered = clients
            .into_iter()
            .flat_map(|client| client.join().expect("no panic"));
        delivered.collect()
    });
    assert_eq!(replies.len(), 200);
    let rows = database.sql("SELECT hash, subject, encode(mail, 'hex') FROM new_mail");
    assert_eq!(rows.lines().count(), 200);
    for row in rows.lines() {
        let [hash, subject, body] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        assert_eq!(replies[hash], subject);
        assert_eq!(stored_content(body), content_of(subject).as_bytes());
    }
    let other_columns = r#"SELECT DISTINCT "from", split_part("to", '@', 1), body, charset, spam_score, content_type,
        recipient, has_attach, ip_addr, delivered, attach_info, dkim_valid, now() - date < '1 hour' FROM new_mail"#;
    assert_eq!(
        database.sql(other_columns),
        "a@client.test|u|gzencode|UTF-8|0|text/plain|u@ours.test|0|127.0.0.1|f|||t\n"
    );

    // The database closes the connections of the store, which notices that before it takes a mail. Then a text column must not
    // contain the NUL of the header section, which PostgreSQL would refuse.
    database
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COMMIT%'");
    let mut client = example.client();
    let content = b"Subject: =?utf-8?q?a=00b?=\r\nContent-Type: text/plain; charset=\"x\x00y\"\r\n\r\n\x00\xff\r\n";
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<>", "250");
    client.command("RCPT TO:<v@ours.test>", "250");
    client.command("RCPT TO:<w@ours.test>", "250");
    client.command("DATA", "354");
    client.send(stuffed(content));
    let reply = client.expect("250 ");
    let rows = database.sql(
        "SELECT hash, subject, charset, recipient FROM new_mail ORDER BY mail_id DESC LIMIT 2",
    );
    let rows: Vec<&str> = rows.lines().collect();
    let id = queued_as(&reply.lines[0]);
    assert_eq!(rows[1], format!("{id}|a b|x y|v@ours.test"));
    assert!(rows[0].ends_with("|a b|x y|w@ours.test"));
}

#[test]
fn postgres_store_refuses_one_mail_of_a_batch_and_saves_the_others() {
    let database = Postgres::start();
    let folder = TempDir::new().expect("a temporary folder");
    let example = postgres_store(&folder, &database);
    database.sql(
        "ALTER TABLE new_mail ADD CHECK (subject <> 'invalid');
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no space' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON new_mail FOR EACH ROW WHEN (NEW.subject = 'full') EXECUTE FUNCTION fail()",
    );
    // Each of the two writers waits for the lock with one mail. Each begins its next batch with one of the queued mails and
    // adds what is in the queue then, so the last mails share a batch with others.
    let deliver_as_batch = |subjects: &[&str]| -> Vec<String> {
        let lock = database.lock_table();
        let mut clients: Vec<Client> = subjects.iter().map(|_| example.client()).collect();
        for (number, (client, subject)) in clients.iter_mut().zip(subjects).enumerate() {
            client.begin_data("a@client.test", "u@ours.test");
            client.send(stuffed(&short_mail(subject)));
            if number < WRITERS {
                wait_for("a writer to wait for the lock", || {
                    let waiting = database.sql("SELECT count(*) FROM pg_locks WHERE NOT granted");
                    (waiting.trim() == (number + 1).to_string()).then_some(())
                });
            }
        }
        // The last mails are queued when every thread of the example sleeps.
        wait_until_threads_are(example.child.id(), 'S');
        drop(lock);
        let replies = clients.iter_mut().map(|client| client.read_reply());
        replies
            .map(|reply| reply.expect("a reply").text()[..9].to_owned())
            .collect()
    };

    let replies = deliver_as_batch(&["1", "2", "3", "4", "5", "6"]);
    assert_eq!(replies, ["250 2.0.0"; 6]);
    let have_batch = "SELECT count(DISTINCT xmin::text) < count(*) FROM new_mail";
    assert_eq!(
        database.sql(have_batch),
        "t\n",
        "fewer transactions than rows"
    );
    let replies = deliver_as_batch(&["7", "8", "9", "10", "11", "invalid"]);
    let (saved, refused) = ("250 2.0.0", "451 4.3.0");
    assert_eq!(replies, [saved, saved, saved, saved, saved, refused]);
    let replies = deliver_as_batch(&["12", "13", "full"]);
    assert_eq!(replies, [saved, saved, "452 4.3.1"]);
    let subjects =
        database.sql("SELECT string_agg(subject, ' ' ORDER BY subject::int) FROM new_mail");
    assert_eq!(subjects, "1 2 3 4 5 6 7 8 9 10 11 12 13\n");
}

#[test]
fn postgres_store_loses_no_acknowledged_mail_when_the_database_is_killed() {
    let mut database = Postgres::start();
    let folder = TempDir::new().expect("a temporary folder");
    let example = postgres_store(&folder, &database);
    let load = Load::start(example.address, 8, "kill");
    load.wait_for(100);
    database.kill();
    let content = short_mail("deferred");
    let reply = example
        .client()
        .deliver("a@client.test", "u@ours.test", &content);
    assert_eq!(reply.code, 451);
    database.run();
    load.wait_for_more(100);
    let account = load.stop();
    let mut stored: HashMap<String, usize> = HashMap::new();
    for row in database
        .sql("SELECT subject, encode(mail, 'hex') FROM new_mail")
        .lines()
    {
        let (marker, body) = row.split_once('|').expect("two columns");
        assert_eq!(stored_content(body), content_of(marker).as_bytes());
        *stored.entry(marker.to_owned()).or_default() += 1;
    }
    assert_no_loss_or_duplicate(&account, &stored);
}

/// Starts the example with this database.
fn postgres_store(folder: &TempDir, database: &Postgres) -> Example {
    static BUILT: OnceLock<()> = OnceLock::new();
    // Not `--offline`: Cargo downloads the dependencies of this package if they are missing.
    BUILT.get_or_init(|| build(&["--manifest-path=examples/postgres-store/Cargo.toml"]));
    let mut program = Command::new(profile_folder().join("postgres-store"));
    Example::start(folder, program.args([FREE_PORT, &database.connection()]))
}

/// Returns the content in a value of column `mail`, which is in hexadecimal digits, without its trace fields.
fn stored_content(body: &str) -> Vec<u8> {
    let octets = (0..body.len()).step_by(2);
    let octets = octets.map(|at| u8::from_str_radix(&body[at..at + 2], 16));
    let body: Vec<u8> = octets
        .collect::<Result<_, _>>()
        .expect("hexadecimal digits");
    let mail = inflate(&body, 1 << 20).expect("a zlib stream");
    without_trace(&mail).to_vec()
}

/// A running example; dropping it kills the process.
struct Example {
    child: Child,
    address: SocketAddr,
    errors: PathBuf,
    /// Open, so that the program can write to it.
    _output: BufReader<ChildStdout>,
}

impl Example {
    /// Runs the command in a folder and waits until it prints its address.
    fn start(folder: &TempDir, command: &mut Command) -> Example {
        let errors = folder.path().join("stderr");
        let mut child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file for stderr"))
            .spawn()
            .expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        let address = line
            .strip_prefix("listening on ")
            .and_then(|address| address.trim_end().parse().ok());
        let Some(address) = address else {
            let errors = fs::read_to_string(errors);
            panic!("{line:?}, {errors:?}, {:?}", child.wait());
        };
        Example {
            child,
            address,
            errors,
            _output: output,
        }
    }

    /// Connects a client and reads the greeting.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.expect("220 ");
        client
    }

    /// Sends a signal and waits for the exit.
    fn stop(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a child");
        self.child.wait().expect("a child")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let errors = fs::read_to_string(&self.errors).unwrap_or_default();
            note!("---- stderr of the example\n{errors}");
        }
    }
}

/// Builds the examples at the first call; returns a command that runs one of them.
fn example(name: &str) -> Command {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&["--examples", "--offline"]));
    Command::new(profile_folder().join("examples").join(name))
}

/// Runs `cargo build` in the target folder and with the profile of the program under test.
fn build(arguments: &[&str]) {
    let profile_folder = profile_folder();
    let is_release = profile_folder.ends_with("release");
    // Cargo sets the variable for the tests that it runs.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--locked", "--target-dir"])
        .arg(profile_folder.parent().expect("a target folder"))
        .args(is_release.then_some("--release"))
        .args(arguments)
        .output()
        .expect("cargo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

fn profile_folder() -> &'static Path {
    Path::new(binary()).parent().expect("a folder of programs")
}

/// Returns the mail id in the reply to the final dot.
fn queued_as(reply: &str) -> &str {
    let id = reply.strip_prefix("250 2.0.0 OK : queued as ");
    id.unwrap_or_else(|| panic!("not saved: {reply}"))
}

/// Returns the names of the files in a subfolder.
fn files(folder: &TempDir, subfolder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join(subfolder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    names.map(|name| name.expect("ASCII")).collect()
}

/// The number of writers of postgres-store.
const WRITERS: usize = 2;
const FREE_PORT: &str = "127.0.0.1:0";
