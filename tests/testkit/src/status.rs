//! Requests to the status endpoint.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Server, value, wait_for};

pub const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");

/// Returns the address of the server's status endpoint.
pub fn address(server: &Server) -> SocketAddr {
    let log = server.log();
    let line = log.lines().find(|line| line.contains(" status_page "));
    let address = line.and_then(|line| value(line, "address"));
    address.expect("a status page").parse().expect("an address")
}

/// Returns the status and body of a GET request.
pub fn get(server: &Server, path: &str) -> (u16, String) {
    let (code, _, body) = get_with_headers(server, path, "Host: status.test\r\n");
    (code, body)
}

/// Returns the JSON that the script of the status page gets.
pub fn get_json(server: &Server, path: &str) -> serde_json::Value {
    let (code, _, body) = get_with_headers(server, path, "Host: localhost\r\n");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Returns the status, head and body of a GET request with these header lines.
pub fn get_with_headers(server: &Server, path: &str, headers: &str) -> (u16, String, String) {
    request(address(server), path, headers)
}

fn request(status: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(status).expect("the server accepts");
    let time_limit = Some(Duration::from_secs(10));
    socket.set_read_timeout(time_limit).expect("an open socket");
    let request = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    socket
        .write_all(request.as_bytes())
        .expect("the server reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .expect("an empty line after the fields");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        code.expect("three digits"),
        head.to_owned(),
        body.to_owned(),
    )
}

/// Returns every sample by its name with labels.
pub fn figures(server: &Server) -> HashMap<String, f64> {
    figures_at(address(server))
}

/// Returns every sample of the status endpoint at this address. Unlike [`figures`] it reads no log, which may be long.
pub fn figures_at(status: SocketAddr) -> HashMap<String, f64> {
    let (code, _, page) = request(status, "/metrics", "Host: status.test\r\n");
    assert_eq!(code, 200);
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let figures = samples.map(|line| {
        let (name, figure) = line.rsplit_once(' ').expect("a name and a figure");
        (name.to_owned(), figure.parse().expect("a figure"))
    });
    figures.collect()
}

/// Waits until a metric has this value: a connection is counted after its last reply.
pub fn wait_for_metric(server: &Server, name: &str, wanted: f64) {
    wait_for(&format!("{name} {wanted}"), || {
        let figures = figures(server);
        let figure = figures.get(name).unwrap_or_else(|| panic!("no {name}"));
        (*figure == wanted).then_some(())
    });
}
