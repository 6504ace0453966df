//! Requests to the auth_http endpoint, as nginx sends them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::{Server, value};

/// Returns the auth_http address from the server's log.
pub fn auth_address(server: &Server) -> SocketAddr {
    let log = server.wait_for_log(" role=auth_http");
    let line = log.lines().find(|line| line.contains(" role=auth_http"));
    let address = line.and_then(|line| value(line, "address"));
    address
        .and_then(|address| address.parse().ok())
        .expect("an address")
}

pub fn ask(server: &Server, request: &str) -> String {
    let mut socket = TcpStream::connect(auth_address(server)).expect("the server accepts");
    // The server does not read an oversized request to its end, so writing may fail.
    let _ = socket.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8(answer).expect("ASCII")
}

pub fn header(answer: &str, name: &str) -> String {
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_default().to_owned()
}
