//! Thousands of clients, more clients than slots, and kernel limits: every client gets an answer.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use goguerrilla::internals::os::rlimits::raise_descriptor_limit;
use socket2::{Domain, SockRef, Socket, Type};

use testkit::status::{STATUS, wait_for_metric};
use testkit::tls::TlsServer;
use testkit::{AT_ONCE, Client, Server, TEST_TIMEOUT, assert_took, note, test, wait_for};

#[test]
fn ten_thousand_idle_clients_use_little_memory() {
    let _alone = serialize_tests();
    // The descriptors of this test's clients; the remaining 2,000 are for the tests that run at the same time.
    let limit = raise_descriptor_limit(CLIENT_COUNT as u64 + 2_000);
    assert!(
        limit > CLIENT_COUNT as u64 + 500,
        "the hard limit of descriptors is {limit}; raise it"
    );
    // Fewer than 90 % of the slots are taken, so that no client has to send a mail within five seconds.
    let server = Server::start(&[("GM_MAX_CLIENTS", "12000"), ("GSMTP_TIMEOUT", "300")]);
    server.client().command("NOOP", "250");
    let memory_before = server.status_kib("VmRSS");
    let started_at = Instant::now();
    let mut clients: Vec<Client> = (0..CLIENT_COUNT)
        .map(|number| connect_from(&server, number))
        .collect();
    for client in &mut clients {
        client.expect("220 ");
    }
    let greeted_after = started_at.elapsed();
    for client in &mut clients {
        client.send("NOOP\r\n");
    }
    for client in &mut clients {
        client.expect("250 2.0.0 ");
    }
    let grown = server.status_kib("VmRSS").saturating_sub(memory_before);
    let each = grown as f64 / CLIENT_COUNT as f64;
    note!("{CLIENT_COUNT} idle clients: greeted in {greeted_after:?}, {each:.1} KiB each");
    // Unoptimized code touches one more page of each stack.
    let ceiling = if cfg!(debug_assertions) { 28.0 } else { 20.0 };
    assert!(each <= ceiling, "{each:.1} KiB each");
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: among many\r\n");
    assert_eq!(reply.code, 250);
}

#[test]
fn clients_over_the_slot_limit_get_421_at_once_and_freed_slots_are_reused() {
    let _alone = serialize_tests();
    let server = Server::start(&[("GM_MAX_CLIENTS", "50")]);
    let mut held: Vec<Client> = (0..50).map(|_| server.client()).collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let started_at = Instant::now();
        let mut refused = Client::connect(server.address);
        refused.expect("421 4.3.2 ");
        refused.expect_close();
        slowest = slowest.max(started_at.elapsed());
    }
    note!("the slowest of 20 refusals took {slowest:?}");
    assert_took(slowest, AT_ONCE);
    // A client that sends commands before it reads also receives the 421.
    let mut talkative = Client::connect(server.address);
    let _ = std::io::Write::write_all(
        &mut talkative.socket(),
        b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n",
    );
    talkative.expect("421 4.3.2 ");
    for client in &mut held {
        client.command("NOOP", "250");
    }
    for client in held.drain(..10) {
        drop(client);
    }
    let mut returned: Vec<Client> = (0..10)
        .map(|_| {
            wait_for("a free slot", || {
                let mut client = Client::connect(server.address);
                (client.read_reply()?.code == 220).then_some(client)
            })
        })
        .collect();
    let reply = returned[0].deliver("a@client.test", "u@ours.test", b"Subject: placed\r\n");
    assert_eq!(reply.code, 250);
    Client::connect(server.address).expect("421 4.3.2 ");
}

#[test]
fn accept_backs_off_without_descriptors_and_resumes_when_some_are_free() {
    let _alone = serialize_tests();
    let server = Server::start(&[]);
    let mut inside: Vec<Client> = (0..5).map(|_| server.client()).collect();
    // The store opens its file for the first mail.
    let reply = inside[0].deliver("a@client.test", "u@ours.test", b"Subject: before\r\n");
    assert_eq!(reply.code, 250);
    server.limit(&format!("--nofile={}:", server.descriptors()));
    // The first connection may still be accepted: a thread blocked in accept already holds its descriptor.
    let mut late: Vec<Client> = (0..4).map(|_| Client::connect(server.address)).collect();
    wait_for("accept to fail", || {
        server.log().contains(" accept_failed ").then_some(())
    });
    let used_before = server.processor_time();
    let reply = inside[0].deliver("a@client.test", "u@ours.test", b"Subject: inside\r\n");
    assert_eq!(reply.code, 250);
    late[3].expect_silence(Duration::from_secs(2));
    let used = server.processor_time() - used_before;
    note!("two seconds without descriptors took {used:?} of processor time");
    assert!(used <= Duration::from_millis(200), "{used:?}");
    assert_eq!(server.log().matches(" accept_failed ").count(), 1);
    inside.clear();
    for client in &mut late {
        client.expect("220 ");
        client.command("NOOP", "250");
    }
    let reply = late[3].deliver("a@client.test", "u@ours.test", b"Subject: late\r\n");
    assert_eq!(reply.code, 250);
}

#[test]
fn ten_thousand_connects_closed_at_once_leak_no_slot_thread_or_descriptor() {
    let _alone = serialize_tests();
    let tls = TlsServer::start(&[("GM_MAX_CLIENTS", "100")]);
    let server = &tls.server;
    // Counts descriptors after the first client, whose session opens some, and before the flood, whose last connections
    // may still wait to be accepted.
    let idle_sockets = server.sockets();
    server.client().command("QUIT", "221");
    tls.implicit_tls_client().command("QUIT", "221");
    wait_for("both connections to be closed", || {
        (server.sockets() == idle_sockets).then_some(())
    });
    let descriptors = server.descriptors();
    let started_at = Instant::now();
    flood(&tls, CLIENT_COUNT);
    let flooded = started_at.elapsed();
    let started_at = Instant::now();
    let mut client = wait_for("a free slot", || {
        let mut client = Client::connect(server.address);
        (client.read_reply()?.code == 220).then_some(client)
    });
    let greeted = started_at.elapsed();
    note!(
        "{CLIENT_COUNT} connects in {flooded:?}, then a greeting in {greeted:?}, {} threads",
        server.threads()
    );
    assert_took(flooded, Duration::from_secs(2));
    assert_took(greeted, AT_ONCE);
    client.command("QUIT", "221");
    wait_for("all descriptors to be closed", || {
        (server.descriptors() == descriptors).then_some(())
    });
    // One thread per slot and one per listener that replies 421; the threads main, server, signals, log, deadlines,
    // save-ticker and writer-0.
    assert!(
        server.threads() <= 100 + 2 + 7,
        "{} threads",
        server.threads()
    );
    let mut held: Vec<Client> = (0..100).map(|_| server.client()).collect();
    held[99].command("NOOP", "250");
    let log = server.log();
    let is_news = |line: &&str| line.contains(" octets=0 ") || line.contains(" tls_failed ");
    let news: Vec<&str> = log.lines().filter(is_news).collect();
    assert!(
        news.is_empty(),
        "logged although nothing was sent: {news:?}"
    );
}

#[test]
fn idle_threads_of_one_port_serve_a_load_peak_on_another_port() {
    let _alone = serialize_tests();
    let tls = TlsServer::start(&[("GM_MAX_CLIENTS", "100"), STATUS]);
    let server = &tls.server;
    for address in [server.address, tls.implicit_tls_address, server.address] {
        // Another client would take a slot of those that this test wants to hold.
        wait_for_metric(server, "goguerrilla_connections_active", 0.0);
        let held: Vec<TcpStream> = (0..100)
            .map(|_| TcpStream::connect(address).expect("the server accepts"))
            .collect();
        wait_for_metric(server, "goguerrilla_connections_active", 100.0);
        Client::connect(server.address).expect("421 ");
        drop(held);
        let mut client = wait_for("a free slot", || {
            let mut client = Client::connect(server.address);
            (client.read_reply()?.code == 220).then_some(client)
        });
        client.command("QUIT", "221");
    }
    assert!(
        server.threads_named("client") <= 100 + 2,
        "{} threads",
        server.threads_named("client")
    );
}

#[test]
fn client_limit_above_the_kernel_mapping_limit_logs_a_warning() {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("a file of /proc");
    let limit: usize = limit.trim().parse().expect("a figure");
    for max_clients in [500, 100_000] {
        let server = Server::start(&[("GM_MAX_CLIENTS", &max_clients.to_string())]);
        let is_warned_of = server.log().contains(" map_count_low ");
        assert_eq!(
            is_warned_of,
            4 * max_clients + 1_000 > limit,
            "{max_clients}"
        );
    }
}

#[test]
fn thread_start_failure_replies_421_and_the_server_survives() {
    let _alone = serialize_tests();
    let server = Server::start(&[]);
    // Leaves too little address space for one more thread stack and enough for everything else.
    let octets = server.status_kib("VmSize") * 1_024 + 128 * 1_024;
    server.limit(&format!("--as={octets}:"));
    for _ in 0..3 {
        let mut client = Client::connect(server.address);
        client.expect("421 4.3.2 ");
        client.expect_close();
    }
    server.wait_for_log(" thread_start_failed ");
    server.limit("--as=unlimited:");
    let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
    let reply = clients[19].deliver("a@client.test", "u@ours.test", b"Subject: alive\r\n");
    assert_eq!(reply.code, 250);
}

/// Opens and closes `count` connections from two threads. Some send a command or an incomplete ClientHello first; half
/// of them close with a reset.
fn flood(tls: &TlsServer, count: usize) {
    thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for number in 0..count / 2 {
                    let (address, word) = match number % 5 {
                        0 => (tls.server.address, &b"EHLO client.test\r\nMAIL "[..]),
                        1 => (tls.implicit_tls_address, INCOMPLETE_CLIENT_HELLO),
                        _ => (tls.server.address, &b""[..]),
                    };
                    let mut socket = TcpStream::connect(address).expect("the server accepts");
                    let _ = socket.write_all(word);
                    if number % 2 == half {
                        let linger = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                        linger.expect("an open socket");
                    }
                }
            });
        }
    });
}

/// Connects without reading the greeting, from one of four source addresses, because one address has too few ports.
fn connect_from(server: &Server, number: usize) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let source = Ipv4Addr::new(127, 0, 0, 1 + (number % 4) as u8);
    socket
        .bind(&SocketAddr::new(source.into(), 0).into())
        .expect("a port");
    socket
        .connect_timeout(&server.address.into(), TEST_TIMEOUT)
        .expect("the server accepts");
    Client::over(socket.into())
}

/// Serializes these tests, because they measure and would disturb one another.
fn serialize_tests() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const CLIENT_COUNT: usize = 10_000;
/// The beginning of a TLS record of 512 octets that contains a ClientHello.
const INCOMPLETE_CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
