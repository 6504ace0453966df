//! The part of a connection before the greeting: PROXY protocol header and implicit TLS.

use std::net::IpAddr;
use std::time::Instant;

use super::deadlines::Deadlines;
use super::{ClientConnection, close_reason_of_io_error};
use crate::metrics::CloseReason;
use crate::net::proxy_protocol::{self, ParsedProxyHeader, ProxyHeaderClient, ProxyHeaderError};
use crate::smtp::reply;

impl ClientConnection<'_> {
    /// Receives the PROXY protocol header if it is configured, then does the TLS handshake on an implicit-TLS port.
    pub(super) fn receive_proxy_header_and_start_tls(&mut self) -> Result<(), CloseReason> {
        let client_address = match self.settings.proxy_protocol {
            true => self.receive_proxy_header()?,
            false => None,
        };
        if self.client.is_trusted_proxy {
            self.session.enable_xclient(client_address);
        }
        match self.client.implicit_tls {
            true => self.start_tls(),
            false => Ok(()),
        }
    }

    /// Receives the PROXY protocol header; returns the client's address if the header has one. Nothing is sent before the
    /// header is complete.
    fn receive_proxy_header(&mut self) -> Result<Option<IpAddr>, CloseReason> {
        let client = self.client;
        if !client.is_trusted_proxy {
            self.transport.lingering_close();
            return Err(CloseReason::UntrustedProxy);
        }
        // The client is marked idle, so that the pool can end the wait for the PROXY header at shutdown.
        if !client.set_idle(true) {
            return Err(CloseReason::Shutdown);
        }
        let received = proxy_protocol::read_proxy_header(&mut self.transport);
        if !client.mark_busy() {
            return Err(CloseReason::Shutdown);
        }
        let ParsedProxyHeader { source, rest } = received.map_err(|error| match error {
            ProxyHeaderError::NoData => CloseReason::NoData,
            ProxyHeaderError::Malformed => {
                self.transport.lingering_close();
                CloseReason::NoProxyHeader
            }
            ProxyHeaderError::Transport(error) => close_reason_of_io_error(&error),
        })?;
        match client.implicit_tls {
            true => self.transport.set_octets_before_handshake(rest),
            false => {
                self.octets_in += rest.len() as u64;
                self.metrics.received_bytes.add((), rest.len());
                self.input.push(&rest);
            }
        }
        // The proxy used the time until here, so the deadlines of the client begin now.
        self.deadlines = Deadlines::new(Instant::now());
        let client_address = match source {
            ProxyHeaderClient::Client(ip) => Some(ip),
            ProxyHeaderClient::Unknown => None,
            ProxyHeaderClient::HealthCheck => {
                self.is_health_check = true;
                None
            }
        };
        if client_address.is_some() && !client.try_set_client_address(client_address) {
            // A plaintext reply is never sent on an implicit-TLS port.
            if !client.implicit_tls {
                self.close(&reply::R421_TOO_MANY_FROM_ADDRESS);
            }
            return Err(CloseReason::AddressLimitReached);
        }
        Ok(client_address)
    }
}
