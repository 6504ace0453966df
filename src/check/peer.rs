//! What kind of server answers at an address: a wrong port is reported in words.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A protocol that can be told by its first octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// MySQL or MariaDB.
    MySql,
    /// The X protocol of MySQL, usually at port 33060.
    MySqlX,
    /// Redis without TLS.
    Redis,
    /// Anything that begins with a TLS handshake.
    Tls,
    /// SSH.
    Ssh,
    /// HTTP.
    Http,
    /// SMTP, or FTP, which greets the same way.
    Smtp,
    /// IMAP.
    Imap,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Peer::MySql => "MySQL",
            Peer::MySqlX => "the X protocol of MySQL (its other port, usually 3306, is needed)",
            Peer::Redis => "Redis",
            Peer::Tls => "TLS",
            Peer::Ssh => "SSH",
            Peer::Http => "HTTP",
            Peer::Smtp => "SMTP or FTP",
            Peer::Imap => "IMAP",
        })
    }
}

impl Peer {
    /// Looks what answers at `host:port` or at the path of a socket, for a few seconds at most; `None` when that cannot be told.
    pub fn at(place: &str) -> Option<Peer> {
        let greeting = ask(place, b"").unwrap_or_default();
        if let Some(peer) = Peer::of_octets(&greeting) {
            return Some(peer);
        }
        if !greeting.is_empty() {
            return None;
        }
        // Silent until asked. Redis reads this line as a command with too many words.
        let questions: [&[u8]; 2] = [b"GET / HTTP/1.0\r\n\r\n", CLIENT_HELLO];
        let mut answers =
            (questions.iter()).map(|question| ask(place, question).unwrap_or_default());
        answers.find_map(|answer| Peer::of_octets(&answer))
    }

    fn of_octets(octets: &[u8]) -> Option<Peer> {
        const BEGINNINGS: &[(&[u8], Peer)] = &[
            (b"SSH-", Peer::Ssh),
            (b"HTTP/", Peer::Http),
            (b"<!DOCTYPE", Peer::Http),
            (b"<html", Peer::Http),
            (b"220", Peer::Smtp),
            (b"* OK", Peer::Imap),
            (b"-ERR ", Peer::Redis),
            (b"-NOAUTH ", Peer::Redis),
            (b"-DENIED ", Peer::Redis),
            (b"-LOADING ", Peer::Redis),
            (b"-NOPERM ", Peer::Redis),
            (b"\x15\x03", Peer::Tls),
            (b"\x16\x03", Peer::Tls),
        ];
        let known = BEGINNINGS
            .iter()
            .find(|(beginning, _)| octets.starts_with(beginning));
        if let Some((_, peer)) = known {
            return Some(*peer);
        }
        match octets {
            // The first packet: its length, number 0, protocol version 10 or an error.
            [_, _, 0, 0, 0x0a | 0xff, ..] => Some(Peer::MySql),
            // A notice of its X protocol: the length in four octets, type 11.
            [_, 0, 0, 0, 0x0b, ..] => Some(Peer::MySqlX),
            _ => None,
        }
    }
}

/// Returns the line with which a Redis refuses a connection, such as `DENIED ...`. It closes at once, and a client that
/// has written by then reads nothing but the end.
pub fn refusal_of_redis(place: &str) -> Option<String> {
    let greeting = ask(place, b"").ok()?;
    let line = greeting.strip_prefix(b"-")?;
    let line = line.split(|octet| *octet == b'\r').next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// Connects, writes, and returns the first octets that come within a second.
fn ask(place: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    match place.starts_with('/') {
        true => {
            let mut stream = UnixStream::connect(place)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(question)?;
            first_octets(|octets, left| {
                stream.set_read_timeout(Some(left))?;
                stream.read(octets)
            })
        }
        false => {
            let address = place.to_socket_addrs()?.next();
            let address = address.ok_or(io::ErrorKind::NotFound)?;
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(question)?;
            first_octets(|octets, left| {
                stream.set_read_timeout(Some(left))?;
                stream.read(octets)
            })
        }
    }
}

fn first_octets(
    mut read: impl FnMut(&mut [u8], Duration) -> io::Result<usize>,
) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut octets = Vec::new();
    while octets.len() < MIN_OCTETS && !octets.contains(&b'\n') {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let mut some = [0; MIN_OCTETS];
        match read(&mut some, left) {
            Ok(0) | Err(_) => break,
            Ok(count) => octets.extend_from_slice(some.get(..count).unwrap_or_default()),
        }
    }
    Ok(octets)
}

/// For each connection and answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Octets that tell the protocols apart, and hold the first line of a refusal.
const MIN_OCTETS: usize = 256;
/// A ClientHello of TLS 1.2 with one cipher suite and no extension (RFC 5246, section 7.4.1.2): a TLS server answers with a
/// handshake or an alert, both of which begin with their type and version.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    goguerrilla check: what answers?\x00\x00\x02\xc0\x2f\x01\x00";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_protocol_is_detected_from_its_first_octets() {
        for (octets, want) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], Some(Peer::Ssh)),
            (b"HTTP/1.1 400 Bad Request", Some(Peer::Http)),
            (b"J\0\0\0\x0a11.8.2-MariaDB\0", Some(Peer::MySql)),
            (b"E\0\0\0\xff\x6a\x04Host", Some(Peer::MySql)),
            (b"\x05\0\0\0\x0b\x08\x05\x1a\0", Some(Peer::MySqlX)),
            (b"-ERR wrong number of arguments", Some(Peer::Redis)),
            (
                b"-DENIED Redis is running in protected mode",
                Some(Peer::Redis),
            ),
            (b"\x15\x03\x03\0\x02\x02\x28", Some(Peer::Tls)),
            (b"220 mx.test ESMTP\r\n", Some(Peer::Smtp)),
            (b"", None),
            (b"what?", None),
        ] {
            assert_eq!(Peer::of_octets(octets), want, "{octets:?}");
        }
        // The length of the record, and of the handshake message inside it.
        assert_eq!(CLIENT_HELLO.len(), 5 + 0x2d);
    }
}
