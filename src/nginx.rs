//! Tells nginx's mail proxy which of its clients to bring to us, and where we are
//! ([ngx_mail_auth_http_module](https://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html)).
//!
//! nginx asks at each RCPT until one was accepted. What it should not bring is refused here, so that junk never costs a
//! connection; in all other cases the session itself says what it thinks of MAIL and RCPT. Nothing of what nginx asks is
//! ever part of an answer or of a log: it is the client's text, and may hold a password.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};

use crate::connection::ConnectionSettings;
use crate::http::{Request, Response};
use crate::locks;
use crate::metrics::{self, AuthAnswer};
use crate::net::pool::Pool;
use crate::smtp::reply::{self, Reply};

/// Answers auth_http.
pub struct AuthHttp {
    /// Who is served.
    pub pool: Arc<Pool>,
    /// By what connections to come are served: the recipients that are ours, and the store.
    pub settings: Arc<RwLock<Arc<ConnectionSettings>>>,
    /// The plain address that we serve SMTP on; may be a wildcard.
    pub smtp_address: SocketAddr,
}

impl AuthHttp {
    /// The answer to one question.
    pub fn answer(&self, question: &Request) -> Response {
        // nginx takes AUTH PLAIN even where it does not offer it, and would call any password right after our OK.
        if question.header("Auth-Method") != Some(b"none") {
            return refuse(&reply::R502_NOT_DONE_HERE, AuthAnswer::OtherMethod);
        }
        let recipient = question.header("Auth-SMTP-To").unwrap_or_default();
        let settings = self.settings();
        if settings.session.current().is_foreign_rcpt(recipient) {
            let refusal = refuse(&reply::R550_NOT_OURS, AuthAnswer::ForeignRecipient);
            return match attempt(question) {
                // Without it nginx closes, and the sender would have to come again for those recipients that are ours.
                ..MAX_FOREIGN_RECIPIENTS => refusal.header("Auth-Wait", 1),
                _ => refusal,
            };
        }
        let has_place = self.pool.places_taken() < self.pool.places();
        if !has_place || settings.saver.health().why_not_ready().is_some() {
            return refuse(&reply::R421_TOO_BUSY, AuthAnswer::NotReady);
        }
        metrics::AUTH_HTTP.count(AuthAnswer::Ok);
        let server = reachable(self.smtp_address.ip(), question.local.ip());
        Response::text(200, "")
            .header("Auth-Status", "OK")
            .header("Auth-Server", server)
            .header("Auth-Port", self.smtp_address.port())
    }

    fn settings(&self) -> Arc<ConnectionSettings> {
        Arc::clone(&locks::read(&self.settings))
    }
}

fn refuse(reply: &Reply, answer: AuthAnswer) -> Response {
    metrics::AUTH_HTTP.count(answer);
    let (status, text) = reply.parts();
    Response::text(200, "")
        .header("Auth-Status", text)
        .header("Auth-Error-Code", status)
}

/// How often nginx has asked for this client, this time included.
fn attempt(question: &Request) -> u32 {
    let digits = question.header("Auth-Login-Attempt").unwrap_or_default();
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok());
    number.unwrap_or(1)
}

/// A numeric address for nginx to connect to. A wildcard would send it to its own machine, so there it is told the address
/// that it reached us by.
fn reachable(listening: IpAddr, reached: IpAddr) -> IpAddr {
    match (listening, reached) {
        (IpAddr::V4(wildcard), IpAddr::V6(ip)) if wildcard.is_unspecified() && ip.is_loopback() => {
            Ipv4Addr::LOCALHOST.into()
        }
        (wildcard, _) if wildcard.is_unspecified() => reached,
        (ip, _) => ip,
    }
}

/// A session may name this many recipients that are not ours, each for a second of waiting; the next one ends it.
const MAX_FOREIGN_RECIPIENTS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_is_told_an_address_that_it_can_reach() {
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
            let told = reachable(listening.parse().unwrap(), reached.parse().unwrap());
            assert_eq!(
                told,
                want.parse::<IpAddr>().unwrap(),
                "{listening} by {reached}"
            );
        }
    }
}
