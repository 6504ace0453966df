//! HTTP requests to auth_http, from nginx and from hostile clients: the request head and the answer to it.
#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use goguerrilla::internals::connection::{ConnectionSettings, SharedSettings};
use goguerrilla::internals::http::auth_http::NginxAuthEndpoint;
use goguerrilla::internals::http::{self, HttpRequestHandler};
use goguerrilla::internals::metrics::Metrics;
use goguerrilla::internals::net::accept_pool::{
    AcceptPool, AcceptPoolSettings, CLIENT_STACK_OCTETS,
};
use goguerrilla::internals::net::trusted_proxies::TrustedProxies;
use goguerrilla::internals::smtp::{MemoryBudget, TlsState};
use goguerrilla::internals::store::SaveQueue;
use goguerrilla_fuzz::{Dialogue, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|head: &[u8]| {
    // A connection reads at most 8,192 octets.
    let head = &head[..head.len().min(8_192)];
    let answer = respond(head);
    // The connection parses at each line end. Once an answer is decided, further lines must not change it.
    let line_ends = head
        .iter()
        .enumerate()
        .filter(|(_, octet)| **octet == b'\n');
    for (end, _) in line_ends.take(80) {
        if let Some(early) = respond(&head[..=end]) {
            assert_eq!(
                answer.as_ref().map(without_date),
                Some(without_date(&early))
            );
        }
    }
    if let Some(answer) = answer {
        check(head, &answer);
    }
});

fn check(head: &[u8], answer: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = parsed.parse(answer).expect("our own answer").unwrap();
    let header = |name: &str| {
        let mut found = parsed.headers.iter().filter(|header| header.name == name);
        let value = found
            .next()
            .map(|header| std::str::from_utf8(header.value).expect("ASCII"));
        assert!(found.next().is_none(), "{name} twice");
        value
    };
    for header in parsed.headers.iter() {
        assert!(ALLOWED.contains(&header.name), "{}", header.name);
        assert!(header.value.iter().all(|octet| (32..127).contains(octet)));
    }
    let is_head = head.trim_ascii_start().starts_with(b"HEAD ");
    if !is_head {
        let body = answer.len() - length;
        assert_eq!(header("Content-Length"), Some(body.to_string().as_str()));
    }
    let code = parsed.code.expect("a status");
    if code != 200 {
        assert!([400, 405, 431].contains(&code), "{code}");
        return;
    }
    // Parses the request with the crate that the server uses too.
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    assert!(request.parse(head).expect("it was answered").is_complete());
    let request_header = |name: &str| {
        let mut headers = request.headers.iter();
        let header = headers.find(|header| header.name.eq_ignore_ascii_case(name));
        header
            .map(|header| header.value.trim_ascii())
            .unwrap_or_default()
    };
    let is_http_request = session_rejects_relay(request_header("Auth-SMTP-To"));
    match (header("Auth-Status"), header("Auth-Error-Code")) {
        (Some("OK"), None) => {
            assert_eq!(request_header("Auth-Method"), b"none");
            assert!(!is_http_request);
            assert_eq!(header("Auth-Server"), Some("192.0.2.2"));
            assert_eq!(header("Auth-Port"), Some("2525"));
        }
        (Some(_), Some("502 5.5.1")) => assert_ne!(request_header("Auth-Method"), b"none"),
        (Some(_), Some("550 5.7.1")) => assert!(is_http_request),
        other => panic!("{other:?}"),
    }
}

/// Returns whether a session would reply 550 to the RCPT command that nginx forwards. If a session cannot receive this
/// line, because it is too long or only a forward-path, asks the settings directly.
fn session_rejects_relay(line: &[u8]) -> bool {
    let verb = line
        .split(|octet| *octet == b' ')
        .next()
        .unwrap_or_default();
    let is_rcpt = verb.eq_ignore_ascii_case(b"RCPT");
    if line.len() > 2_046 || !is_rcpt {
        return SETTINGS.current().session.is_relay_rcpt(line);
    }
    let mut dialogue = Dialogue::new(100, 1_000, TlsState::Unavailable);
    dialogue.receive(b"EHLO c\r\nMAIL FROM:<> SMTPUTF8\r\n");
    let seen = dialogue.receive(&[line, b"\r\n"].concat());
    matches!(&seen[..], [step] if step.code() == 550)
}

fn respond(head: &[u8]) -> Option<Vec<u8>> {
    let peer = SocketAddr::from(([192, 0, 2, 3], 1_000));
    let local = SocketAddr::from(([192, 0, 2, 2], 8_025));
    http::http_response_to_request_head(head, peer, local, &METRICS, &HANDLER)
        .map(|answer| answer.octets)
}

fn without_date(answer: &Vec<u8>) -> Vec<u8> {
    let lines = answer.split_inclusive(|octet| *octet == b'\n');
    lines
        .filter(|line| !line.starts_with(b"Date: "))
        .collect::<Vec<_>>()
        .concat()
}

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(Arc::default);

static SETTINGS: LazyLock<Arc<SharedSettings>> = LazyLock::new(|| {
    SharedSettings::new(ConnectionSettings {
        session: settings(100),
        configured_session: settings(100),
        store_limits: Arc::default(),
        client_timeout: Duration::from_secs(1),
        hold_time: Duration::ZERO,
        budget: MemoryBudget::new(1_000),
        saver: SaveQueue::new_discarding(Arc::clone(&METRICS)),
        proxy_protocol: false,
        tls: None,
        accept: Arc::new(pool_settings()),
        feed_clients: Arc::default(),
    })
});

fn pool_settings() -> AcceptPoolSettings {
    AcceptPoolSettings {
        max_clients: 1,
        trusted_proxies: TrustedProxies::new(Vec::new()),
        max_clients_per_address: 0,
        busy_reply: Vec::new(),
        address_limit_reply: Vec::new(),
    }
}

static HANDLER: LazyLock<HttpRequestHandler> = LazyLock::new(|| {
    let responder = NginxAuthEndpoint {
        pool: AcceptPool::new(
            Box::new(|| Arc::new(pool_settings())),
            Arc::clone(&METRICS),
            Box::new(|_| ()),
            CLIENT_STACK_OCTETS,
        ),
        settings: Arc::clone(&SETTINGS),
        smtp_address: ([0, 0, 0, 0], 2_525).into(),
    };
    Arc::new(move |question| responder.handle(question))
});

const ALLOWED: &[&str] = &[
    "Date",
    "Content-Type",
    "Content-Length",
    "Connection",
    "Allow",
    "Auth-Status",
    "Auth-Server",
    "Auth-Port",
    "Auth-Wait",
    "Auth-Error-Code",
];
