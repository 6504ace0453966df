//! Answers nginx's auth_http requests: whether nginx may connect a client to this server, and at which address
//! ([ngx_mail_auth_http_module](https://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html)).
//!
//! nginx sends a request at each RCPT until a recipient is accepted. A recipient in a domain that is not accepted, or one that
//! GM_RECIPIENT_QUERY does not find, is rejected here, so that nginx opens no SMTP connection for it. The SMTP session decides
//! everything else, and asks the recipient hook of an embedding program.
//! No request header is ever copied into a response or the log, because headers contain text from the client and may contain a
//! password.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::connection::{ConnectionSettings, SharedSettings};
use crate::http::{HttpRequest, HttpResponse};
use crate::metrics::AuthAnswer;
use crate::net::accept_pool::AcceptPool;
use crate::smtp::RecipientCheck;
use crate::smtp::reply::{self, Reply};

/// Answers nginx's auth_http requests.
pub struct NginxAuthEndpoint {
    /// Provides the number of free connection slots.
    pub pool: Arc<AcceptPool>,
    /// Settings of new connections: accepted domains and the store.
    pub settings: Arc<SharedSettings>,
    /// The listening address for plaintext SMTP; may be a wildcard.
    pub smtp_address: SocketAddr,
}

impl NginxAuthEndpoint {
    /// Returns the answer to one auth_http request of nginx.
    pub fn handle(&self, request: &HttpRequest) -> HttpResponse {
        // nginx passes on AUTH PLAIN even if it does not offer AUTH. The answer `OK` would then mean that any password is
        // valid.
        if request.request_header_value("Auth-Method") != Some(b"none") {
            return self.auth_http_rejection_response(
                &reply::R502_NOT_IMPLEMENTED,
                AuthAnswer::OtherMethod,
            );
        }
        let recipient = request
            .request_header_value("Auth-SMTP-To")
            .unwrap_or_default();
        let settings = self.settings();
        if settings.session.is_relay_rcpt(recipient) {
            let denied = &reply::R550_RELAY_DENIED;
            return self.refuse_recipient(request, denied, AuthAnswer::RelayDenied);
        }
        let has_free_slot = self.pool.taken_connection_slots() < self.pool.connection_slot_count();
        if self.pool.is_draining() || !has_free_slot {
            return self.auth_http_rejection_response(&reply::R421_TOO_BUSY, AuthAnswer::NotReady);
        }
        if let Some((hook, address)) = settings.session.timely_hook_for_rcpt(recipient) {
            match hook.check(&address) {
                RecipientCheck::Accept => {}
                RecipientCheck::Reject => {
                    let unknown = &reply::R550_USER_UNKNOWN;
                    return self.refuse_recipient(request, unknown, AuthAnswer::UserUnknown);
                }
                RecipientCheck::Defer => {
                    let failed = &reply::R451_RECIPIENT_LOOKUP_FAILED;
                    return self.refuse_recipient(request, failed, AuthAnswer::LookupFailed);
                }
            }
        }
        if settings.saver.health().store_unready_reason().is_some() {
            return self.auth_http_rejection_response(&reply::R421_TOO_BUSY, AuthAnswer::NotReady);
        }
        self.pool.metrics().auth_http.count(AuthAnswer::Ok);
        let server = ip_for_nginx_to_connect_to(self.smtp_address.ip(), request.local.ip());
        HttpResponse::plain_text_response(200, "")
            .with_http_header("Auth-Status", "OK")
            .with_http_header("Auth-Server", server)
            .with_http_header("Auth-Port", self.smtp_address.port())
    }

    /// Returns the response that rejects this recipient, and lets the client try others.
    fn refuse_recipient(
        &self,
        request: &HttpRequest,
        reply: &Reply,
        answer: AuthAnswer,
    ) -> HttpResponse {
        let refusal = self.auth_http_rejection_response(reply, answer);
        match nginx_auth_attempt_number(request) {
            // Without Auth-Wait nginx closes the client's connection, and the client needs a new one for its other recipients.
            ..MAX_DENIED_RECIPIENTS => refusal.with_http_header("Auth-Wait", 1),
            _ => refusal,
        }
    }

    fn auth_http_rejection_response(&self, reply: &Reply, answer: AuthAnswer) -> HttpResponse {
        self.pool.metrics().auth_http.count(answer);
        let (status, text) = reply.reply_code_and_text();
        HttpResponse::plain_text_response(200, "")
            .with_http_header("Auth-Status", text)
            .with_http_header("Auth-Error-Code", status)
    }

    fn settings(&self) -> Arc<ConnectionSettings> {
        self.settings.current()
    }
}

/// Returns the number of nginx's requests for this client so far, including this one.
fn nginx_auth_attempt_number(request: &HttpRequest) -> u32 {
    let digits = request
        .request_header_value("Auth-Login-Attempt")
        .unwrap_or_default();
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok());
    number.unwrap_or(1)
}

/// Returns the IP address for nginx to connect to: `listening` or, if that is a wildcard, `reached`, the local address of the
/// HTTP connection. nginx would take a wildcard as an address of its own machine.
fn ip_for_nginx_to_connect_to(listening: IpAddr, reached: IpAddr) -> IpAddr {
    match (listening, reached) {
        (IpAddr::V4(wildcard), IpAddr::V6(ip)) if wildcard.is_unspecified() && ip.is_loopback() => {
            Ipv4Addr::LOCALHOST.into()
        }
        (wildcard, _) if wildcard.is_unspecified() => reached,
        (ip, _) => ip,
    }
}

/// Number of the client's request at which a rejected recipient ends its session. Each earlier rejection costs the client a
/// pause of one second.
const MAX_DENIED_RECIPIENTS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_http_replaces_a_wildcard_listen_address_by_a_reachable_one() {
        for (listening, reached, want) in [
            ("192.0.2.1", "127.0.0.1", "192.0.2.1"),
            ("::1", "127.0.0.1", "::1"),
            ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "192.0.2.1", "192.0.2.1"),
            ("0.0.0.0", "::1", "127.0.0.1"),
            ("::", "::1", "::1"),
            ("::", "192.0.2.1", "192.0.2.1"),
            ("::", "2001:db8::1", "2001:db8::1"),
        ] {
            let advertised =
                ip_for_nginx_to_connect_to(listening.parse().unwrap(), reached.parse().unwrap());
            assert_eq!(
                advertised,
                want.parse::<IpAddr>().unwrap(),
                "{listening} by {reached}"
            );
        }
    }
}
