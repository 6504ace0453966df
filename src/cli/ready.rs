//! `goguerrilla ready`: asks the running server whether it takes mail, for the health check of a container.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Response, Status};

use super::{CommandFailure, print_stdout};
use crate::config::Config;
use crate::logging::is_printable;

/// Asks /readyz of GM_STATUS_INTERFACE and prints the answer.
///
/// # Errors
/// [`CommandFailure`] with status 1: the server takes no mail now (the answer that was printed is the reason), or there is no
/// answer.
pub fn ask_whether_server_is_ready(config: &Config) -> Result<(), CommandFailure> {
    let Some(listening) = config.status_address else {
        return Err(CommandFailure::from(NOT_CONFIGURED.to_owned()));
    };
    if listening.port() == 0 {
        return Err(CommandFailure::from(PORT_IS_ZERO.to_owned()));
    }
    let (address, head_and_body) = request_readyz(listening)?;
    let Some((status, body)) = parse_http_response(&head_and_body) else {
        return Err(format!(
            "{address}: expected an HTTP response to /readyz, but found other octets; set GM_STATUS_INTERFACE as in the \
             configuration of the running server"
        )
        .into());
    };
    let other_program = |expected: &str, found: &str| {
        CommandFailure::from(format!(
            "{address}: expected {expected} for /readyz, but found {found}; another program may listen there: \
             set GM_STATUS_INTERFACE as in the configuration of the running server"
        ))
    };
    match status {
        200 if !body.starts_with(b"ok") => {
            return Err(other_program(
                "a text that begins with \"ok\"",
                "another one",
            ));
        }
        200 | 503 => {}
        _ => return Err(other_program("HTTP status 200 or 503", &status.to_string())),
    }
    let text = String::from_utf8_lossy(body);
    let printable: String = text
        .chars()
        .map(|c| match c == '\n' || is_printable(c) {
            true => c,
            false => char::REPLACEMENT_CHARACTER,
        })
        .collect();
    print_stdout(printable.as_bytes())?;
    match status {
        200 => Ok(()),
        _ => Err(String::new().into()),
    }
}

/// Returns the octets of the response, and the address that sent them.
///
/// # Errors
/// The text names the address and what to do.
fn request_readyz(listening: SocketAddr) -> Result<(SocketAddr, Vec<u8>), String> {
    let until = Instant::now() + TIME_LIMIT;
    let mut addresses = reachable_addresses(listening).into_iter().peekable();
    loop {
        let Some(address) = addresses.next() else {
            return Err(format!("{listening}: no address to connect to"));
        };
        match exchange(address, until) {
            Ok(response) => return Ok((address, response)),
            Err(_) if addresses.peek().is_some() => {}
            Err(error) => return Err(describe_error(address, &error)),
        }
    }
}

/// Returns the addresses at which a server of this machine that listens on `listening` can be reached: the loopback addresses
/// if that is a wildcard.
fn reachable_addresses(listening: SocketAddr) -> Vec<SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port()));
    match listening {
        SocketAddr::V4(wildcard) if wildcard.ip().is_unspecified() => vec![v4],
        // The server accepts IPv4 on this address too, and a container may have no IPv6 loopback address.
        SocketAddr::V6(wildcard) if wildcard.ip().is_unspecified() => {
            vec![
                SocketAddr::from((Ipv6Addr::LOCALHOST, listening.port())),
                v4,
            ]
        }
        address => vec![address],
    }
}

/// Sends the request to `address` and returns the response, at most [`MAX_RESPONSE_OCTETS`] of it.
///
/// # Errors
/// The connection failed, or the response is not complete at `until`.
fn exchange(address: SocketAddr, until: Instant) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect_timeout(&address, time_left(until)?)?;
    socket.set_write_timeout(Some(time_left(until)?))?;
    socket.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut response = Vec::new();
    let mut buffer = [0; 4_096];
    while response.len() < MAX_RESPONSE_OCTETS {
        // A socket timeout applies to each read separately.
        socket.set_read_timeout(Some(time_left(until)?))?;
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => response.extend(buffer.iter().take(count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(response)
}

fn time_left(until: Instant) -> io::Result<Duration> {
    let time_left = until.saturating_duration_since(Instant::now());
    // A rest below 1 ms counts as none: the standard library rejects a socket timeout of zero.
    if time_left < Duration::from_millis(1) {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(time_left)
}

fn describe_error(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => format!(
            "{address}: nothing listens there (GM_STATUS_INTERFACE); start the server, or restart it if the key has changed"
        ),
        // A socket timeout is reported as WouldBlock.
        ErrorKind::TimedOut | ErrorKind::WouldBlock => format!(
            "{address}: no answer to /readyz within {} s (GM_STATUS_INTERFACE); the server may be stopped or overloaded",
            TIME_LIMIT.as_secs()
        ),
        _ => format!(
            "{address}: {error} (GM_STATUS_INTERFACE); expected an answer of the running server to /readyz"
        ),
    }
}

/// Returns the status code and the body of an HTTP response; `None` if `octets` is none.
fn parse_http_response(octets: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    match response.parse(octets) {
        Ok(Status::Complete(head_octets)) => Some((response.code?, octets.get(head_octets..)?)),
        _ => None,
    }
}

/// The error text if GM_STATUS_INTERFACE is empty.
const NOT_CONFIGURED: &str = "GM_STATUS_INTERFACE: expected an address such as \"127.0.0.1:9125\", but found none, so the \
    server answers no health checks; set the key, or the variable GOGUERRILLA_GM_STATUS_INTERFACE, and restart the server";
/// The error text if the kernel chooses the port of GM_STATUS_INTERFACE.
const PORT_IS_ZERO: &str = "GM_STATUS_INTERFACE: expected a fixed port, such as 9125, but found port 0; the log line \
                            status_page has the port that the kernel chose";
/// Time limit for the whole request. The server answers from memory; its own limits for reading and writing are 5 s too.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Maximum size of the response. The server sends one line for each host of MYSQL_HOST.
const MAX_RESPONSE_OCTETS: usize = 65_536;
/// Maximum number of headers of the response. The server sends four.
const MAX_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_address_is_replaced_by_the_loopback_addresses() {
        for (listening, expected) in [
            ("0.0.0.0:9125", &["127.0.0.1:9125"][..]),
            ("[::]:9125", &["[::1]:9125", "127.0.0.1:9125"]),
            ("192.0.2.1:80", &["192.0.2.1:80"]),
            ("[2001:db8::1]:80", &["[2001:db8::1]:80"]),
        ] {
            let addresses = reachable_addresses(listening.parse().unwrap());
            let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            assert_eq!(addresses, expected, "{listening}");
        }
    }

    #[test]
    fn http_response_is_parsed_into_status_and_body() {
        let parsed = parse_http_response(b"HTTP/1.1 503 \r\nA: b\r\n\r\ndraining\n");
        assert_eq!(parsed, Some((503, &b"draining\n"[..])));
        for octets in [
            &b""[..],
            b"220 mx.test ESMTP\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"\xff\xff",
        ] {
            assert_eq!(parse_http_response(octets), None);
        }
    }
}
