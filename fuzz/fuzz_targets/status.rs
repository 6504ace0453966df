//! HTTP requests to the status endpoints, of which a page of another site may send some: the page, its data and `/feed` are
//! sent only to requests that the guard, compared with a model, lets pass. The first octet selects the server and the client.
#![no_main]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use goguerrilla::internals::connection::{ConnectionSettings, SharedSettings};
use goguerrilla::internals::feed::Feed;
use goguerrilla::internals::http::status::StatusRequestHandler;
use goguerrilla::internals::http::{HttpAnswer, HttpRequestHandler, http_response_to_request_head};
use goguerrilla::internals::metrics::Metrics;
use goguerrilla::internals::net::accept_pool::{
    AcceptPool, AcceptPoolSettings, CLIENT_STACK_OCTETS,
};
use goguerrilla::internals::net::trusted_proxies::TrustedProxies;
use goguerrilla::internals::smtp::{MemoryBudget, SessionSettings};
use goguerrilla::internals::store::SaveQueue;
use goguerrilla_fuzz::settings;
use httparse::Request;
use libfuzzer_sys::fuzz_target;
use regex::Regex;

fuzz_target!(|data: &[u8]| {
    let Some((kind, head)) = data.split_first() else {
        return;
    };
    // A connection reads at most 8,192 octets.
    let head = &head[..head.len().min(8_192)];
    let server = &SERVERS[usize::from(kind % 2)];
    let is_feed_client = kind / 2 % 2 == 0;
    let peer: IpAddr = match is_feed_client {
        true => [127, 0, 0, 1].into(),
        false => [192, 0, 2, 3].into(),
    };
    let answer = server.respond(head, peer);
    if let Some(answer) = answer {
        server.check(head, &answer, is_feed_client);
    }
    assert_eq!(server.metrics.snapshot().panics, 0);
    // Answers that were not sent leave no reader.
    let reader = server.feed.open_reader();
    assert!(reader.is_some());
});

/// A server whose feed is on or off.
struct Server {
    has_feed: bool,
    feed: Arc<Feed>,
    metrics: Arc<Metrics>,
    handler: HttpRequestHandler,
}

impl Server {
    fn respond(&self, head: &[u8], peer: IpAddr) -> Option<HttpAnswer> {
        let peer = SocketAddr::new(peer, 1_000);
        let local = SocketAddr::from(([192, 0, 2, 2], 9_125));
        http_response_to_request_head(head, peer, local, &self.metrics, &self.handler)
    }

    fn check(&self, head: &[u8], answer: &HttpAnswer, is_feed_client: bool) {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&answer.octets).expect("our own answer");
        let body = &answer.octets[parsed.unwrap()..];
        let code = response.code.expect("a status");
        let header = |name: &str| {
            let mut found = response.headers.iter().filter(|one| one.name == name);
            let value = found
                .next()
                .map(|one| std::str::from_utf8(one.value).expect("ASCII"));
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        for one in response.headers.iter() {
            assert!(!one.name.starts_with("Access-Control-"), "{}", one.name);
            assert!(one.value.iter().all(|octet| (32..127).contains(octet)));
        }
        assert_eq!(header("Connection"), Some("close"));
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = Request::new(&mut headers);
        let is_request = request.parse(head).is_ok_and(|status| status.is_complete());
        if !is_request {
            assert!(matches!(code, 400 | 431), "{code}");
            return;
        }
        let method = request.method.unwrap_or_default();
        if method != "GET" && method != "HEAD" {
            assert_eq!((code, header("Allow")), (405, Some("GET, HEAD")));
            return;
        }
        let target = request.path.unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        assert_eq!(
            code,
            self.expected_code(&request, path, query, is_feed_client),
            "{target}"
        );
        let is_stream = path == "/feed" && code == 200;
        assert_eq!(answer.stream.is_some(), is_stream && method == "GET");
        assert_eq!(header("Content-Length").is_none(), is_stream);
        if method == "HEAD" {
            assert!(body.is_empty());
            return;
        }
        let length = body.len().to_string();
        assert!(is_stream || header("Content-Length") == Some(&length));
        match path {
            _ if code != 200 => {
                // Nothing of the request is in the text.
                assert!(header("Content-Type").is_some_and(|kind| kind.starts_with("text/plain")));
                assert!(!body.windows(6).any(|octets| octets == b"s3cr3t"));
            }
            "/" | "/status.json" | "/samples.json" => {
                assert_eq!(header("Cache-Control"), Some("no-store"));
                assert_eq!(header("X-Content-Type-Options"), Some("nosniff"));
                assert_eq!(header("Cross-Origin-Resource-Policy"), Some("same-origin"));
                match path {
                    "/" => assert!(header("Content-Security-Policy").is_some()),
                    _ => drop(serde_json::from_slice::<serde_json::Value>(body).expect("JSON")),
                }
            }
            "/feed" => {
                assert_eq!(header("Content-Type"), Some("text/event-stream"));
                assert_eq!(header("X-Content-Type-Options"), Some("nosniff"));
                assert!(body.is_empty());
            }
            _ => {}
        }
    }

    fn expected_code(
        &self,
        request: &Request,
        path: &str,
        query: &str,
        is_feed_client: bool,
    ) -> u16 {
        match path {
            "/metrics" | "/livez" => 200,
            "/readyz" => 200,
            "/" | "/status.json" | "/samples.json" | "/feed" if is_foreign(request) => 403,
            "/" | "/status.json" | "/samples.json" => 200,
            "/feed" if !is_feed_client => 403,
            "/feed" if !self.has_feed => 404,
            "/feed" => match goguerrilla::internals::feed::FeedFilter::parse_query(query) {
                Ok(_) => 200,
                Err(_) => 400,
            },
            _ => 404,
        }
    }
}

/// Returns whether a page of another site may have sent the request.
fn is_foreign(request: &Request) -> bool {
    let values = |name: &str| {
        let headers = request.headers.iter();
        let values = headers.filter(|one| one.name.eq_ignore_ascii_case(name));
        values.map(|one| one.value.trim_ascii()).collect::<Vec<_>>()
    };
    let [host] = values("host")[..] else {
        return true;
    };
    let is_own_host = std::str::from_utf8(host).is_ok_and(is_own_host);
    let sites = values("sec-fetch-site");
    let is_own_site = sites
        .iter()
        .all(|site| [&b"same-origin"[..], b"none"].contains(site));
    !is_own_host || !is_own_site
}

fn is_own_host(host: &str) -> bool {
    let Some(parts) = HOST.captures(host) else {
        return false;
    };
    let is_port = |port: regex::Match| port.is_empty() || port.as_str().parse::<u16>().is_ok();
    let is_address = match (parts.name("v4"), parts.name("v6")) {
        (Some(address), _) => address.as_str().parse::<std::net::Ipv4Addr>().is_ok(),
        (_, Some(address)) => address.as_str().parse::<Ipv6Addr>().is_ok(),
        _ => true,
    };
    is_address && parts.name("port").is_none_or(is_port)
}

static HOST: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"^(?:(?i:localhost|mx\.test)\.?|(?<v4>[0-9.]+)|\[(?<v6>[0-9A-Fa-f:.]+)\])(?::(?<port>[0-9]*))?$";
    Regex::new(pattern).expect("a grammar")
});

static SERVERS: LazyLock<[Server; 2]> = LazyLock::new(|| [false, true].map(server));

fn server(has_feed: bool) -> Server {
    let metrics: Arc<Metrics> = Arc::default();
    let feed = Feed::new(Arc::clone(&metrics));
    if has_feed {
        feed.turn_on();
    }
    let session: Arc<SessionSettings> = settings(100);
    let settings = SharedSettings::new(ConnectionSettings {
        session: Arc::clone(&session),
        configured_session: session,
        store_limits: Arc::default(),
        client_timeout: Duration::from_secs(1),
        hold_time: Duration::ZERO,
        budget: MemoryBudget::new(1_000),
        saver: SaveQueue::new_discarding(Arc::clone(&metrics)),
        proxy_protocol: false,
        tls: None,
        accept: Arc::new(pool_settings()),
        feed_clients: Arc::new(TrustedProxies::new(["127.0.0.1/32"
            .parse()
            .expect("a block")])),
    });
    let pool = AcceptPool::new(
        Box::new(|| Arc::new(pool_settings())),
        Arc::clone(&metrics),
        Box::new(|_| ()),
        CLIENT_STACK_OCTETS,
    );
    let status = StatusRequestHandler::start(pool, settings, Arc::clone(&feed)).expect("a thread");
    Server {
        has_feed,
        feed,
        metrics,
        handler: Arc::new(move |request| status.handle(request)),
    }
}

fn pool_settings() -> AcceptPoolSettings {
    AcceptPoolSettings {
        max_clients: 1,
        trusted_proxies: TrustedProxies::new(Vec::new()),
        max_clients_per_address: 0,
        busy_reply: Vec::new(),
        address_limit_reply: Vec::new(),
    }
}
