//! The TLS handshake, after STARTTLS or at once on an implicit-TLS port.

use std::time::Instant;

use super::{ClientConnection, close_reason_of_io_error};
use crate::metrics::{CloseReason, Handshake};
use crate::net::deadline::Deadline;
use crate::net::transport::ClientIoError;

impl ClientConnection<'_> {
    /// Performs the TLS handshake; one deadline applies to the whole handshake. After a failed handshake no reply is sent.
    pub(super) fn start_tls(&mut self) -> Result<(), CloseReason> {
        let credentials = self.settings.tls.as_ref().ok_or(CloseReason::TlsFailed)?;
        let now = Instant::now();
        let commands_since = self.deadlines.start_of_commands_without_mail(now);
        let deadline = Deadline::new_command_deadline(now, self.settings.client_timeout)
            .with_command_period_start(commands_since);
        // The client is marked idle, so that the pool can end the handshake at shutdown.
        if !self.client.set_idle(true) {
            return Err(CloseReason::Shutdown);
        }
        let outcome = self
            .transport
            .do_tls_handshake(credentials.rustls_server_config(), &deadline);
        let is_draining = !self.client.mark_busy();
        match outcome {
            Err(_) if is_draining => Err(CloseReason::Shutdown),
            Ok(negotiated) => {
                self.metrics.handshakes.count(match negotiated.version {
                    "TLSv1_2" => Handshake::Tls12,
                    _ => Handshake::Tls13,
                });
                self.tls = Some(negotiated);
                self.session.reset_after_tls_handshake();
                match is_draining {
                    true => Err(self.close_for_shutdown()),
                    false => Ok(()),
                }
            }
            Err(error) => {
                self.metrics.handshakes.count(Handshake::Failed);
                // A disconnect before the end of the handshake on an implicit-TLS port is not logged.
                if self.octets_in > 0 || !matches!(error, ClientIoError::ConnectionReset(_)) {
                    let session = self.client.session_id();
                    log::info!(session:% = session, client:% = self.client.ip(), reason:% = error; "tls_failed");
                }
                Err(close_reason_of_io_error(&error))
            }
        }
    }
}
