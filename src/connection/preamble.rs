//! What comes before the greeting.

use std::net::IpAddr;
use std::time::Instant;

use super::waiting::Deadlines;
use super::{Connection, close_reason};
use crate::metrics::{self, CloseReason};
use crate::net::proxy_protocol::{self, ProxySource, ReceiveError, ReceivedHeader};
use crate::smtp::reply;

impl Connection<'_> {
    /// What comes before the greeting: the header of the PROXY protocol, then the handshake on a port for TLS.
    pub(super) fn negotiate(&mut self) -> Result<(), CloseReason> {
        let named = match self.settings.proxy_protocol {
            true => self.receive_proxy_header()?,
            false => None,
        };
        if self.client.is_trusted_proxy {
            self.session.trust_proxy(named);
        }
        match self.client.implicit_tls {
            true => self.start_tls(),
            false => Ok(()),
        }
    }

    /// The client's address, if the proxy knows it. Before a header nothing is ever said.
    fn receive_proxy_header(&mut self) -> Result<Option<IpAddr>, CloseReason> {
        let client = self.client;
        if !client.is_trusted_proxy {
            self.transport.lingering_close();
            return Err(CloseReason::UntrustedProxy);
        }
        // Nothing is under way yet: the pool may end this wait when the server shuts down.
        if !client.mark_idle(true) {
            return Err(CloseReason::Shutdown);
        }
        let received = proxy_protocol::receive(&mut self.transport);
        if !client.mark_busy() {
            return Err(CloseReason::Shutdown);
        }
        let ReceivedHeader { source, rest } = received.map_err(|error| match error {
            ReceiveError::NoData => CloseReason::NoData,
            ReceiveError::Malformed => {
                self.transport.lingering_close();
                CloseReason::NoProxyHeader
            }
            ReceiveError::Transport(error) => close_reason(&error),
        })?;
        match client.implicit_tls {
            true => self.transport.prepend(rest),
            false => {
                self.octets_in += rest.len() as u64;
                metrics::RECEIVED_BYTES.add((), rest.len());
                self.input.push(&rest);
            }
        }
        // The client's time begins with it: until here its proxy was waited for.
        self.deadlines = Deadlines::new(Instant::now());
        let named = match source {
            ProxySource::Client(ip) => Some(ip),
            ProxySource::Unknown => None,
            ProxySource::HealthCheck => {
                self.is_health_check = true;
                None
            }
        };
        if named.is_some() && !client.set_client_address(named) {
            // In the plain to nobody who expects TLS.
            if !client.implicit_tls {
                self.close(&reply::R421_TOO_MANY_FROM_ADDRESS);
            }
            return Err(CloseReason::AddressLimitReached);
        }
        Ok(named)
    }
}
