//! Detects the protocol that a server at an address speaks, so that `check` can report a wrong port.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A protocol that is recognized by the first octets that a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectedServerProtocol {
    /// MySQL or MariaDB.
    MySql,
    /// The X protocol of MySQL, usually at port 33060.
    MySqlX,
    /// Redis without TLS.
    Redis,
    /// TLS; the protocol inside is unknown.
    Tls,
    /// SSH.
    Ssh,
    /// HTTP.
    Http,
    /// SMTP, or FTP, whose greeting begins with 220 too.
    Smtp,
    /// IMAP.
    Imap,
}

impl fmt::Display for DetectedServerProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DetectedServerProtocol::MySql => "MySQL",
            DetectedServerProtocol::MySqlX => {
                "the X protocol of MySQL (its other port, usually 3306, is needed)"
            }
            DetectedServerProtocol::Redis => "Redis",
            DetectedServerProtocol::Tls => "TLS",
            DetectedServerProtocol::Ssh => "SSH",
            DetectedServerProtocol::Http => "HTTP",
            DetectedServerProtocol::Smtp => "SMTP or FTP",
            DetectedServerProtocol::Imap => "IMAP",
        })
    }
}

impl DetectedServerProtocol {
    /// Detects the protocol at `host:port` or at the path of a Unix socket, within a few seconds; `None` if the protocol is
    /// unknown.
    pub fn detect_server_protocol(address: &str) -> Option<DetectedServerProtocol> {
        let greeting = send_and_read_first_octets(address, b"").unwrap_or_default();
        if let Some(peer) = DetectedServerProtocol::recognize_protocol_in_octets(&greeting) {
            return Some(peer);
        }
        if !greeting.is_empty() {
            return None;
        }
        // The server sends no greeting. Redis reads the HTTP line as a command with too many arguments and sends an error.
        let requests: [&[u8]; 2] = [b"GET / HTTP/1.0\r\n\r\n", CLIENT_HELLO];
        let mut answers = (requests.iter())
            .map(|request| send_and_read_first_octets(address, request).unwrap_or_default());
        answers.find_map(|answer| DetectedServerProtocol::recognize_protocol_in_octets(&answer))
    }

    fn recognize_protocol_in_octets(octets: &[u8]) -> Option<DetectedServerProtocol> {
        const PREFIXES: &[(&[u8], DetectedServerProtocol)] = &[
            (b"SSH-", DetectedServerProtocol::Ssh),
            (b"HTTP/", DetectedServerProtocol::Http),
            (b"<!DOCTYPE", DetectedServerProtocol::Http),
            (b"<html", DetectedServerProtocol::Http),
            (b"220", DetectedServerProtocol::Smtp),
            (b"* OK", DetectedServerProtocol::Imap),
            (b"-ERR ", DetectedServerProtocol::Redis),
            (b"-NOAUTH ", DetectedServerProtocol::Redis),
            (b"-DENIED ", DetectedServerProtocol::Redis),
            (b"-LOADING ", DetectedServerProtocol::Redis),
            (b"-NOPERM ", DetectedServerProtocol::Redis),
            (b"\x15\x03", DetectedServerProtocol::Tls),
            (b"\x16\x03", DetectedServerProtocol::Tls),
        ];
        let known = PREFIXES
            .iter()
            .find(|(prefix, _)| octets.starts_with(prefix));
        if let Some((_, peer)) = known {
            return Some(*peer);
        }
        match octets {
            // The first packet of MySQL: length in three octets, number 0, protocol version 10 or an error (0xff).
            [_, _, 0, 0, 0x0a | 0xff, ..] => Some(DetectedServerProtocol::MySql),
            // A notice of the X protocol: length in four octets, type 11.
            [_, 0, 0, 0, 0x0b, ..] => Some(DetectedServerProtocol::MySqlX),
            _ => None,
        }
    }
}

/// Returns the error with which Redis refuses a connection, such as `DENIED ...`; `None` if no error arrives. Sends nothing:
/// Redis closes the connection after the error, and a client that has already sent octets may get a reset instead of the error.
pub fn redis_refusal_on_connect(address: &str) -> Option<String> {
    let greeting = send_and_read_first_octets(address, b"").ok()?;
    let line = greeting.strip_prefix(b"-")?;
    let line = line.split(|octet| *octet == b'\r').next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// Connects, sends `request` and returns the first octets that arrive within the timeout.
fn send_and_read_first_octets(address: &str, request: &[u8]) -> io::Result<Vec<u8>> {
    match address.starts_with('/') {
        true => {
            let mut stream = UnixStream::connect(address)?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.write_all(request)?;
            read_first_octets_from_server(|octets, timeout| {
                stream.set_read_timeout(Some(timeout))?;
                stream.read(octets)
            })
        }
        false => {
            let address = address.to_socket_addrs()?.next();
            let address = address.ok_or(io::ErrorKind::NotFound)?;
            let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.write_all(request)?;
            read_first_octets_from_server(|octets, timeout| {
                stream.set_read_timeout(Some(timeout))?;
                stream.read(octets)
            })
        }
    }
}

fn read_first_octets_from_server(
    mut read: impl FnMut(&mut [u8], Duration) -> io::Result<usize>,
) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    let mut octets = Vec::new();
    while octets.len() < MAX_FIRST_OCTETS && !octets.contains(&b'\n') {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            break;
        }
        let mut buffer = [0; MAX_FIRST_OCTETS];
        match read(&mut buffer, remaining) {
            Ok(0) | Err(_) => break,
            Ok(count) => octets.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
    Ok(octets)
}

/// Timeout for connecting, for sending a request and for receiving an answer, each.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Number of octets after which reading stops, enough to detect the protocol and to hold the first line of an error.
const MAX_FIRST_OCTETS: usize = 256;
/// A ClientHello of TLS 1.2 with one cipher suite and no extension (RFC 5246 §7.4.1.2). A TLS server answers with a handshake
/// or an alert record, each of which begins with its type and version.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    goguerrilla check: what answers?\x00\x00\x02\xc0\x2f\x01\x00";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_of_a_wrong_server_is_detected_from_its_first_octets() {
        for (octets, want) in [
            (
                &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
                Some(DetectedServerProtocol::Ssh),
            ),
            (
                b"HTTP/1.1 400 Bad Request",
                Some(DetectedServerProtocol::Http),
            ),
            (
                b"J\0\0\0\x0a11.8.2-MariaDB\0",
                Some(DetectedServerProtocol::MySql),
            ),
            (
                b"E\0\0\0\xff\x6a\x04Host",
                Some(DetectedServerProtocol::MySql),
            ),
            (
                b"\x05\0\0\0\x0b\x08\x05\x1a\0",
                Some(DetectedServerProtocol::MySqlX),
            ),
            (
                b"-ERR wrong number of arguments",
                Some(DetectedServerProtocol::Redis),
            ),
            (
                b"-DENIED Redis is running in protected mode",
                Some(DetectedServerProtocol::Redis),
            ),
            (
                b"\x15\x03\x03\0\x02\x02\x28",
                Some(DetectedServerProtocol::Tls),
            ),
            (b"220 mx.test ESMTP\r\n", Some(DetectedServerProtocol::Smtp)),
            (b"", None),
            (b"what?", None),
        ] {
            assert_eq!(
                DetectedServerProtocol::recognize_protocol_in_octets(octets),
                want,
                "{octets:?}"
            );
        }
        // The header of the TLS record takes 5 octets and gives 0x2d as the number of octets that follow.
        assert_eq!(CLIENT_HELLO.len(), 5 + 0x2d);
    }
}
