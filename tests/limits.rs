//! Limits that keep one address, or slow clients, from taking what belongs to all.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{Client, Server, short_mail, wait_for};

#[test]
fn one_address_holds_as_many_connections_as_it_may_and_others_are_served() {
    let server = Server::start(&[("GM_MAX_CLIENTS_PER_IP", "3")]);
    let mut held: Vec<Client> = (0..3).map(|_| from(1, server.address)).collect();
    for client in &mut held {
        client.expect("220 ");
    }
    for _ in 0..5 {
        let mut refused = from(1, server.address);
        refused.expect("421 4.7.0 ");
        refused.expect_close();
    }
    let mut neighbour = from(2, server.address);
    neighbour.expect("220 ");
    held.pop();
    let mut next = wait_for("a share to come back", || {
        let mut client = from(1, server.address);
        (client.read_reply()?.code == 220).then_some(client)
    });
    let reply = next.deliver("a@client.test", "u@ours.test", b"Subject: mine\r\n");
    assert_eq!(reply.code, 250);
    from(1, server.address).expect("421 4.7.0 ");
}

#[test]
fn without_a_limit_an_address_may_take_every_place() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "40")]);
    let mut held: Vec<Client> = (0..40).map(|_| from(1, server.address)).collect();
    for client in &mut held {
        client.expect("220 ");
    }
    from(1, server.address).expect("421 4.3.2 ");
}

#[test]
fn slow_clients_on_all_places_cannot_keep_others_out() {
    let timeout = Duration::from_secs(30);
    let server = Server::start(&[("GM_MAX_CLIENTS", "200"), ("GSMTP_TIMEOUT", "30")]);
    let slow: Vec<Client> = (0..200).map(|_| Client::connect(server.address)).collect();
    // Half of them dribble a command, the others a mail.
    let mut slow: Vec<Client> = slow
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            client.expect("220 ");
            if number % 2 == 0 {
                client.prepare_to_deliver("a@client.test", "u@ours.test");
            }
            client
        })
        .collect();
    let full_since = Instant::now();
    Client::connect(server.address).expect("421 4.3.2 ");
    let is_over = AtomicBool::new(false);
    let served_after = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                for client in &mut slow {
                    // Those that were told to go are gone.
                    let _ = client.socket().write_all(b"x");
                }
                thread::sleep(Duration::from_secs(1));
            }
        });
        let served = wait_for("a place", || {
            let mut client = Client::connect(server.address);
            if client.read_reply()?.code != 220 {
                return None;
            }
            let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("normal"));
            (reply.code == 250).then(|| full_since.elapsed())
        });
        is_over.store(true, Ordering::SeqCst);
        served
    });
    println!("served after {served_after:?}");
    assert!(served_after < timeout / 2, "{served_after:?}");
    // Having made room for one is not enough reason to send the others away.
    let log = server.wait_for_log("reason=made_room");
    assert!(!log.contains("reason=timed_out"), "{log}");
}

#[test]
fn a_proxy_header_has_its_time_also_when_places_run_out() {
    let server = Server::start(&[
        ("GM_MAX_CLIENTS", "10"),
        ("GSMTP_PROXY_PROTOCOL", "Y"),
        ("GM_TRUSTED_PROXIES", "127.0.0.1"),
    ]);
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r\n";
    let introduced = || {
        let mut client = Client::connect(server.address);
        client.send(header);
        client.expect("220 ");
        client
    };
    let mut held: Vec<Client> = (0..9).map(|_| introduced()).collect();
    let mut late = Client::connect(server.address);
    late.expect_silence(Duration::from_secs(1));
    late.send(header);
    late.expect("220 ");
    held[0].command("NOOP", "250");
}

#[test]
fn who_has_handed_over_its_mail_makes_room_first() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "10"), ("GSMTP_TIMEOUT", "20")]);
    let mut at_work: Vec<Client> = (0..4).map(|_| server.client()).collect();
    let mut at_leisure: Vec<Client> = (0..5).map(|_| server.client()).collect();
    let since = Instant::now();
    for client in &mut at_leisure {
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("done"));
        assert_eq!(reply.code, 250);
    }
    // One place of ten is free: a fifth of the time for them, half of it for the others.
    for client in &mut at_leisure {
        client.expect("421 4.4.2 ");
        client.expect_close();
    }
    let left_after = since.elapsed();
    assert!(
        left_after > Duration::from_secs(3) && left_after < Duration::from_secs(12),
        "{left_after:?}"
    );
    for client in &mut at_work {
        client.command("NOOP", "250");
    }
}

/// A client whose address is 127.0.0.`last`; its greeting is unread.
fn from(last: u8, server: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&address.into()).expect("an address of 127/8");
    socket.connect(&server.into()).expect("a connection");
    Client::over(TcpStream::from(socket))
}
