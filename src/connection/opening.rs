//! What comes before the greeting.

use std::net::IpAddr;
use std::time::Instant;

use super::waiting::Deadlines;
use super::{Connection, end_of};
use crate::metrics::{self, End};
use crate::net::proxy::{self, ReceiveError, Received, Source};
use crate::smtp::reply;

impl Connection<'_> {
    /// What comes before the greeting: the header of the PROXY protocol, then the handshake on a port for TLS.
    pub(super) fn begin(&mut self) -> Result<(), End> {
        let named = match self.settings.proxy_protocol {
            true => self.receive_proxy_header()?,
            false => None,
        };
        if self.client.is_trusted_proxy {
            self.session.believe_proxy(named);
        }
        match self.client.tls_at_once {
            true => self.start_tls(),
            false => Ok(()),
        }
    }

    /// The client's address, if the proxy knows it. Before a header nothing is ever said.
    fn receive_proxy_header(&mut self) -> Result<Option<IpAddr>, End> {
        let client = self.client;
        if !client.is_trusted_proxy {
            self.transport.close_gently();
            return Err(End::NotTrusted);
        }
        // Nothing is under way yet: the pool may end this wait when the server shuts down.
        if !client.may_stay(true) {
            return Err(End::ShuttingDown);
        }
        let received = proxy::receive(&mut self.transport);
        if !client.may_begin() {
            return Err(End::ShuttingDown);
        }
        let Received { source, rest } = received.map_err(|error| match error {
            ReceiveError::Nothing => End::NothingSaid,
            ReceiveError::Malformed => {
                self.transport.close_gently();
                End::NoProxyHeader
            }
            ReceiveError::Transport(error) => end_of(&error),
        })?;
        match client.tls_at_once {
            true => self.transport.hold(rest),
            false => {
                self.octets_in += rest.len() as u64;
                metrics::RECEIVED.add((), rest.len());
                self.input.push(&rest);
            }
        }
        // The client's time begins with it: until here its proxy was waited for.
        self.deadlines = Deadlines::new(Instant::now());
        let named = match source {
            Source::Client(ip) => Some(ip),
            Source::Unknown => None,
            Source::HealthCheck => {
                self.is_health_check = true;
                None
            }
        };
        if named.is_some() && !client.becomes(named) {
            // In the plain to nobody who expects TLS.
            if !client.tls_at_once {
                self.close(&reply::R421_TOO_MANY_FROM_ADDRESS);
            }
            return Err(End::RefusedPerAddress);
        }
        Ok(named)
    }
}
