//! Starts the server on a free port and provides an SMTP client that checks the form of each reply.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpMaxSeg;
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::{TEST_TIMEOUT, binary, command, wait_for, wait_for_within};

/// Returns `bound` in a release build, such as `make soak` makes, and `unoptimised` in a debug build, which shares two
/// cores with other tests and servers.
pub const fn release_or_debug(bound: Duration, unoptimised: Duration) -> Duration {
    match cfg!(debug_assertions) {
        true => unoptimised,
        false => bound,
    }
}

/// A running server in a temporary folder; dropping it kills the process.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub folder: TempDir,
}

impl Server {
    /// Starts the server with these keys in addition to the test defaults: a free port, host name mx.test, primary mail
    /// host primary.test.
    pub fn start(settings: &[(&str, &str)]) -> Server {
        let folder = TempDir::new().expect("a temporary folder");
        Server::start_in(folder, settings)
    }

    /// Starts the server in an existing folder.
    pub fn start_in(folder: TempDir, settings: &[(&str, &str)]) -> Server {
        Server::start_with(folder, settings, |command| command)
    }

    /// Starts the server wrapped by another command, such as `prlimit`.
    pub fn start_with(
        folder: TempDir,
        settings: &[(&str, &str)],
        around: impl FnOnce(Command) -> Command,
    ) -> Server {
        write_config(folder.path(), settings);
        let (child, address) = spawn(folder.path(), around);
        Server {
            child,
            address,
            folder,
        }
    }

    /// Starts the server again in the same folder, on another port and with a new log.
    pub fn start_again(&mut self) {
        self.start_again_with(|command| command);
    }

    /// Starts the server again, wrapped by another command.
    pub fn start_again_with(&mut self, around: impl FnOnce(Command) -> Command) {
        let _ = fs::rename(self.path("log"), self.path("log.before"));
        (self.child, self.address) = spawn(self.folder.path(), around);
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects a client and reads the greeting.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.expect("220");
        client
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the log contains `text`, because the log is written after the replies, and returns the whole log.
    pub fn wait_for_log(&self, text: &str) -> String {
        wait_for(text, || Some(self.log()).filter(|log| log.contains(text)))
    }

    /// Returns the path of a file in the server's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the server runs");
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the server exits.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for_within("the server to end", Duration::from_secs(60), || {
            self.child.try_wait().expect("a child process")
        })
    }

    /// Runs a command of the program in the server's folder. Returns its standard output, or its standard error if it
    /// failed.
    pub fn command(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        run_in(self.folder.path(), arguments)
    }

    /// Runs `check`; returns whether it succeeded, and its output.
    pub fn check(&self) -> (bool, String) {
        let output = Command::new(binary())
            .args(["check", "-config=goguerrilla.conf"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).expect("UTF-8");
        (output.status.success(), text)
    }

    /// Returns the log and the standard error.
    pub fn output(&self) -> String {
        self.log() + &fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// Delivers a mail with each subject concurrently. Returns each reply and the time from final dot to reply.
    pub fn deliver_at_once(&self, subjects: &[String]) -> Vec<(Reply, Duration)> {
        thread::scope(|scope| {
            let threads: Vec<_> = subjects
                .iter()
                .map(|subject| {
                    scope.spawn(move || {
                        let mut client = self.client();
                        client.begin_data("a@client.test", "u@ours.test");
                        client.send_content(&short_mail(subject))
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a reply to each"))
                .collect()
        })
    }

    /// Returns every stored mail, newest first, as printed by `list --json`.
    pub fn list(&self) -> Vec<serde_json::Value> {
        let json = self.command(&[
            "list",
            "-config=goguerrilla.conf",
            "--limit=1000000",
            "--json",
        ]);
        serde_json::from_slice(&json.expect("list succeeds")).expect("a JSON array")
    }

    /// Returns the output of `show`.
    pub fn show(&self, hash: &str) -> Vec<u8> {
        self.command(&["show", hash, "-config=goguerrilla.conf"])
            .expect("show succeeds")
    }

    /// Returns the content of each stored mail, newest first, without its trace fields.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        let hash = |mail: &serde_json::Value| mail["hash"].as_str().expect("a hash").to_owned();
        let mails = self.list();
        mails
            .iter()
            .map(|mail| without_trace(&self.show(&hash(mail))).to_vec())
            .collect()
    }

    /// Sets a resource limit of the running server with prlimit, such as `--nofile=40:`.
    pub fn limit(&self, limit: &str) {
        let pid = format!("--pid={}", self.pid());
        let status = command("prlimit").args([&pid, limit]).status();
        assert!(status.expect("prlimit is installed").success(), "{limit}");
    }

    /// Returns the number of open descriptors.
    pub fn descriptors(&self) -> usize {
        self.count_in_proc("fd")
    }

    /// Returns the number of open sockets.
    pub fn sockets(&self) -> usize {
        let descriptors =
            fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs");
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let is_socket = |target: &PathBuf| target.to_string_lossy().starts_with("socket:");
        targets.filter(is_socket).count()
    }

    /// Returns the number of threads.
    pub fn threads(&self) -> usize {
        self.count_in_proc("task")
    }

    /// Waits until every thread of the server sleeps, for example in `recv` after a reply was sent.
    pub fn wait_until_idle(&self) {
        wait_until_threads_are(self.pid(), 'S');
    }

    /// Returns the number of threads whose name begins with `beginning`.
    pub fn threads_named(&self, beginning: &str) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the server runs");
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with(beginning)).count()
    }

    /// Returns the processor time that the server has used.
    pub fn processor_time(&self) -> Duration {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server runs");
        // Fields 14 and 15 are hundredths of a second. They are counted from the name in parentheses, which may contain
        // anything.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks
            .map(|field| field.parse::<u64>().expect("a figure"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    fn count_in_proc(&self, name: &str) -> usize {
        let entries = fs::read_dir(format!("/proc/{}/{name}", self.pid()));
        entries.expect("the server runs").count()
    }

    /// Returns a value of /proc/PID/status in KiB, such as `VmRSS`.
    pub fn status_kib(&self, name: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .expect("a known name");
        line.split_whitespace()
            .nth(1)
            .and_then(|figure| figure.parse().ok())
            .expect("a figure")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            crate::note!("---- log of the server\n{}", tail(&self.log()));
            crate::note!(
                "---- stderr of the server\n{}",
                fs::read_to_string(self.path("stderr")).unwrap_or_default()
            );
        }
    }
}

/// Starts the program in a folder and waits until it listens.
fn spawn(folder: &Path, around: impl FnOnce(Command) -> Command) -> (Child, SocketAddr) {
    let mut command = Command::new(binary());
    command.arg("-config=goguerrilla.conf");
    let mut command = around(command);
    let errors = File::create(folder.join("stderr")).expect("a file for stderr");
    let child = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .expect("the program starts");
    let log = folder.join("log");
    let address = wait_for("the server to listen", || {
        let log = fs::read_to_string(&log).ok()?;
        let line = log.lines().find(|line| {
            line.contains(" listening ") || line.contains("\"event\":\"listening\"")
        })?;
        let from_json = || {
            serde_json::from_str::<serde_json::Value>(line).ok()?["address"]
                .as_str()
                .map(str::to_owned)
        };
        value(line, "address").or_else(from_json)?.parse().ok()
    });
    (child, address)
}

/// Sends a signal to a process. Returns after SIGSTOP only when every thread has stopped: the kernel stops the others when
/// the first one runs, and until then they serve clients.
pub fn send_signal(process: u32, signal: Signal) {
    kill(Pid::from_raw(process as i32), signal).expect("a running process");
    if signal != Signal::SIGSTOP {
        return;
    }
    wait_until_threads_are(process, 'T');
}

/// Waits until every thread of a process is in this state of /proc/PID/stat: S sleeps, T is stopped.
pub fn wait_until_threads_are(process: u32, state: char) {
    wait_for("the state of every thread", || {
        let threads = fs::read_dir(format!("/proc/{process}/task")).expect("a running process");
        threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
            .all(|stat| {
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with(state))
            })
            .then_some(())
    });
}

/// Returns the last lines of a log.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Returns a wrapper that runs the program under strace with these arguments; the trace goes to the file `trace`.
///
/// The program keeps the process id that the test knows, and strace ends with it.
pub fn under_strace(arguments: &[&str]) -> impl FnOnce(Command) -> Command + use<> {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
    move |program| {
        let mut strace = command("strace");
        strace.args(["-D", "-f", "-qq", "-o", "trace"]);
        strace.args(arguments);
        strace.arg(program.get_program()).args(program.get_args());
        strace
    }
}

/// Returns a wrapper that runs the program under this umask.
pub fn with_umask(umask: &str) -> impl FnOnce(Command) -> Command + use<> {
    let script = format!("umask {umask}; exec \"$@\"");
    move |program| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(program.get_program());
        shell.args(program.get_args());
        shell
    }
}

/// Writes goguerrilla.conf with these keys in addition to the test defaults. With GM_HOLD_SECONDS 0 a test sees at once that
/// the store is unavailable; the tests of the hold set the key.
pub fn write_config(folder: &Path, settings: &[(&str, &str)]) {
    let mut config = serde_json::json!({
        "GSTMP_LISTEN_INTERFACE": "127.0.0.1:0",
        "GSMTP_HOST_NAME": "mx.test",
        "GM_PRIMARY_MAIL_HOST": "primary.test",
        "GSMTP_LOG_FILE": "log",
        "GM_STORE": "sqlite",
        "GM_HOLD_SECONDS": "0",
    });
    for (key, value) in settings {
        config[key] = (*value).into();
    }
    fs::write(folder.join("goguerrilla.conf"), config.to_string()).expect("a file is written");
}

/// Runs the program until it exits. Returns standard output, or standard error if it failed.
pub fn run_in(folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let output = Command::new(binary())
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Returns the unquoted value of `key=value` in a log line.
pub fn value(line: &str, key: &str) -> Option<String> {
    let start = line.find(&format!(" {key}="))? + key.len() + 2;
    let rest = &line[start..];
    if rest.starts_with('"') {
        return serde_json::Deserializer::from_str(rest)
            .into_iter::<String>()
            .next()?
            .ok();
    }
    rest.split(' ').next().map(str::to_owned)
}

/// Returns the content after Return-Path, Delivered-To and the three lines of Received.
pub fn without_trace(mail: &[u8]) -> &[u8] {
    let mut rest = mail;
    for _ in 0..5 {
        let end = rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .expect("five lines of trace");
        rest = &rest[end + 2..];
    }
    rest
}

/// An SMTP client that checks the form of each reply.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// A reply: its code and its lines without CR LF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub lines: Vec<String>,
}

impl Reply {
    /// Returns the lines, joined for comparison.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

impl Client {
    /// Connects without reading the greeting.
    pub fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).expect("the server accepts");
        Client::over(socket)
    }

    /// Makes a client from a connected socket.
    pub fn over(socket: TcpStream) -> Client {
        socket
            .set_read_timeout(Some(TEST_TIMEOUT))
            .expect("an open socket");
        socket.set_nodelay(true).expect("an open socket");
        Client {
            reader: BufReader::new(socket),
        }
    }

    /// Returns the socket.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends octets unchanged.
    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.socket()
            .write_all(octets.as_ref())
            .expect("the server reads");
    }

    /// Reads one reply and checks its form. Returns `None` at the end of the connection.
    pub fn read_reply(&mut self) -> Option<Reply> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let mut line = Vec::new();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => panic!("no reply came: {error}"),
            }
            if line.is_empty() && lines.is_empty() {
                return None;
            }
            let shown = line.escape_ascii().to_string();
            assert!(line.len() <= 512, "a reply line of {} octets", line.len());
            let line = line
                .strip_suffix(b"\r\n")
                .unwrap_or_else(|| panic!("no CR LF: {shown}"));
            assert!(
                line.iter().all(|octet| (32..127).contains(octet)),
                "unprintable: {shown}"
            );
            let line = String::from_utf8(line.to_vec()).expect("ASCII");
            let is_last = match line.as_bytes().get(3) {
                Some(b'-') => false,
                Some(b' ') => true,
                _ => panic!("neither hyphen nor space after the code: {shown}"),
            };
            if let Some(first) = lines.first() {
                assert_eq!(first[..3], line[..3], "two codes in one reply");
            }
            lines.push(line);
            if is_last {
                let code = lines[0][..3].parse().expect("three digits");
                return Some(Reply { code, lines });
            }
        }
    }

    /// Reads a reply that must start with `beginning`.
    pub fn expect(&mut self, beginning: &str) -> Reply {
        let reply = self
            .read_reply()
            .unwrap_or_else(|| panic!("closed instead of {beginning}"));
        let text = reply.text();
        assert!(
            text.starts_with(beginning),
            "expected {beginning}, but found {text}"
        );
        reply
    }

    /// Sends a line with CR LF and reads a reply that must start with `beginning`.
    pub fn command(&mut self, line: &str, beginning: &str) -> Reply {
        self.send(format!("{line}\r\n"));
        self.expect(beginning)
    }

    /// Asserts that the connection ends without another reply.
    pub fn expect_close(&mut self) {
        if let Some(reply) = self.read_reply() {
            panic!("expected the end, but found {}", reply.text());
        }
    }

    /// Asserts that the server sends nothing for this time.
    pub fn expect_silence(&mut self, for_how_long: Duration) {
        assert!(
            self.reader.buffer().is_empty(),
            "the server has already sent something"
        );
        self.socket()
            .set_read_timeout(Some(for_how_long))
            .expect("an open socket");
        // A socket with a time-out is not read again by itself after a stop and a continuation (signal(7)).
        let outcome = loop {
            match self.reader.get_mut().read(&mut [0; 512]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        self.socket()
            .set_read_timeout(Some(TEST_TIMEOUT))
            .expect("an open socket");
        match outcome {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            other => panic!("expected silence, but found {other:?}"),
        }
    }

    /// Sends a whole transaction with one recipient and returns the reply to the final dot.
    pub fn deliver(&mut self, from: &str, to: &str, content: &[u8]) -> Reply {
        self.command("EHLO client.test", "250");
        self.command(&format!("MAIL FROM:<{from}>"), "250 2.1.0");
        self.command(&format!("RCPT TO:<{to}>"), "250 2.1.5");
        self.command("DATA", "354 ");
        self.send(stuffed(content));
        self.read_reply().expect("a reply to the final dot")
    }

    /// Sends EHLO, then MAIL, RCPT and DATA in one write, then the content with QUIT. Returns the text of the reply to
    /// the final dot.
    pub fn deliver_pipelined(&mut self, content: &[u8]) -> String {
        self.command("EHLO client.test", "250");
        self.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n");
        for reply in ["250 ", "250 ", "354 "] {
            self.expect(reply);
        }
        self.send([&stuffed(content)[..], b"QUIT\r\n"].concat());
        let reply = self.read_reply().expect("a reply to the final dot");
        self.expect("221 ");
        reply.text()
    }

    /// Sends the commands up to DATA and reads the 354.
    pub fn begin_data(&mut self, from: &str, to: &str) {
        self.command("EHLO client.test", "250");
        self.command(&format!("MAIL FROM:<{from}>"), "250 2.1.0");
        self.command(&format!("RCPT TO:<{to}>"), "250 2.1.5");
        self.command("DATA", "354 ");
    }

    /// Sends the content and the final dot. Returns the reply and the time it took.
    pub fn send_content(&mut self, content: &[u8]) -> (Reply, Duration) {
        let wire = stuffed(content);
        let started_at = Instant::now();
        self.send(wire);
        let reply = self.read_reply().expect("a reply to the final dot");
        (reply, started_at.elapsed())
    }

    /// Sets the time limit for replies, if the server may take longer than [`TEST_TIMEOUT`].
    pub fn set_reply_timeout(&self, for_how_long: Duration) {
        self.socket()
            .set_read_timeout(Some(for_how_long))
            .expect("an open socket");
    }

    /// Shuts down the sending side of the connection.
    pub fn finish_sending(&mut self) {
        self.socket()
            .shutdown(Shutdown::Write)
            .expect("an open socket");
    }
}

/// Connects with small socket buffers: Linux sizes them by the segments, which are large on loopback.
pub fn connect_with_small_buffers(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    setsockopt(&socket, TcpMaxSeg, &536)?;
    socket.set_recv_buffer_size(4_096)?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Returns a mail of a few lines.
pub fn short_mail(subject: &str) -> Vec<u8> {
    format!("Subject: {subject}\r\n\r\nBody of {subject}.\r\n").into_bytes()
}

/// Returns incompressible octets, the same each time, that end in CR LF.
pub fn incompressible(octets: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(octets - 2)
    .collect();
    content.extend_from_slice(b"\r\n");
    content
}

/// Returns the content with dot-stuffing and the end-of-data line. The content must end in CR LF or be empty.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 16);
    let mut at_line_start = true;
    for (index, octet) in content.iter().enumerate() {
        if at_line_start && *octet == b'.' {
            wire.push(b'.');
        }
        wire.push(*octet);
        at_line_start = *octet == b'\n' && index > 0 && content[index - 1] == b'\r';
    }
    assert!(at_line_start, "content has to end in CR LF");
    wire.extend_from_slice(b".\r\n");
    wire
}
