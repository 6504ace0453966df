//! The systemd interface: the test provides the notification socket and the listening sockets in systemd's place.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::load::{Load, assert_no_loss_or_duplicate, stored_markers};
use testkit::process::run_command;
use testkit::{Client, Server, TEST_TIMEOUT, binary, short_mail, test, write_config};

#[test]
fn server_notifies_systemd_of_ready_reloading_and_stopping() {
    let folder = TempDir::new().expect("a temporary folder");
    let notified = folder.path().join("notify");
    let socket = UnixDatagram::bind(&notified).expect("a socket");
    socket
        .set_read_timeout(Some(TEST_TIMEOUT))
        .expect("a socket");
    let next_notification = || {
        let mut buffer = [0; 4_096];
        let octets = socket.recv(&mut buffer).expect("a notification in time");
        String::from_utf8_lossy(&buffer[..octets]).into_owned()
    };
    let mut server = Server::start_with(folder, &[], |mut command| {
        command.env("NOTIFY_SOCKET", &notified);
        command
    });
    assert_eq!(next_notification(), "READY=1\n");
    server.client();
    server.signal(Signal::SIGHUP);
    let reloading = next_notification();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let since = since.unwrap_or_else(|| panic!("{reloading}"));
    assert!(since.trim_end().parse::<u64>().is_ok(), "{reloading}");
    assert_eq!(next_notification(), "READY=1\n");
    assert!(server.stop().success());
    assert_eq!(next_notification(), "STOPPING=1\n");
}

#[test]
fn server_serves_sockets_inherited_from_systemd_and_leaves_them_open_at_exit() {
    let socket = inheritable_socket();
    let address = socket.local_addr().expect("a bound socket");
    let hand_over = |program| with_inherited(&socket, program);
    let settings = [("GSTMP_LISTEN_INTERFACE", "127.0.0.1:1")];
    let folder = TempDir::new().expect("a temporary folder");
    let mut server = Server::start_with(folder, &settings, hand_over);
    assert_eq!(server.address, address);
    let mut idle = server.client();
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &short_mail("one"));
    assert_eq!(reply.code, 250);
    server.signal(Signal::SIGTERM);
    idle.expect("421 4.3.2 ");
    assert!(server.wait().success());

    // A client that connects now waits for the next server process.
    let mut early = Client::connect(address);
    server.start_again_with(hand_over);
    early.expect("220 ");
    let reply = early.deliver("a@client.test", "u@ours.test", &short_mail("two"));
    assert_eq!(reply.code, 250);
    assert_eq!(server.list().len(), 2);
}

#[test]
fn restarts_on_an_inherited_socket_refuse_no_connection_under_load() {
    let socket = inheritable_socket();
    let hand_over = |program| with_inherited(&socket, program);
    let folder = TempDir::new().expect("a temporary folder");
    let mut server = Server::start_with(folder, &[], hand_over);
    let load = Load::start(server.address, 8, "restart");
    for _ in 0..RESTARTS {
        load.wait_for_more(100);
        assert!(server.stop().success());
        server.start_again_with(hand_over);
    }
    load.wait_for_more(100);
    let account = load.stop();
    assert!(server.stop().success());

    testkit::note!(
        "{RESTARTS} restarts: {} mails acknowledged, {} connections cut, 4xx: {}",
        account.acknowledged.len(),
        account.cut,
        account.temporary_failures()
    );
    assert_eq!(account.cut, 0, "connections refused or cut");
    let greetings = account.replies.keys().filter(|(to, _)| *to == "greeting");
    let greetings: Vec<u16> = greetings.map(|(_, code)| *code).collect();
    assert_eq!(greetings, [220], "every connection was served");
    assert_eq!(account.unanswered, Vec::<String>::new());
    let stored = stored_markers(&server.path("goguerrilla.db"));
    assert_no_loss_or_duplicate(&account, &stored);
}

/// Returns a listening socket that child processes inherit, as systemd's.
fn inheritable_socket() -> TcpListener {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    inherit(&socket);
    socket
}

/// Lets child processes inherit a socket.
fn inherit(socket: &impl AsFd) {
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).expect("an open descriptor");
}

/// Returns the command with `socket` as the first inherited descriptor of systemd's protocol.
fn with_inherited(socket: &impl AsRawFd, program: Command) -> Command {
    // The shell executes the program with its own process id, so LISTEN_PID is right.
    let script = format!(
        "exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
        socket.as_raw_fd()
    );
    let mut shell = testkit::command("bash");
    shell.args(["-c", &script, "bash"]);
    shell.arg(program.get_program()).args(program.get_args());
    shell
}

/// Enough for each moment of a restart to meet a connection.
const RESTARTS: usize = 20;

#[test]
fn inherited_socket_that_does_not_listen_is_refused_at_the_start() {
    // With Accept=yes systemd passes a connection.
    let listening = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listening.local_addr().expect("a bound socket");
    let connection = TcpStream::connect(address).expect("a connection");
    inherit(&connection);
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[]);
    let program = testkit::command(binary());
    let mut command = with_inherited(&connection, program);
    let ended = run_command(command.current_dir(folder.path()));
    assert_eq!(ended.status, 1);
    let error = ended.stderr;
    let wanted =
        "LISTEN_FDS: expected a listening socket, but the socket with the address 127.0.0.1:";
    assert!(error.contains(wanted), "{error}");
    assert!(error.contains("Accept=no"), "{error}");
}

#[test]
fn listen_fds_meant_for_another_process_id_are_ignored() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start_with(folder, &[], |mut command| {
        command.env("LISTEN_FDS", "7").env("LISTEN_PID", "1");
        command
    });
    server.client().command("NOOP", "250");
}
