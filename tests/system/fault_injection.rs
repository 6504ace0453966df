//! Fault injection: makes the first, second, third … system call of a kind fail until a run meets no fault.
//!
//! Each run checks that every 250 has its mail in the store, that the server neither crashes nor panics (or refuses to
//! start with exit status 1 and one line), and that it serves again after the fault. strace counts calls per thread, so
//! one run may meet a fault in several threads. GUERRILLA_TEST_ROUNDS limits the runs per kind; with 1000, as in `make
//! soak`, every kind ends with a run that met no fault.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use FaultsBegin::{AfterListening, AtProcessStart};

use testkit::load::{
    Account, PlainClient, assert_no_loss_or_duplicate, content_of, stored_markers,
};
use testkit::{
    assert_took, binary, note, test, under_strace, wait_for, wait_until_threads_are, write_config,
};

/// When strace starts to count calls and to inject the fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FaultsBegin {
    AtProcessStart,
    /// Faults during the start would hide those that another thread meets later.
    AfterListening,
}

#[test]
fn no_mail_is_lost_if_every_nth_fsync_fails() {
    fail_each_nth_call(AtProcessStart, "fsync,fdatasync", "EIO", &[]);
    fail_each_nth_call(AfterListening, "fsync,fdatasync", "EIO", &[]);
}

#[test]
fn no_mail_is_lost_if_every_nth_write_to_the_sqlite_file_fails() {
    fail_each_nth_call(AtProcessStart, "pwrite64", "ENOSPC", &[]);
    fail_each_nth_call(AfterListening, "pwrite64", "EIO", &[]);
}

#[test]
fn no_mail_is_lost_if_every_nth_write_to_the_log_or_a_socket_fails() {
    fail_each_nth_call(AtProcessStart, "write", "EIO", &[]);
    fail_each_nth_call(AtProcessStart, "sendto", "ENOBUFS", &[]);
}

#[test]
fn no_mail_is_lost_if_every_nth_open_of_a_server_file_fails() {
    // Only files of the server: the dynamic loader opens files before the program starts.
    let files = ["goguerrilla.conf", "log", DATABASE, WAL, SHARED_MEMORY];
    fail_each_nth_call(AtProcessStart, "openat", "EMFILE", &files);
}

#[test]
fn no_mail_is_lost_if_every_nth_accept_fails() {
    for error in ["EMFILE", "ECONNABORTED"] {
        fail_each_nth_call(AtProcessStart, "accept4", error, &[]);
    }
}

#[test]
fn no_mail_is_lost_if_every_nth_thread_start_fails() {
    fail_each_nth_call(AtProcessStart, "clone3", "EAGAIN", &[]);
    fail_each_nth_call(AfterListening, "clone3", "EAGAIN", &[]);
}

#[test]
fn client_is_greeted_only_after_each_other_thread_has_started() {
    // A client that is greeted earlier loses its connection if one of the other threads cannot be started.
    let slow_starts = [
        "-e",
        "trace=clone3",
        "-e",
        "inject=clone3:delay_enter=200000",
    ];
    let settings = [
        ("GM_STATUS_INTERFACE", "127.0.77.1:0"),
        ("GM_KEEP_DAYS", "1"),
        ("NGINX_AUTH_ENABLED", "Y"),
        ("NGINX_AUTH", "127.0.77.1:0"),
    ];
    let run = Run::start(under_strace(&slow_starts), &settings).expect("a start without a fault");
    let names = run.thread_names();
    let count = |name| names.iter().filter(|found| *found == name).count();
    for name in ["server", "deadlines", "retention", "status"] {
        assert_eq!(count(name), 1, "{name}: {names:?}");
    }
    // Of the status endpoints and of auth_http.
    assert_eq!(count("http"), 2, "{names:?}");
    run.stop_and_check_store(&Account::default());
}

#[test]
fn no_mail_is_lost_if_every_nth_mmap_of_the_shared_memory_file_fails() {
    fail_each_nth_call(AtProcessStart, "mmap", "ENOMEM", &[SHARED_MEMORY]);
    // Mappings are not failed while the server serves: Rust's standard library aborts the process when a new thread
    // gets its stack but not the small signal stack. The address space test covers the other mappings.
}

#[test]
fn address_space_limit_of_any_size_loses_no_mail() {
    // Larger steps keep the default run short.
    let (times, sizes_to_try) = match env::var("GUERRILLA_TEST_ROUNDS") {
        Ok(_) => (1.2, 60),
        Err(_) => (8.0, MAX_SIZES),
    };
    let mut room = 0;
    for round in 0..sizes_to_try {
        let large = [("GSMTP_MAX_SIZE", "160000000")];
        let mut run = Run::start(|program| program, &large).expect("a start without a limit");
        let mut account = Account::default();
        deliver(&mut account, run.address, "before");
        // Rust's standard library ends the process if a new thread gets its stack but not the memory for its signal stack.
        wait_until_threads_are(run.child.id(), 'S');
        run.limit_memory(Some(run.mapped_octets() + room));
        // An arena of the C library has 64 MiB mapped from its start, and two arenas can serve one thread.
        let sizes = [0, 300_000, 3_000_000, 10, 35_000_000, 150_000_000];
        for octets in sizes {
            deliver(&mut account, run.address, &format!("within +{octets}"));
        }
        run.limit_memory(None);
        run.assert_serves_again(&mut account);
        run.stop_and_check_store(&account);
        // The mails delivered before the limit and after it also count.
        if account.acknowledged.len() == sizes.len() + 2 {
            note!("{room} octets above the mapped memory: every mail is saved");
            assert!(round > 0, "no run met its limit");
            return;
        }
        room = ((room as f64 * times) as u64).max(1 << 20);
    }
    panic!("{room} octets above the mapped memory are not enough");
}

#[test]
fn full_disk_of_any_size_loses_no_mail() {
    testkit::needs_root();
    let mut kibibytes = 4;
    let mut refused = 0;
    for _ in 0..MAX_SIZES {
        let script = format!("mount -t tmpfs -o size={kibibytes}k tmpfs small && exec \"$@\"");
        let on_small_disk = |program: Command| {
            let mut unshare = testkit::command("unshare");
            unshare.args(["-m", "sh", "-c", &script, "sh"]);
            unshare.arg(program.get_program()).args(program.get_args());
            unshare
        };
        let settings = [
            ("GM_SQLITE_FILE", "small/goguerrilla.db"),
            ("GSMTP_MAX_SIZE", "40000000"),
        ];
        match Run::start(on_small_disk, &settings) {
            Err(_refused) => refused += 1,
            Ok(mut run) => {
                let mut account = Account::default();
                for number in 0..10 {
                    deliver(&mut account, run.address, &format!("small {number} +20000"));
                }
                let saved = account.acknowledged.len();
                run.grow_disk();
                run.assert_serves_again(&mut account);
                let stored = stored_markers(&run.copy_from_disk());
                assert_no_loss_or_duplicate(&account, &stored);
                run.stops();
                if saved == 10 {
                    note!("{kibibytes} KiB are enough; {refused} starts failed with less");
                    return;
                }
            }
        }
        kibibytes *= 2;
    }
    panic!("{kibibytes} KiB are not enough");
}

/// Fails the first matching call of each thread, then the second, and so on. If `files` is not empty, only calls on
/// these files count.
fn fail_each_nth_call(counted: FaultsBegin, calls: &str, error: &str, files: &[&str]) {
    if counted == AfterListening {
        // Only root may attach strace to a running process.
        testkit::needs_root();
    }
    let later = match counted {
        AtProcessStart => "",
        AfterListening => " after the server listens",
    };
    let mut refused = 0;
    let started_at = Instant::now();
    for nth in 1..=rounds() {
        let mut account = Account::default();
        let (folder, fault_was_injected) =
            match run_with_nth_call_failing(counted, calls, error, files, nth, &mut account) {
                Ok(run) => {
                    let fault_was_injected = run.fault_was_injected();
                    (run.stop_and_check_store(&account), fault_was_injected)
                }
                Err(folder) => {
                    refused += 1;
                    (folder, true)
                }
            };
        if !fault_was_injected {
            assert!(nth > 1, "no {calls} call failed");
            note!(
                "{calls} {error}{later}: all {} calls, {refused} starts failed",
                nth - 1
            );
            return;
        }
        // A new start copes with any files that the faulty run left.
        let mut again =
            Run::start_in(folder, |program| program, &[]).expect("a start without a fault");
        again.assert_serves_again(&mut account);
        again.stop_and_check_store(&account);
        if started_at.elapsed() > time_limit() {
            break;
        }
    }
    note!("{calls} {error}{later}: the first calls, {refused} starts failed");
}

/// Runs the server until the `nth` call of each thread has failed. Returns the folder instead if the server refused to
/// start.
fn run_with_nth_call_failing(
    counted: FaultsBegin,
    calls: &str,
    error: &str,
    files: &[&str],
    nth: usize,
    account: &mut Account,
) -> Result<Run, TempDir> {
    let folder = TempDir::new().expect("a temporary folder");
    let inject = format!("inject={calls}:error={error}:when={nth}");
    let trace = format!("trace={calls}");
    let mut arguments = vec!["-e".to_owned(), trace, "-e".to_owned(), inject];
    for file in files {
        // SQLite opens absolute paths; the server opens the paths of the configuration.
        let of_sqlite = folder.path().join(file);
        arguments.extend(["-P".to_owned(), (*file).to_owned()]);
        arguments.extend(["-P".to_owned(), of_sqlite.to_string_lossy().into_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut run = match counted {
        AtProcessStart => Run::start_in(folder, under_strace(&arguments), &[])?,
        AfterListening => {
            let mut run = Run::start_in(folder, |program| program, &[])?;
            run.attach_strace(&arguments);
            run
        }
    };
    // Concurrent connections make the server start further threads.
    let held: Vec<_> = (0..4).map(|_| PlainClient::connect(run.address)).collect();
    for number in 0..4 {
        deliver(account, run.address, &format!("mail {number}"));
    }
    drop(held);
    if calls == "write" {
        // The log is buffered before it is written.
        wait_for("a write of the log to return", || {
            has_returned_call(&run.trace(), calls).then_some(())
        });
    }
    run.end_strace();
    run.assert_serves_again(account);
    Ok(run)
}

/// A server on a port that is chosen in advance, so that the test does not need its log to find the port. Dropping it
/// kills the process.
struct Run {
    child: Child,
    address: SocketAddr,
    folder: Option<TempDir>,
    /// The strace process, if it was attached to the running server.
    strace: Option<Child>,
}

impl Run {
    fn start(
        around: impl FnOnce(Command) -> Command,
        settings: &[(&str, &str)],
    ) -> Result<Run, TempDir> {
        let folder = TempDir::new().expect("a temporary folder");
        Run::start_in(folder, around, settings)
    }

    /// Starts the server and waits until it greets. Returns the folder if the server refused to start with exit status
    /// 1 and one line.
    fn start_in(
        folder: TempDir,
        around: impl FnOnce(Command) -> Command,
        settings: &[(&str, &str)],
    ) -> Result<Run, TempDir> {
        // No other test binds ports of this loopback address.
        let listener = TcpListener::bind("127.0.77.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        drop(listener);
        let listen = address.to_string();
        let mut all = vec![
            ("GSTMP_LISTEN_INTERFACE", listen.as_str()),
            ("GSMTP_MAX_SIZE", "40000000"),
        ];
        all.extend(settings);
        write_config(folder.path(), &all);
        fs::create_dir_all(folder.path().join("small")).expect("a folder");
        let mut program = Command::new(binary());
        program.arg("-config=goguerrilla.conf");
        let errors = File::create(folder.path().join("stderr")).expect("a file");
        let child = around(program)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("the program starts");
        let mut run = Run {
            child,
            address,
            folder: Some(folder),
            strace: None,
        };
        let ended = wait_for("the server to listen or to end", || {
            if let Some(status) = run.child.try_wait().expect("a child process") {
                return Some(Some(status));
            }
            // The server listens before it opens its store and greets only after that.
            PlainClient::connect(address).is_ok().then_some(None)
        });
        let Some(status) = ended else {
            return Ok(run);
        };
        let output_text = run.stderr();
        assert_eq!(status.code(), Some(1), "{status}: {output_text}");
        assert_eq!(output_text.lines().count(), 1, "{output_text}");
        Err(run.folder.take().expect("the folder was not taken yet"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder
            .as_ref()
            .expect("the folder was not taken yet")
            .path()
            .join(name)
    }

    fn stderr(&self) -> String {
        let output_text = fs::read_to_string(self.path("stderr")).expect("the stderr file");
        // Skips what strace prints about its -P options.
        let ours = output_text
            .lines()
            .filter(|line| !line.starts_with("strace: "));
        ours.map(|line| format!("{line}\n")).collect()
    }

    fn trace(&self) -> String {
        fs::read_to_string(self.path("trace")).expect("a trace")
    }

    fn fault_was_injected(&self) -> bool {
        self.trace().contains("INJECTED")
    }

    /// Attaches strace to the running server.
    fn attach_strace(&mut self, arguments: &[&str]) {
        let strace = testkit::command("strace")
            .args([
                "-f",
                "-qq",
                "-o",
                "trace",
                "-p",
                &self.child.id().to_string(),
            ])
            .args(arguments)
            .current_dir(self.path(""))
            .spawn();
        self.strace = Some(strace.expect("strace is installed"));
        wait_for("strace to follow each thread", || {
            let tracers = self.tracers();
            tracers.iter().all(|tracer| *tracer != 0).then_some(())
        });
    }

    /// Kills strace; the server continues without it.
    fn end_strace(&mut self) {
        let tracer = self.tracers()[0];
        assert_ne!(tracer, 0, "the server ended: {}", self.stderr());
        // With -D strace ignores other signals.
        kill(Pid::from_raw(tracer), Signal::SIGKILL).expect("the server runs");
        if let Some(mut strace) = self.strace.take() {
            strace.wait().expect("a child process");
        }
        wait_for("strace to end", || {
            self.tracers()
                .iter()
                .all(|tracer| *tracer == 0)
                .then_some(())
        });
    }

    /// Returns the process id that traces each thread of the server, 0 for none.
    fn tracers(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let statuses = tasks.expect("the server runs").filter_map(|task| {
            // A thread may end at any moment.
            fs::read_to_string(task.ok()?.path().join("status")).ok()
        });
        let tracers = statuses.filter_map(|status| {
            let mut lines = status.lines();
            let tracer = lines.find_map(|line| line.strip_prefix("TracerPid:"))?;
            tracer.trim().parse().ok()
        });
        tracers.collect()
    }

    /// Returns the names of the server's threads.
    fn thread_names(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let names = tasks.expect("the server runs").filter_map(|task| {
            // A thread may end at any moment.
            fs::read_to_string(task.ok()?.path().join("comm")).ok()
        });
        names.map(|name| name.trim_end().to_owned()).collect()
    }

    /// Waits until a new client can deliver a mail.
    fn assert_serves_again(&mut self, account: &mut Account) {
        let goal = account.acknowledged.len() + 1;
        let mut attempt = 0;
        wait_for("a mail to be saved", || {
            let ended = self.child.try_wait().expect("a child process");
            assert_eq!(ended, None, "{}", self.stderr());
            attempt += 1;
            let marker = format!("again {}-{attempt}", account.sent.len());
            deliver(account, self.address, &marker);
            (account.acknowledged.len() >= goal).then_some(())
        });
    }

    /// Stops the server and checks its store. Returns the folder, for another start.
    fn stop_and_check_store(mut self, account: &Account) -> TempDir {
        self.stops();
        assert_no_loss_or_duplicate(account, &stored_markers(&self.path(DATABASE)));
        self.folder.take().expect("the folder was not taken yet")
    }

    fn stops(&mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("the server runs");
        let status = wait_for("the server to end", || {
            self.child.try_wait().expect("a child process")
        });
        assert!(status.success(), "{status}: {}", self.stderr());
        assert!(!self.stderr().contains("panicked"), "{}", self.stderr());
    }

    fn mapped_octets(&self) -> u64 {
        let sizes = fs::read_to_string(format!("/proc/{}/statm", self.child.id()));
        let sizes = sizes.expect("the server runs");
        let pages: u64 = sizes
            .split(' ')
            .next()
            .and_then(|pages| pages.parse().ok())
            .expect("a figure");
        pages * 4_096
    }

    fn limit_memory(&self, octets: Option<u64>) {
        let octets = octets.map_or("unlimited".to_owned(), |octets| octets.to_string());
        let status = testkit::command("prlimit")
            .arg(format!("--pid={}", self.child.id()))
            .arg(format!("--as={octets}:"))
            .status();
        assert!(status.expect("prlimit is installed").success());
    }

    /// Copies the store's files from the server's mount namespace; nothing is being written meanwhile.
    fn copy_from_disk(&self) -> PathBuf {
        let small = self.path("small");
        let root = format!("/proc/{}/root", self.child.id());
        for name in [DATABASE, WAL] {
            let seen = format!("{root}{}", small.join(name).display());
            fs::copy(seen, self.path(name)).expect("a file of the store");
        }
        self.path(DATABASE)
    }

    fn grow_disk(&self) {
        let status = testkit::command("nsenter")
            .args(["-m", "-t", &self.child.id().to_string()])
            .args(["mount", "-o", "remount,size=64m"])
            .arg(self.path("small"))
            .status();
        assert!(status.expect("nsenter is installed").success());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for child in [Some(&mut self.child), self.strace.as_mut()]
            .into_iter()
            .flatten()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() && self.folder.is_some() {
            note!("---- stderr of the server\n{}", self.stderr());
            note!(
                "---- log of the server\n{}",
                fs::read_to_string(self.path("log")).unwrap_or_default()
            );
        }
    }
}

/// Delivers one mail on a new connection and records its outcome. Fails if that takes longer than ten times [`DELIVERY_TIME`].
fn deliver(account: &mut Account, address: SocketAddr, marker: &str) {
    let started_at = Instant::now();
    let outcome = attempt(account, address, marker);
    let marker = marker.to_owned();
    match outcome {
        Ok(250) => account.acknowledged.push(marker),
        Ok(code) => {
            assert!((400..500).contains(&code), "{code} for {marker}");
            account.deferred.push(marker);
        }
        // The connection may have ended with a 421 before the mail or been reset.
        Err(_) => account.unanswered.push(marker),
    }
    let took = started_at.elapsed();
    assert_took(took, DELIVERY_TIME);
}

/// The expected time of a delivery next to a fault: a retry of the writer, and 35 MB through an unoptimized server.
const DELIVERY_TIME: Duration = Duration::from_secs(6);

fn attempt(account: &mut Account, address: SocketAddr, marker: &str) -> io::Result<u16> {
    let mut client = PlainClient::connect(address)?;
    client.command("EHLO client.test\r\n", 250)?;
    client.command("MAIL FROM:<a@client.test>\r\n", 250)?;
    client.command("RCPT TO:<u@ours.test>\r\n", 250)?;
    client.command("DATA\r\n", 354)?;
    account.sent.push(marker.to_owned());
    client.send(content_of(marker).as_bytes())?;
    client.send(b".\r\n")?;
    client.read_code()
}

/// Whether `trace` has the result of a `call`. strace prints the call and its result in two lines if another thread
/// makes a call in between.
fn has_returned_call(trace: &str, call: &str) -> bool {
    let names = [format!(" {call}("), format!(" {call} resumed>")];
    trace
        .lines()
        .any(|line| names.iter().any(|name| line.contains(name)) && line.contains(") = "))
}

fn rounds() -> usize {
    env::var("GUERRILLA_TEST_ROUNDS")
        .map_or(20, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Returns the time limit for one kind of fault; there is none if GUERRILLA_TEST_ROUNDS is set.
fn time_limit() -> Duration {
    match env::var("GUERRILLA_TEST_ROUNDS") {
        Ok(_) => Duration::MAX,
        Err(_) => Duration::from_secs(20),
    }
}

const DATABASE: &str = "goguerrilla.db";
const WAL: &str = "goguerrilla.db-wal";
const SHARED_MEMORY: &str = "goguerrilla.db-shm";
/// How many sizes a test tries at most.
const MAX_SIZES: usize = 16;
