//! Limits that keep one address, or slow clients, from taking all connection slots.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use testkit::{
    Client, Server, assert_took, connect_with_small_buffers, let_time_pass, note, short_mail, test,
    wait_for,
};

#[test]
fn per_ip_limit_rejects_further_connections_and_serves_other_addresses() {
    let server = Server::start(&[("GM_MAX_CLIENTS_PER_IP", "3")]);
    let mut held: Vec<Client> = (0..3).map(|_| connect_from(1, server.address)).collect();
    for client in &mut held {
        client.expect("220 ");
    }
    for _ in 0..5 {
        let mut refused = connect_from(1, server.address);
        refused.expect("421 4.7.0 ");
        refused.expect_close();
    }
    let mut other_address = connect_from(2, server.address);
    other_address.expect("220 ");
    held.pop();
    let mut next = wait_for("a slot of this address to become free", || {
        let mut client = connect_from(1, server.address);
        (client.read_reply()?.code == 220).then_some(client)
    });
    let reply = next.deliver("a@client.test", "u@ours.test", b"Subject: mine\r\n");
    assert_eq!(reply.code, 250);
    connect_from(1, server.address).expect("421 4.7.0 ");
}

#[test]
fn one_address_may_use_all_slots_when_no_per_ip_limit_is_set() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "40")]);
    let mut held: Vec<Client> = (0..40).map(|_| connect_from(1, server.address)).collect();
    for client in &mut held {
        client.expect("220 ");
    }
    connect_from(1, server.address).expect("421 4.3.2 ");
}

#[test]
fn slow_clients_on_all_slots_are_shed_so_that_others_are_served() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "200"), ("GSMTP_TIMEOUT", "30")]);
    let slow: Vec<Client> = (0..200).map(|_| Client::connect(server.address)).collect();
    // Half of the clients send a command slowly, the others a mail.
    let mut slow: Vec<Client> = slow
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            client.expect("220 ");
            if number % 2 == 0 {
                client.begin_data("a@client.test", "u@ours.test");
            }
            client
        })
        .collect();
    let full_since = Instant::now();
    Client::connect(server.address).expect("421 4.3.2 ");
    let is_finished = AtomicBool::new(false);
    let served_after = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_finished.load(Ordering::SeqCst) {
                for client in &mut slow {
                    // An error means that the server has closed this connection.
                    let _ = client.socket().write_all(b"x");
                }
                let_time_pass(Duration::from_secs(1), "the data rate of slow clients");
            }
        });
        let served = wait_for("a free slot", || {
            let mut client = Client::connect(server.address);
            if client.read_reply()?.code != 220 {
                return None;
            }
            let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("normal"));
            (reply.code == 250).then(|| full_since.elapsed())
        });
        is_finished.store(true, Ordering::SeqCst);
        served
    });
    note!("served after {served_after:?}");
    // Once one slot is free, no further client is shed.
    let log = server.wait_for_log("reason=shed");
    // None of them reached the timeout of the configuration.
    assert!(!log.contains("reason=timed_out"), "{log}");
}

#[test]
fn proxy_header_timeout_is_not_shortened_when_slots_run_out() {
    let server = Server::start(&[
        ("GM_MAX_CLIENTS", "10"),
        ("GSMTP_PROXY_PROTOCOL", "Y"),
        ("GM_TRUSTED_PROXIES", "127.0.0.1"),
    ]);
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r\n";
    let connect_with_header = || {
        let mut client = Client::connect(server.address);
        client.send(header);
        client.expect("220 ");
        client
    };
    let mut held: Vec<Client> = (0..9).map(|_| connect_with_header()).collect();
    let mut late = Client::connect(server.address);
    late.expect_silence(Duration::from_secs(1));
    late.send(header);
    late.expect("220 ");
    held[0].command("NOOP", "250");
}

#[test]
fn client_idle_after_a_delivery_is_shed_before_other_clients() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "10")]);
    let mut others: Vec<Client> = (0..4).map(|_| server.client()).collect();
    let mut delivered: Vec<Client> = (0..5).map(|_| server.client()).collect();
    let since = Instant::now();
    for client in &mut delivered {
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("done"));
        assert_eq!(reply.code, 250);
    }
    // Nine of ten slots are taken: the timeout is 2 s for clients that have delivered, 5 s for others. The timeouts become
    // longer when a slot is free, so the later clients may stay.
    delivered[0].expect("421 4.4.2 ");
    delivered[0].expect_close();
    server.wait_for_log(" reason=shed ");
    let closed_after = since.elapsed();
    assert!(
        closed_after > Duration::from_millis(1_900),
        "{closed_after:?}"
    );
    assert_took(closed_after, Duration::from_secs(2));
    for client in &mut others {
        client.command("NOOP", "250");
    }
}

#[test]
fn timeouts_are_halved_when_half_of_the_slots_are_taken() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "10"), ("GSMTP_TIMEOUT", "14")]);
    let since = Instant::now();
    let mut clients: Vec<Client> = (0..5).map(|_| server.client()).collect();
    // With half of the slots taken, a client that keeps sending commands is not closed.
    for _ in 0..6 {
        clients[0].command("NOOP", "250");
        clients[0].expect_silence(Duration::from_secs(1));
    }
    clients[1].expect("421 4.4.2 ");
    let closed_after = since.elapsed();
    assert!(
        closed_after > Duration::from_millis(6_900),
        "{closed_after:?}"
    );
    clients[0].command("NOOP", "250");
    server.wait_for_log("reason=shed");
}

#[test]
fn slow_sender_is_shed_and_fast_senders_stay_when_slots_run_out() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "10")]);
    let senders = Senders::start(&server, 9);
    let mut slower = server.client();
    slower.begin_data("a@client.test", "u@ours.test");
    wait_for("the slower one to be closed", || {
        let_time_pass(
            Duration::from_millis(100),
            "a data rate of 1,000 octets per second",
        );
        slower.socket().write_all(&[b'x'; 100]).ok();
        server.log().contains("reason=shed").then_some(())
    });
    slower.expect("421 4.4.2 ");
    senders.finish();
    assert_eq!(server.list().len(), 9);
}

#[test]
fn client_that_does_not_read_is_shed_when_slots_run_out() {
    let server = Server::start(&[
        ("GM_MAX_CLIENTS", "10"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
        ("GM_MAX_RECIPIENTS", "10000"),
    ]);
    let senders = Senders::start(&server, 9);
    let mut socket = connect_with_small_buffers(server.address).expect("the server accepts");
    let timeout = socket.set_write_timeout(Some(Duration::from_secs(1)));
    timeout.expect("an open socket");
    let recipients = "RCPT TO:<u@elsewhere.test>\r\n".repeat(10_000);
    let commands = format!("EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n{recipients}");
    // Fails by timeout after the socket buffers are full.
    let _ = socket.write_all(commands.as_bytes());
    let log = server.wait_for_log("reason=shed");
    assert!(!log.contains("reason=write_timeout"), "{log}");
    senders.finish();
    assert_eq!(server.list().len(), 9);
}

#[test]
fn time_waiting_for_the_store_does_not_count_for_the_client_timeout() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "1")]);
    let store = rusqlite::Connection::open(server.path("goguerrilla.db")).expect("the store");
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    store.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let_time_pass(
        Duration::from_secs(2),
        "a part of the timeout of the client",
    );
    client.send(b"Subject: late\r\n.\r\n");
    // Longer than the 5 s that a client in the last slot has for its next command.
    client.expect_silence(Duration::from_secs(4));
    store
        .execute_batch("ROLLBACK")
        .expect("the lock is released");
    client.expect("250 2.0.0 OK : queued as ");
    client.expect_silence(Duration::from_secs(1));
    client.command("NOOP", "250 ");
    let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: next\r\n");
    assert_eq!(reply.code, 250);
}

/// Clients that send content at 5,000 octets per second, in steps of 100 ms.
struct Senders {
    is_finished: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Senders {
    fn start(server: &Server, count: usize) -> Senders {
        let mut clients: Vec<Client> = (0..count)
            .map(|_| {
                let mut client = server.client();
                client.begin_data("a@client.test", "u@ours.test");
                client
            })
            .collect();
        let is_finished = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_finished);
        let thread = thread::spawn(move || {
            let started_at = Instant::now();
            let mut sent = 0;
            // Long enough for the average rate, which is measured from the start.
            while !stop.load(Ordering::SeqCst) || started_at.elapsed() < Duration::from_secs(8) {
                let due = started_at.elapsed().as_millis() as usize * 5;
                for client in &mut clients {
                    client.send(vec![b'x'; due - sent]);
                }
                sent = due;
                let_time_pass(
                    Duration::from_millis(100),
                    "a data rate of 5,000 octets per second",
                );
            }
            for client in &mut clients {
                client.send("\r\n.\r\n");
                client.expect("250 2.0.0 OK : queued as ");
            }
        });
        Senders {
            is_finished,
            thread,
        }
    }

    /// Ends the mails and asserts that each is saved.
    fn finish(self) {
        self.is_finished.store(true, Ordering::SeqCst);
        self.thread.join().expect("no sender is closed");
    }
}

/// Connects from 127.0.0.`last`; the greeting is unread.
fn connect_from(last: u8, server: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&address.into()).expect("an address of 127/8");
    socket.connect(&server.into()).expect("a connection");
    Client::over(TcpStream::from(socket))
}
