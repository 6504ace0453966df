//! Limits that keep one address, or slow clients, from taking what belongs to all.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::support::{Client, Server, wait_for};

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

/// A client whose address is 127.0.0.`last`; its greeting is unread.
fn from(last: u8, server: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&address.into()).expect("an address of 127/8");
    socket.connect(&server.into()).expect("a connection");
    Client::over(TcpStream::from(socket))
}
