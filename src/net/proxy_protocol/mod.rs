//! The PROXY protocol, versions 1 and 2: a header at the start of a connection in which a proxy names its client
//! ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)).

mod header;
mod v1;
mod v2;

use std::time::{Duration, Instant};

use super::deadline::Deadline;
use super::transport::{ClientIoError, ClientTransport};
use header::MAX_HEADER_OCTETS;
pub use header::{ProxyHeaderClient, ProxyHeaderParse};

/// A complete header.
#[derive(Debug)]
pub struct ParsedProxyHeader {
    /// The client that the header names.
    pub source: ProxyHeaderClient,
    /// Octets that were received after the header: the first octets that the client sent.
    pub rest: Vec<u8>,
}

/// Why no valid PROXY header was received. The server sends nothing to such a peer.
#[derive(Debug)]
pub enum ProxyHeaderError {
    /// The peer closed without sending an octet, like a load balancer's TCP health check.
    NoData,
    /// The peer sent no header, an incomplete one or an invalid one.
    Malformed,
    /// The header did not arrive in time, or the connection broke.
    Transport(ClientIoError),
}

/// Reads a PROXY header within five seconds, with a fixed buffer whatever length the header declares.
///
/// # Errors
/// [`ProxyHeaderError`].
#[expect(
    clippy::indexing_slicing,
    reason = "a read fills no more than the buffer it was given, so `filled` stays within all of it"
)]
pub fn read_proxy_header(
    transport: &mut ClientTransport,
) -> Result<ParsedProxyHeader, ProxyHeaderError> {
    let deadline = Deadline::new_command_deadline(Instant::now(), HEADER_TIMEOUT);
    let mut buffer = [0; MAX_HEADER_OCTETS];
    let mut filled = 0;
    let (source, octets) = loop {
        match read(transport, &mut buffer[filled..], &deadline)? {
            0 if filled == 0 => return Err(ProxyHeaderError::NoData),
            0 => return Err(ProxyHeaderError::Malformed),
            count => filled += count,
        }
        match ProxyHeaderParse::parse(&buffer[..filled]) {
            ProxyHeaderParse::Partial => {}
            ProxyHeaderParse::Malformed => return Err(ProxyHeaderError::Malformed),
            ProxyHeaderParse::Complete { source, octets } => break (source, octets),
        }
    };
    if let Some(rest) = buffer[..filled].get(octets..) {
        let rest = rest.to_vec();
        return Ok(ParsedProxyHeader { source, rest });
    }
    // Reads and discards the rest of a header that is longer than the buffer or has not fully arrived.
    let mut remaining = octets - filled;
    while remaining > 0 {
        let count = remaining.min(buffer.len());
        match read(transport, &mut buffer[..count], &deadline)? {
            0 => return Err(ProxyHeaderError::Malformed),
            count => remaining -= count,
        }
    }
    let rest = Vec::new();
    Ok(ParsedProxyHeader { source, rest })
}

fn read(
    transport: &mut ClientTransport,
    buffer: &mut [u8],
    deadline: &Deadline,
) -> Result<usize, ProxyHeaderError> {
    transport
        .read(buffer, deadline)
        .map_err(ProxyHeaderError::Transport)
}

/// Time limit for receiving a PROXY header. The specification asks for at least 3 seconds, enough for one retransmission. With
/// more than 5 seconds, a silent peer would hold its connection slot too long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
