//! One fault at a time: the first, the second, the third … call of a kind fails, until a run ends that met no fault.
//!
//! Each time: no 250 without its mail in the store, no crash (the server lives, or has refused to start with exit status 1
//! and one line), and service once the fault is over. strace counts the calls of each thread apart, so that one run may
//! meet a fault in several threads. GOGUERRILLA_ROUNDS says how many runs of a kind there are at most; 1000 are enough for
//! all to end with a run that met none, as `make soak` has it.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use Counted::{FromTheStart, OnceItServes};

use crate::support::load::{Account, PlainClient, assert_promise_kept, content_of, stored_markers};
use crate::support::{BINARY, under_strace, wait_for, write_config};

/// From when on calls are counted, and fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    FromTheStart,
    /// What fails the start hides what would fail later in another thread.
    OnceItServes,
}

#[test]
fn a_sync_fails() {
    fail_one_call_after_the_other(FromTheStart, "fsync,fdatasync", "EIO", &[]);
    fail_one_call_after_the_other(OnceItServes, "fsync,fdatasync", "EIO", &[]);
}

#[test]
fn a_write_to_the_store_fails() {
    fail_one_call_after_the_other(FromTheStart, "pwrite64", "ENOSPC", &[]);
    fail_one_call_after_the_other(OnceItServes, "pwrite64", "EIO", &[]);
}

#[test]
fn a_write_to_the_log_or_a_socket_fails() {
    fail_one_call_after_the_other(FromTheStart, "write", "EIO", &[]);
    fail_one_call_after_the_other(FromTheStart, "sendto", "ENOBUFS", &[]);
}

#[test]
fn a_file_of_ours_cannot_be_opened() {
    // The loader's own files are left out, and with them what is no program of ours yet.
    let files = ["goguerrilla.conf", "log", DATABASE, WAL, SHARED_MEMORY];
    fail_one_call_after_the_other(FromTheStart, "openat", "EMFILE", &files);
}

#[test]
fn an_accept_fails() {
    for error in ["EMFILE", "ECONNABORTED"] {
        fail_one_call_after_the_other(FromTheStart, "accept4", error, &[]);
    }
}

#[test]
fn a_thread_cannot_be_started() {
    fail_one_call_after_the_other(FromTheStart, "clone3", "EAGAIN", &[]);
    fail_one_call_after_the_other(OnceItServes, "clone3", "EAGAIN", &[]);
}

#[test]
fn memory_cannot_be_mapped() {
    fail_one_call_after_the_other(FromTheStart, "mmap", "ENOMEM", &[SHARED_MEMORY]);
    // Not each mapping of a server that serves: Rust's library ends a process whose new thread has got its stack and then
    // not the small one for signals. The test of the address space meets what comes before that.
}

#[test]
fn the_address_space_ends_at_any_size() {
    // In larger steps where the time is short.
    let (times, sizes_to_try) = match env::var("GOGUERRILLA_ROUNDS") {
        Ok(_) => (1.2, 60),
        Err(_) => (8.0, MOST_SIZES),
    };
    let mut room = 0;
    for round in 0..sizes_to_try {
        let mut run = Run::start(|program| program, &[]).expect("nothing is wrong yet");
        let mut account = Account::default();
        deliver(&mut account, run.address, "before");
        run.limit_memory(Some(run.mapped_octets() + room));
        let sizes = [0, 300_000, 3_000_000, 10, 35_000_000];
        for octets in sizes {
            deliver(&mut account, run.address, &format!("within +{octets}"));
        }
        run.limit_memory(None);
        run.serves_again(&mut account);
        run.ends_well(&account);
        // With the first and the last one.
        if account.acknowledged.len() == sizes.len() + 2 {
            println!("room for {room} octets: every mail is saved");
            assert!(round > 0, "no run met its limit");
            return;
        }
        room = ((room as f64 * times) as u64).max(1 << 20);
    }
    panic!("{room} octets more are not enough");
}

#[test]
fn the_disk_is_full_at_any_size() {
    if !geteuid().is_root() {
        println!("only root can mount a small disk");
        return;
    }
    let mut kibibytes = 4;
    let mut refused = 0;
    for _ in 0..MOST_SIZES {
        let script = format!("mount -t tmpfs -o size={kibibytes}k tmpfs small && exec \"$@\"");
        let on_small_disk = |program: Command| {
            let mut unshare = Command::new("unshare");
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
                run.serves_again(&mut account);
                let stored = stored_markers(&run.copy_from_disk());
                assert_promise_kept(&account, &stored);
                run.stops();
                if saved == 10 {
                    println!("{kibibytes} KiB are enough, with fewer {refused} refused to start");
                    return;
                }
            }
        }
        kibibytes *= 2;
    }
    panic!("{kibibytes} KiB are not enough");
}

/// Fails the first call in each thread, the second, and so on; calls that concern `files` if any are named.
fn fail_one_call_after_the_other(counted: Counted, calls: &str, error: &str, files: &[&str]) {
    if counted == OnceItServes && !geteuid().is_root() {
        println!("only root can trace what runs already");
        return;
    }
    let later = match counted {
        FromTheStart => "",
        OnceItServes => " once it serves",
    };
    let mut refused = 0;
    let started_at = Instant::now();
    for nth in 1..=rounds() {
        let mut account = Account::default();
        let (folder, has_struck) = match one_fault(counted, calls, error, files, nth, &mut account)
        {
            Ok(run) => {
                let has_struck = run.has_struck();
                (run.ends_well(&account), has_struck)
            }
            Err(folder) => {
                refused += 1;
                (folder, true)
            }
        };
        if !has_struck {
            assert!(nth > 1, "{calls} was never met");
            println!(
                "{calls} {error}{later}: all of {} calls, {refused} refused to start",
                nth - 1
            );
            return;
        }
        // Whatever the fault has left behind, a new start finds its way.
        let mut again = Run::start_in(folder, |program| program, &[]).expect("nothing is wrong");
        again.serves_again(&mut account);
        again.ends_well(&account);
        if started_at.elapsed() > most_time() {
            break;
        }
    }
    println!("{calls} {error}{later}: the first calls, {refused} refused to start");
}

/// A run in which the `nth` call of each thread fails, up to when the fault is over; its folder if it refused to start.
fn one_fault(
    counted: Counted,
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
        // SQLite uses absolute paths, we use what the configuration says.
        let of_sqlite = folder.path().join(file);
        arguments.extend(["-P".to_owned(), (*file).to_owned()]);
        arguments.extend(["-P".to_owned(), of_sqlite.to_string_lossy().into_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut run = match counted {
        FromTheStart => Run::start_in(folder, under_strace(&arguments), &[])?,
        OnceItServes => {
            let mut run = Run::start_in(folder, |program| program, &[])?;
            run.attach_strace(&arguments);
            run
        }
    };
    // Those at once need threads of their own.
    let held: Vec<_> = (0..4).map(|_| PlainClient::connect(run.address)).collect();
    for number in 0..4 {
        deliver(account, run.address, &format!("mail {number}"));
    }
    drop(held);
    if calls == "write" {
        // Lines of the log wait for company first.
        wait_for("the log to be written", || {
            run.trace().contains("write(").then_some(())
        });
    }
    run.end_strace();
    run.serves_again(account);
    Ok(run)
}

/// A server on a port that is known before, so that nothing depends on its log; ended with the test.
struct Run {
    child: Child,
    address: SocketAddr,
    folder: Option<TempDir>,
    /// One that was attached later.
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

    /// Waits until it listens. The folder if it has refused to, with exit status 1 and one line.
    fn start_in(
        folder: TempDir,
        around: impl FnOnce(Command) -> Command,
        settings: &[(&str, &str)],
    ) -> Result<Run, TempDir> {
        // An address where no other test asks the kernel for a port.
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
        let mut program = Command::new(BINARY);
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
            if let Some(status) = run.child.try_wait().expect("a child of ours") {
                return Some(Some(status));
            }
            // It listens before it has a store, and greets only then.
            PlainClient::connect(address).is_ok().then_some(None)
        });
        let Some(status) = ended else {
            return Ok(run);
        };
        let said = run.stderr();
        assert_eq!(status.code(), Some(1), "{status}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        Err(run.folder.take().expect("it is still there"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder
            .as_ref()
            .expect("it is still there")
            .path()
            .join(name)
    }

    fn stderr(&self) -> String {
        let said = fs::read_to_string(self.path("stderr")).expect("a file of ours");
        // strace tells how it understood -P.
        let ours = said.lines().filter(|line| !line.starts_with("strace: "));
        ours.map(|line| format!("{line}\n")).collect()
    }

    fn trace(&self) -> String {
        fs::read_to_string(self.path("trace")).expect("a trace")
    }

    fn has_struck(&self) -> bool {
        self.trace().contains("INJECTED")
    }

    /// Has strace follow what runs already.
    fn attach_strace(&mut self, arguments: &[&str]) {
        let strace = Command::new("strace")
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

    /// Ends strace; the server goes on without it.
    fn end_strace(&mut self) {
        let tracer = self.tracers()[0];
        assert_ne!(tracer, 0, "the server lives: {}", self.stderr());
        // With -D it takes no other signal.
        kill(Pid::from_raw(tracer), Signal::SIGKILL).expect("it runs");
        if let Some(mut strace) = self.strace.take() {
            strace.wait().expect("a child of ours");
        }
        wait_for("strace to end", || {
            self.tracers()
                .iter()
                .all(|tracer| *tracer == 0)
                .then_some(())
        });
    }

    /// Who follows each of its threads, 0 where nobody does.
    fn tracers(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let statuses = tasks.expect("the server lives").filter_map(|task| {
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

    /// A fresh client delivers a mail, perhaps not at the first attempt.
    fn serves_again(&mut self, account: &mut Account) {
        let goal = account.acknowledged.len() + 1;
        let mut attempt = 0;
        wait_for("service", || {
            let ended = self.child.try_wait().expect("a child of ours");
            assert_eq!(ended, None, "{}", self.stderr());
            attempt += 1;
            let marker = format!("again {}-{attempt}", account.sent.len());
            deliver(account, self.address, &marker);
            (account.acknowledged.len() >= goal).then_some(())
        });
    }

    /// Stops it and looks at what it has stored; the folder, for another start.
    fn ends_well(mut self, account: &Account) -> TempDir {
        self.stops();
        assert_promise_kept(account, &stored_markers(&self.path(DATABASE)));
        self.folder.take().expect("it is still there")
    }

    fn stops(&mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("it runs");
        let status = wait_for("the server to end", || {
            self.child.try_wait().expect("a child of ours")
        });
        assert!(status.success(), "{status}: {}", self.stderr());
        assert!(!self.stderr().contains("panicked"), "{}", self.stderr());
    }

    fn mapped_octets(&self) -> u64 {
        let sizes = fs::read_to_string(format!("/proc/{}/statm", self.child.id()));
        let sizes = sizes.expect("it runs");
        let pages: u64 = sizes
            .split(' ')
            .next()
            .and_then(|pages| pages.parse().ok())
            .expect("a figure");
        pages * 4_096
    }

    fn limit_memory(&self, octets: Option<u64>) {
        let octets = octets.map_or("unlimited".to_owned(), |octets| octets.to_string());
        let status = Command::new("prlimit")
            .arg(format!("--pid={}", self.child.id()))
            .arg(format!("--as={octets}:"))
            .status();
        assert!(status.expect("prlimit is installed").success());
    }

    /// The store's files while nothing is written; only the server sees its disk.
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
        let status = Command::new("nsenter")
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
            eprintln!("---- its stderr\n{}", self.stderr());
            eprintln!(
                "---- its log\n{}",
                fs::read_to_string(self.path("log")).unwrap_or_default()
            );
        }
    }
}

/// One mail on a connection of its own, with a note of what became of it; whatever goes wrong has to show soon.
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
        // It may have been refused with a 421 before, or cut off.
        Err(_) => account.unanswered.push(marker),
    }
    let took = started_at.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

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

fn rounds() -> usize {
    env::var("GOGUERRILLA_ROUNDS").map_or(20, |rounds| rounds.parse().expect("a number of rounds"))
}

/// How long one kind of fault goes on; whoever asks for more rounds has the time.
fn most_time() -> Duration {
    match env::var("GOGUERRILLA_ROUNDS") {
        Ok(_) => Duration::MAX,
        Err(_) => Duration::from_secs(20),
    }
}

const DATABASE: &str = "goguerrilla.db";
const WAL: &str = "goguerrilla.db-wal";
const SHARED_MEMORY: &str = "goguerrilla.db-shm";
/// How often a size is doubled.
const MOST_SIZES: usize = 16;
