//! A panic costs the connection it happens in, and nobody else. Those of a store are in `writer.rs`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use goguerrilla::net::listener::Listener;
use goguerrilla::net::pool::{Client, Pool, PoolSettings};

use crate::support::{PATIENCE, wait_for};

#[test]
fn a_connection_that_panics_gives_its_place_back_and_others_are_served() {
    let serve = |client: &Client| {
        let mut octet = [0];
        (&*client.socket())
            .read_exact(&mut octet)
            .expect("an octet");
        assert_ne!(octet, *b"!", "this one is a panic on purpose");
        (&*client.socket()).write_all(&octet).expect("it reads");
    };
    let settings = PoolSettings {
        trusted_proxies: goguerrilla::net::trusted::TrustedProxies::default(),
        max_clients: 3,
        max_clients_per_address: 3,
        full: b"full".to_vec(),
        address_full: b"too many".to_vec(),
    };
    let pool = Pool::new(settings, Box::new(serve));
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), false, false);
    let listener = Arc::new(listener.expect("a free port"));
    pool.open(&listener).expect("a thread");
    let ask = |octet: u8| {
        let mut socket = TcpStream::connect(listener.address()).expect("the pool accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket.write_all(&[octet]).expect("the pool reads");
        socket.shutdown(Shutdown::Write).expect("a socket");
        let mut answer = Vec::new();
        // A panic closes the connection, perhaps with a reset.
        let _ = socket.read_to_end(&mut answer);
        answer
    };
    for _ in 0..20 {
        assert_eq!(ask(b'!'), b"");
        wait_for("its place", || (pool.places_taken() == 0).then_some(()));
    }
    for _ in 0..20 {
        assert_eq!(ask(b'a'), b"a");
        wait_for("its place", || (pool.places_taken() == 0).then_some(()));
    }
    listener.close();
    let page = goguerrilla::metrics::page();
    for counted in [
        "goguerrilla_panics_total{part=\"connection\"} 20\n",
        "goguerrilla_connections_total{listener=\"smtp\",outcome=\"panicked\"} 20\n",
    ] {
        assert!(page.contains(counted), "{page}");
    }
}
