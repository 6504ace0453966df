//! Logins of MariaDB's plugin ed25519 whose nonce the driver damages: a nonce that ends with a zero octet.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use testkit::mariadb::{MariaDb, PASSWORD, USER};
use testkit::test;

#[test]
fn ed25519_login_succeeds_when_the_nonce_ends_with_a_zero_octet() {
    let database = MariaDb::start();
    database.sql("INSTALL SONAME 'auth_ed25519'");
    database.sql(&format!(
        "ALTER USER {USER}@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')"
    ));
    let proxy = NonceProxy::start(database.address());
    let server = database.server_at(&proxy.address.to_string(), &[]);
    for served in 1..4 {
        proxy.state.wanted.store(1, Ordering::Release);
        let (is_ok, output_text) = server.check();
        assert!(is_ok, "{output_text}");
        assert_eq!(proxy.state.served.load(Ordering::Acquire), served);
    }
}

/// A proxy that forwards to a database and decides which logins get a nonce that ends with a zero octet.
struct NonceProxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The number of next logins that get such a nonce; those after them get another one.
    wanted: AtomicUsize,
    /// The number of logins that got one.
    served: AtomicUsize,
}

impl NonceProxy {
    fn start(upstream: SocketAddr) -> NonceProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let state: Arc<State> = Arc::default();
        let accepting = Arc::clone(&state);
        // The thread ends with the test process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&accepting);
                // A client may disconnect at any time.
                thread::spawn(move || state.serve(&client, upstream));
            }
        });
        NonceProxy { address, state }
    }
}

impl State {
    fn serve(&self, mut client: &TcpStream, upstream: SocketAddr) -> io::Result<()> {
        let mut server = TcpStream::connect(upstream)?;
        let ends_with_zero = self.take_wanted();
        client.write_all(&read_packet(&mut server)?)?;
        let login = read_packet(&mut client)?;
        let request = loop {
            server.write_all(&login)?;
            let request = read_packet(&mut server)?;
            assert!(request[4..].starts_with(b"\xfeclient_ed25519\0"));
            if request.ends_with(b"\0") == ends_with_zero {
                break request;
            }
            // The server makes a nonce for each connection. Its greeting differs too, but ed25519 does not use it.
            server = TcpStream::connect(upstream)?;
            read_packet(&mut server)?;
        };
        if ends_with_zero {
            self.served.fetch_add(1, Ordering::AcqRel);
        }
        client.write_all(&request)?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || io::copy(&mut from_client, &mut to_server));
        io::copy(&mut server, &mut client).map(drop)
    }

    fn take_wanted(&self) -> bool {
        let take = |wanted: usize| wanted.checked_sub(1);
        (self.wanted)
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .is_ok()
    }
}

/// Reads a packet of the MySQL protocol; returns it with its header of four octets.
fn read_packet(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet)?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]);
    packet.resize(4 + length as usize, 0);
    stream.read_exact(&mut packet[4..])?;
    Ok(packet)
}
