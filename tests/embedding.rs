//! Servers inside this process, through the public API alone. Runs with every combination of features.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use goguerrilla::{
    Config, ConfigBuilder, Mail, RecipientCheck, ReloadError, SaveError, SaveMail, SavedId, Server,
    ServerBuilder, ServerHandle, StartError,
};
use lettre::address::Envelope;
use lettre::{SmtpTransport, Transport};
use testkit::{AT_ONCE, assert_took, wait_for};

/// Time after which a wait counts as failed.
const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn two_servers_in_one_process_share_nothing() {
    let _alone = serialize();
    let first = Running::start(config().allowed_hosts(["first.test"]));
    let second = Running::start(config().allowed_hosts(["second.test"]));
    assert_ne!(first.address, second.address);
    for number in 0..3 {
        let subject = format!("mail {number}");
        first.send("u@first.test", &subject).expect("accepted");
        assert_eq!(first.next_subject(), subject);
    }
    second.send("u@second.test", "other").expect("accepted");
    assert_eq!(second.next_subject(), "other");
    second.send("u@first.test", "denied").expect_err("relay");
    let saved = |server: &Running| server.handle.metrics().mails_saved;
    assert_eq!((saved(&first), saved(&second)), (3, 1));
    let counted = "goguerrilla_mails_total{outcome=\"saved\"} 1\n";
    assert!(second.handle.metrics_text().contains(counted));
    first.stop();
    second.send("u@second.test", "still").expect("accepted");
    assert_eq!(second.next_subject(), "still");
    second.stop();
}

#[test]
fn reload_applies_to_new_connections_and_a_refused_one_changes_nothing() {
    let _alone = serialize();
    let server = Running::start(config().allowed_hosts(["old.test"]));
    let new = config().allowed_hosts(["new.test"]);
    let handle = server.handle.clone();
    let reloaded = thread::spawn(move || handle.reload(new.build().expect("valid values")));
    reloaded.join().expect("no panic").expect("applied");
    server.send("u@old.test", "old").expect_err("relay denied");
    server.send("u@new.test", "new").expect("accepted");
    let refused = config().tls_files("missing.pem", "missing.key");
    let refused = refused.build().expect("valid values");
    let error = server.handle.reload(refused).expect_err("no such file");
    assert!(matches!(error, ReloadError::Start(StartError::Tls { .. })));
    let cause = std::error::Error::source(&error).expect("the error of the file system");
    assert!(cause.downcast_ref::<std::io::Error>().is_some(), "{cause}");
    assert!(!error.to_string().contains(&cause.to_string()), "{error}");
    server.send("u@new.test", "new").expect("accepted");
    let handle = server.stop();
    let error = handle.reload(Config::default()).expect_err("stopped");
    assert!(matches!(error, ReloadError::Stopped));
}

#[test]
fn domains_of_a_file_are_loaded_when_the_server_is_bound_and_at_a_reload() {
    let _alone = serialize();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("domains");
    let item = format!("@{}", file.display());
    let with_file = || config().allowed_hosts(["inline.test", &item]);
    let error = builder(with_file(), mpsc::channel().0).bind();
    let error = error.expect_err("no such file");
    assert!(
        matches!(error, StartError::ConfiguredFile { .. }),
        "{error}"
    );

    fs::write(&file, "old.test # the first\n").expect("a file is written");
    let server = Running::start(with_file());
    assert_eq!(server.handle.metrics().allowed_hosts, 2);
    server.send("u@inline.test", "inline").expect("accepted");
    server.send("u@old.test", "old").expect("accepted");
    fs::write(&file, "a b\n").expect("a file is written");
    let new = with_file().build().expect("valid values");
    let error = server
        .handle
        .reload(new.clone())
        .expect_err("an invalid line");
    assert!(error.to_string().contains(" line 1: expected "), "{error}");
    server.send("u@old.test", "old").expect("accepted");
    fs::write(&file, "new.test\n").expect("a file is written");
    server.handle.reload(new).expect("applied");
    server.send("u@old.test", "old").expect_err("relay denied");
    server.send("u@new.test", "new").expect("accepted");
    server.stop();
}

#[test]
fn mails_are_saved_while_the_configuration_is_reloaded_again_and_again() {
    let _alone = serialize();
    let server = Running::start(config());
    let (address, handle) = (server.address, server.handle.clone());
    let sending = thread::spawn(move || {
        for number in 0..100 {
            let sent = send(address, "u@ours.test", &format!("{number}"));
            sent.expect("accepted");
        }
    });
    let mut reloads = 0;
    while !sending.is_finished() {
        let config = config().max_clients(10 + reloads % 7);
        let reloaded = handle.reload(config.build().expect("valid values"));
        reloaded.expect("applied");
        reloads += 1;
    }
    sending.join().expect("every mail was accepted");
    assert_eq!(server.handle.metrics().mails_saved, 100);
    server.stop();
}

#[test]
fn server_that_is_dropped_before_it_runs_frees_its_port_and_its_threads() {
    let _alone = serialize();
    let (sender, _) = mpsc::channel();
    let server = builder(config(), sender).bind().expect("a free port");
    assert!(thread_count() > 0);
    let address = server.local_addrs()[0];
    let handle = server.handle();
    drop(server);
    TcpListener::bind(address).expect("the port is free");
    assert_eq!(handle.metrics().mails_saved, 0);
    wait_until("its threads have ended", || thread_count() == 0);
}

#[test]
fn shutdown_before_run_ends_run_at_once() {
    let _alone = serialize();
    let (sender, _) = mpsc::channel();
    let server = builder(config(), sender).bind().expect("a free port");
    server.handle().shutdown();
    let started_at = Instant::now();
    server.run().expect("threads");
    assert_took(started_at.elapsed(), AT_ONCE);
}

#[test]
fn shutdown_waits_for_a_message_and_a_second_one_does_not() {
    let _alone = serialize();
    let server = Running::start(config());
    let mut client = client_in_data(server.address);
    server.handle.shutdown();
    wait_until("the server shuts down", || {
        server.handle.reload(Config::default()).is_err()
    });
    client
        .write_all(b"Subject: last\r\n\r\n.\r\n")
        .expect("a server");
    assert_eq!(reply_code(&client), 250);
    assert_eq!(server.next_subject(), "last");
    server.stop();

    let server = Running::start(config());
    let client = client_in_data(server.address);
    server.handle.shutdown();
    server.handle.shutdown();
    let started_at = Instant::now();
    server.stop();
    // A single request would wait for 30 seconds.
    assert_took(started_at.elapsed(), AT_ONCE);
    drop(client);
}

#[test]
fn every_thread_has_ended_when_run_returns() {
    let _alone = serialize();
    for _ in 0..10 {
        let status = "127.0.0.1:0".parse().expect("an address");
        let server = Running::start(config().status_address(status));
        server.send("u@ours.test", "one").expect("accepted");
        server.stop();
    }
    wait_until("all threads have ended", || thread_count() == 0);
}

#[test]
fn server_leaves_signals_limits_and_scheduling_of_the_process_alone() {
    let _alone = serialize();
    let before = process_state();
    let server = Running::start(config().max_clients(50_000));
    server.send("u@ours.test", "one").expect("accepted");
    assert_eq!(process_state(), before);
    server.stop();
    assert_eq!(process_state(), before);
}

#[test]
fn writers_save_at_the_same_time() {
    /// Saves a mail only when two other writers save one too.
    struct Meeting(Arc<AtomicUsize>);
    impl SaveMail for Meeting {
        fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            wait_until("three writers save", || self.0.load(Ordering::SeqCst) == 3);
            Ok(SavedId::from(mail.hash()))
        }
    }
    let _alone = serialize();
    let saving = Arc::new(AtomicUsize::new(0));
    let builder = {
        let saving = Arc::clone(&saving);
        Server::builder(config().build().expect("valid values"))
            .store(move || Ok(Meeting(Arc::clone(&saving))))
            .writers(3)
    };
    let server = Running::run(builder, mpsc::channel().1);
    let address = server.address;
    let mut senders = Vec::new();
    for number in 1..=3 {
        // Two mails that are queued at the same time would be one batch of one writer.
        senders.push(thread::spawn(move || {
            send(address, "u@ours.test", "one of three")
        }));
        wait_until("the mail is being saved", || {
            saving.load(Ordering::SeqCst) == number
        });
    }
    for sender in senders {
        sender.join().expect("no panic").expect("accepted");
    }
    server.stop();
}

#[test]
fn store_that_cannot_be_opened_defers_mail_until_it_can() {
    let _alone = serialize();
    let server = server_of_store_that_opens_late(Duration::ZERO);
    let error = server.send("u@ours.test", "one").expect_err("no store");
    assert!(error.contains("451"), "{error}");
    server.send("u@ours.test", "two").expect("accepted");
    assert_eq!(server.next_subject(), "two");
    let metrics = server.handle.metrics();
    assert_eq!((metrics.mails_saved, metrics.mails_unavailable), (1, 1));
    server.stop();
}

#[test]
fn mail_waits_for_a_store_that_can_be_opened_later() {
    let _alone = serialize();
    let server = server_of_store_that_opens_late(Duration::from_secs(60));
    server.send("u@ours.test", "one").expect("accepted");
    assert_eq!(server.next_subject(), "one");
    let metrics = server.handle.metrics();
    assert_eq!((metrics.mails_saved, metrics.mails_unavailable), (1, 0));
    server.stop();
}

/// Returns a server whose store can be opened at the second attempt only.
fn server_of_store_that_opens_late(hold_time: Duration) -> Running {
    let opened = Arc::new(Mutex::new(0));
    let (sender, subjects) = mpsc::channel();
    let open = move || {
        let mut opened = opened.lock().expect("no panic");
        *opened += 1;
        match *opened {
            1 => Err(SaveError::from(std::io::Error::other("not yet"))),
            _ => Ok(SubjectStore(sender.clone())),
        }
    };
    let config = config().hold_time(hold_time).build().expect("valid values");
    Running::run(Server::builder(config).store(open), subjects)
}

#[test]
fn store_that_returns_too_few_or_too_many_outcomes_saves_what_it_reports() {
    /// Reports one outcome less or more than it gets mails.
    struct Miscounting(isize);
    impl SaveMail for Miscounting {
        fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
            Ok(SavedId::from(mail))
        }
        fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
            let count = batch.len().saturating_add_signed(self.0);
            let outcomes = batch.iter().cycle().take(count);
            outcomes.map(|mail| Ok(SavedId::from(mail))).collect()
        }
    }
    let _alone = serialize();
    for (difference, is_saved) in [(-1, false), (1, true)] {
        let builder = Server::builder(config().build().expect("valid values"))
            .store(move || Ok(Miscounting(difference)));
        let server = Running::run(builder, mpsc::channel().1);
        assert_eq!(server.send("u@ours.test", "one").is_ok(), is_saved);
        let panics = "goguerrilla_panics_total{component=\"writer\"} 0\n";
        assert!(server.handle.metrics_text().contains(panics));
        server.stop();
    }
}

#[test]
fn panic_of_save_mail_fails_its_mail_but_not_the_saved_ones_of_the_batch() {
    /// Waits until three mails are queued, saves them, and panics at the last.
    struct Poisoned {
        subjects: Sender<String>,
        may_save: Arc<AtomicUsize>,
    }
    impl SaveMail for Poisoned {
        fn prepare_batch(&mut self) -> Result<(), SaveError> {
            wait_until("all mails were sent", || {
                self.may_save.load(Ordering::SeqCst) > 0
            });
            Ok(())
        }
        fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
            assert_ne!(mail.subject(), "poison", "an intended panic");
            self.subjects
                .send(mail.subject().to_owned())
                .map_err(SaveError::unavailable)?;
            Ok(SavedId::from(mail))
        }
    }
    let _alone = serialize();
    let (sender, subjects) = mpsc::channel();
    let may_save = Arc::new(AtomicUsize::new(0));
    let opened = Arc::new(AtomicUsize::new(0));
    let open = {
        let (may_save, opened) = (Arc::clone(&may_save), Arc::clone(&opened));
        move || {
            opened.fetch_add(1, Ordering::SeqCst);
            Ok(Poisoned {
                subjects: sender.clone(),
                may_save: Arc::clone(&may_save),
            })
        }
    };
    let config = config().build().expect("valid values");
    let server = Running::run(Server::builder(config).store(open), subjects);
    let address = server.address;
    let senders: Vec<_> = ["good", "poison", "good", "good"]
        .map(|subject| thread::spawn(move || (subject, send(address, "u@ours.test", subject))))
        .into_iter()
        .collect();
    wait_until("four clients sent a mail", || {
        server.handle.metrics().content_bytes >= 4 * 20
    });
    may_save.store(1, Ordering::SeqCst);
    let mut saved = 0;
    for sender in senders {
        let (subject, outcome) = sender.join().expect("no panic");
        assert!(outcome.is_err() || subject == "good");
        saved += u64::from(outcome.is_ok());
    }
    // Every mail that the store saved was acknowledged, so no client sends it again.
    assert_eq!(server.handle.metrics().mails_saved, saved);
    assert_eq!(server.subjects.try_iter().count() as u64, saved);
    server
        .send("u@ours.test", "after")
        .expect("a reopened store");
    assert_eq!(opened.load(Ordering::SeqCst), 2);
    server.stop();
}

#[test]
fn recipient_hook_may_use_a_megabyte_of_stack() {
    fn sum_of_page(depth: usize) -> usize {
        let page = std::hint::black_box([1_u8; 4_096]);
        match depth {
            0 => 0,
            _ => usize::from(page[depth % 4_096]) + sum_of_page(depth - 1),
        }
    }
    let _alone = serialize();
    let (sender, subjects) = mpsc::channel();
    let hook = |_: &str| match sum_of_page(250) {
        250 => RecipientCheck::Accept,
        _ => RecipientCheck::Reject,
    };
    let server = Running::run(builder(config(), sender).recipients(hook), subjects);
    server.send("u@ours.test", "one").expect("accepted");
    server.stop();
}

#[test]
fn file_that_cannot_be_read_in_time_blocks_neither_metrics_nor_the_shutdown() {
    let _alone = serialize();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let fifo = folder.path().join("chain.pem");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
    let server = Running::start(config());
    let handle = server.handle.clone();
    let new = config()
        .tls_files(&fifo, &fifo)
        .build()
        .expect("valid values");
    let reloading = thread::spawn(move || handle.reload(new));
    assert_eq!(server.handle.metrics().mails_saved, 0);
    server.send("u@ours.test", "one").expect("accepted");
    server.stop();
    drop(
        fs::OpenOptions::new()
            .write(true)
            .open(&fifo)
            .expect("a reader"),
    );
    let outcome = reloading.join().expect("no panic");
    outcome.expect_err("no certificate in the pipe");
}

#[test]
fn address_in_use_is_a_start_error_with_its_cause() {
    let _alone = serialize();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let config = Config::builder().listen(address).build();
    let (sender, _) = mpsc::channel();
    let builder = Server::builder(config.expect("valid values"));
    let bound = builder
        .store(move || Ok(SubjectStore(sender.clone())))
        .bind();
    let error = bound.expect_err("the address is taken");
    let cause = std::error::Error::source(&error).expect("a cause");
    let kind = cause.downcast_ref().map(std::io::Error::kind);
    assert_eq!(kind, Some(std::io::ErrorKind::AddrInUse));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

/// Sends the subject of each mail over a channel.
struct SubjectStore(Sender<String>);

impl SaveMail for SubjectStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        // If the test has ended, nobody reads the subject.
        let _ = self.0.send(mail.subject().to_owned());
        Ok(SavedId::from(mail.hash()))
    }
}

/// A server that runs on a thread.
struct Running {
    address: SocketAddr,
    handle: ServerHandle,
    thread: JoinHandle<Result<(), StartError>>,
    subjects: Receiver<String>,
}

impl Running {
    fn start(config: ConfigBuilder) -> Running {
        let (sender, subjects) = mpsc::channel();
        Running::run(builder(config, sender), subjects)
    }

    fn run(builder: ServerBuilder, subjects: Receiver<String>) -> Running {
        let server = builder.bind().expect("a free port");
        Running {
            address: server.local_addrs()[0],
            handle: server.handle(),
            thread: thread::spawn(|| server.run()),
            subjects,
        }
    }

    fn send(&self, recipient: &str, subject: &str) -> Result<(), String> {
        send(self.address, recipient, subject)
    }

    fn next_subject(&self) -> String {
        self.subjects.recv_timeout(TIMEOUT).expect("a mail")
    }

    fn stop(self) -> ServerHandle {
        self.handle.shutdown();
        self.thread.join().expect("no panic").expect("threads");
        self.handle
    }
}

fn config() -> ConfigBuilder {
    let address = "127.0.0.1:0".parse().expect("an address");
    Config::builder().listen(address).host_name("mx.test")
}

fn builder(config: ConfigBuilder, subjects: Sender<String>) -> ServerBuilder {
    let config = config.build().expect("valid values");
    Server::builder(config).store(move || Ok(SubjectStore(subjects.clone())))
}

fn send(server: SocketAddr, recipient: &str, subject: &str) -> Result<(), String> {
    let sender = "a@client.test".parse().expect("an address");
    let recipient = recipient.parse().expect("an address");
    let envelope = Envelope::new(Some(sender), vec![recipient]).expect("a recipient");
    let content = format!("Subject: {subject}\r\n\r\ntext\r\n");
    let client = SmtpTransport::builder_dangerous("127.0.0.1").port(server.port());
    let sent = client.build().send_raw(&envelope, content.as_bytes());
    sent.map(drop).map_err(|error| error.to_string())
}

/// Returns a connection on which DATA was answered with 354.
fn client_in_data(server: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(server).expect("a listener");
    client.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    assert_eq!(reply_code(&client), 220);
    for (command, code) in [
        ("HELO client.test", 250),
        ("MAIL FROM:<a@client.test>", 250),
        ("RCPT TO:<u@ours.test>", 250),
        ("DATA", 354),
    ] {
        client
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("a server");
        assert_eq!(reply_code(&client), code, "{command}");
    }
    client
}

/// Reads a reply of one line. The server sends nothing after it before the next command.
fn reply_code(client: &TcpStream) -> u16 {
    let mut line = String::new();
    BufReader::new(client)
        .read_line(&mut line)
        .expect("a reply");
    line[..3].parse().expect("a code")
}

/// Returns the signals that are caught or ignored, the limits, and the scheduling policy of this process.
fn process_state() -> (Vec<String>, String, String) {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).expect("procfs");
    let status = read("status");
    let signals = status.lines().filter(|line| {
        ["SigIgn", "SigCgt"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    let stat = read("stat");
    // Field 41 is the policy; the fields after the name in parentheses begin with field 3.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let policy = fields.split_ascii_whitespace().nth(38).expect("a policy");
    let signals = signals.map(str::to_owned).collect();
    (signals, read("limits"), policy.to_owned())
}

/// Returns the number of threads of servers; the threads of the tests have the tests' names.
fn thread_count() -> usize {
    let names = [
        "client",
        "deadlines",
        "save-ticker",
        "writer-",
        "http",
        "finish",
    ];
    let threads = fs::read_dir("/proc/self/task").expect("procfs");
    let is_of_server = |thread: fs::DirEntry| {
        // A thread may end meanwhile.
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        names.iter().any(|start| name.starts_with(start))
    };
    let threads = threads.map(|thread| thread.expect("procfs"));
    threads
        .filter_map(|thread| is_of_server(thread).then_some(()))
        .count()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Serializes these tests, because some count the threads of the process.
fn serialize() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
