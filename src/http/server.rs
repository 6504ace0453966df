//! A small HTTP/1.x server for the status endpoints and nginx's auth_http.
//!
//! It answers one request per connection, GET and HEAD only. The constants at the end of this file limit what a client can
//! use: size and time of the request head, time to read the response, number of connections. `httparse` parses the head
//! ([RFC 9112](https://www.rfc-editor.org/rfc/rfc9112)). No server crate is used, because small server crates have no timeouts.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Status};

use super::message::{HttpAnswer, HttpRequest, HttpResponse, HttpStream};
use super::slots::{DISPLACE_AFTER, HttpPhase, HttpSlot, HttpSlots};
use crate::metrics::{Component, Metrics};
use crate::net::listener::Listener;

/// A function that answers one request. If it panics, the client gets a 500.
pub type HttpRequestHandler = Arc<dyn Fn(&HttpRequest) -> HttpResponse + Send + Sync>;

/// Starts a thread that accepts HTTP connections on `listener` until [`Listener::close`], and answers requests with `handler`.
/// Panics of `handler` are counted in `metrics`.
///
/// # Errors
/// The accepting thread cannot be started.
pub fn serve(
    listener: &Arc<Listener>,
    metrics: &Arc<Metrics>,
    handler: HttpRequestHandler,
) -> io::Result<()> {
    let (listener, metrics) = (Arc::clone(listener), Arc::clone(metrics));
    let accepting = move || {
        let slots = HttpSlots::new(DISPLACE_AFTER);
        let mut timeout = SLOT_TIMEOUT;
        while let Some((socket, peer)) = listener.accept() {
            let socket = Arc::new(socket);
            // If no slot becomes free, this connection is closed. Later ones are then closed without a wait, until one is served
            // again.
            let Some(slot) = slots.take(&socket, peer, timeout) else {
                timeout = Duration::ZERO;
                continue;
            };
            timeout = SLOT_TIMEOUT;
            let (handler, metrics) = (Arc::clone(&handler), Arc::clone(&metrics));
            let answering = move || {
                // An error is ignored: the client is gone or too slow, so no response can be sent.
                let stream = serve_http_request(&socket, peer, &slot, &metrics, &handler);
                // A stream lasts long and has a limit of its own.
                drop(slot);
                if let Ok(Some(stream)) = stream {
                    run_stream(&socket, stream, &metrics);
                }
            };
            let thread = http_thread_builder("http-client").spawn(answering);
            if let Err(error) = thread {
                log::error!(reason:% = error; "thread_start_failed");
            }
        }
    };
    http_thread_builder("http").spawn(accepting).map(drop)
}

fn http_thread_builder(name: &str) -> thread::Builder {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_OCTETS)
}

/// Answers one request. If its body is a stream, only the head has been sent, and the stream is returned.
fn serve_http_request(
    socket: &TcpStream,
    peer: SocketAddr,
    slot: &HttpSlot,
    metrics: &Metrics,
    handler: &HttpRequestHandler,
) -> io::Result<Option<HttpStream>> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let local = socket.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    socket.set_nodelay(true)?;
    let read_until = Instant::now() + READ_TIMEOUT;
    let mut head = Vec::new();
    let answer = loop {
        let line_ended = read_more_of_http_head(socket, &mut head, read_until)?;
        // The head is parsed only after a line end, because only a line end can complete it.
        if line_ended {
            slot.enter(HttpPhase::Answering);
            let answer = http_response_to_request_head(&head, peer, local, metrics, handler);
            if let Some(answer) = answer {
                break answer;
            }
            slot.enter(HttpPhase::Reading);
        }
        if head.len() >= MAX_HEAD_OCTETS {
            break HttpResponse::plain_text_response(431, "head too large\n").into();
        }
    };
    slot.enter(HttpPhase::Writing);
    write_all(socket, &answer.octets)?;
    if answer.stream.is_none() {
        slot.enter(HttpPhase::Lingering);
        linger(socket)?;
    }
    Ok(answer.stream)
}

/// Calls the function that writes the body of a response, and catches its panic.
fn run_stream(socket: &TcpStream, stream: HttpStream, metrics: &Metrics) {
    if catch_unwind(AssertUnwindSafe(|| stream(socket))).is_err() {
        metrics.panics.count(Component::Http);
        log::error!("http_panicked");
    }
}

/// Returns the response to the request head in `head`, or `None` if the head is incomplete.
///
/// Needs no socket, so that tests and fuzzing can pass any octets.
pub fn http_response_to_request_head(
    head: &[u8],
    peer: SocketAddr,
    local: SocketAddr,
    metrics: &Metrics,
    handler: &HttpRequestHandler,
) -> Option<HttpAnswer> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let refuse = |status, text: &str| Some(HttpResponse::plain_text_response(status, text).into());
    match parsed.parse(head) {
        Ok(Status::Partial) => return None,
        Ok(Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return refuse(431, "too many headers\n"),
        Err(_) => return refuse(400, "not an HTTP/1.x request\n"),
    }
    let method @ ("GET" | "HEAD") = parsed.method.unwrap_or_default() else {
        let response = HttpResponse::plain_text_response(405, "only GET and HEAD are supported\n")
            .with_http_header("Allow", "GET, HEAD");
        return Some(response.into());
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = HttpRequest {
        method,
        path,
        query,
        peer,
        local,
        headers: parsed.headers,
    };
    let response = catch_unwind(AssertUnwindSafe(|| handler(&request))).unwrap_or_else(|_| {
        metrics.panics.count(Component::Http);
        log::error!(client:% = peer; "http_panicked");
        HttpResponse::plain_text_response(500, "internal error\n")
    });
    match method {
        "HEAD" => Some(HttpAnswer {
            octets: response.http_response_octets(false),
            stream: None,
        }),
        _ => Some(response.into()),
    }
}

/// Appends octets from `socket` to `head`, up to the size limit of a head. Returns whether the new octets contain a line end.
#[expect(
    clippy::indexing_slicing,
    reason = "a read fills no more than the buffer it was given"
)]
fn read_more_of_http_head(
    mut socket: &TcpStream,
    head: &mut Vec<u8>,
    until: Instant,
) -> io::Result<bool> {
    let mut buffer = [0; 1_024];
    let max_octets = buffer.len().min(MAX_HEAD_OCTETS.saturating_sub(head.len()));
    // The timeout is set again before each read, because a socket timeout applies to each read separately.
    socket.set_read_timeout(Some(time_left(until)?))?;
    let count = match socket.read(&mut buffer[..max_octets]) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::Interrupted => 0,
        Err(error) => return Err(error),
    };
    let received = &buffer[..count];
    head.extend_from_slice(received);
    Ok(received.contains(&b'\n'))
}

#[expect(
    clippy::indexing_slicing,
    reason = "a write takes no more than it was given"
)]
pub(super) fn write_all(mut socket: &TcpStream, mut octets: &[u8]) -> io::Result<()> {
    let until = Instant::now() + WRITE_TIMEOUT;
    while !octets.is_empty() {
        socket.set_write_timeout(Some(time_left(until)?))?;
        match socket.write(octets) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => octets = &octets[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Shuts down writing, then discards what the client still sends, for at most [`LINGER`]. Without this, `close` could find
/// unread octets; the kernel would then reset the connection, and the client might lose the response.
fn linger(mut socket: &TcpStream) -> io::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    let until = Instant::now() + LINGER;
    let mut buffer = [0; 1_024];
    loop {
        socket.set_read_timeout(Some(time_left(until)?))?;
        if socket.read(&mut buffer)? == 0 {
            return Ok(());
        }
    }
}

/// Returns the time left until `until`, or an error if none is left.
fn time_left(until: Instant) -> io::Result<Duration> {
    let time_left = until.saturating_duration_since(Instant::now());
    // A rest below 1 ms counts as none: the standard library rejects a socket timeout of zero.
    if time_left < Duration::from_millis(1) {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(time_left)
}

/// How long a connection beyond [`MAX_HTTP_CONNECTIONS`](super::MAX_HTTP_CONNECTIONS) waits for another one to end. Later
/// connections wait in the listen backlog meanwhile, so that all requests of a short burst are answered.
const SLOT_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of the request line and headers in octets; beyond it the response is 431 (Request Header Fields Too Large).
const MAX_HEAD_OCTETS: usize = 8_192;
/// Maximum number of headers of a request; beyond it the response is 431 (Request Header Fields Too Large). Browsers send
/// about twenty.
const MAX_HEADERS: usize = 64;
/// Time limit for receiving the request head; the connection is then closed without a response.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for sending the response; the connection is then closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for discarding the client's octets after the response; the connection is then closed.
const LINGER: Duration = Duration::from_millis(500);
/// Stack size in octets of each HTTP thread; only pages in use take memory.
const STACK_OCTETS: usize = 256 * 1_024;

#[cfg(test)]
mod tests {
    use testkit::{assert_took, let_time_pass};

    use super::*;

    fn start(handler: HttpRequestHandler) -> Arc<Listener> {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Arc::new(Listener::bind(address, false, false).unwrap());
        serve(&listener, &Arc::default(), handler).unwrap();
        listener
    }

    fn start_http_echo_server() -> Arc<Listener> {
        start(Arc::new(|request| {
            assert_ne!(request.path, "/panic", "a handler's bug");
            let name = request.request_header_value("x-name").unwrap_or(b"nobody");
            let name = String::from_utf8_lossy(name).into_owned();
            let body = format!("{} {} {name}", request.method, request.path);
            HttpResponse::plain_text_response(200, body).with_http_header("X-Test", "a\r\nb: c")
        }))
    }

    fn exchange(listener: &Listener, sent: &[u8]) -> String {
        let mut socket = TcpStream::connect(listener.bound_address()).unwrap();
        socket.write_all(sent).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn http_server_answers_each_request_with_its_status() {
        let listener = start_http_echo_server();
        let long_header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9_000));
        let fits = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(8_192 - 23));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(65));
        for (sent, status, end) in [
            ("GET /a HTTP/1.0\r\n\r\n", "200 OK", "\r\n\r\nGET /a nobody"),
            (
                "GET /a?b=c HTTP/1.1\nX-NAME:  me \n\n",
                "200 OK",
                "GET /a me",
            ),
            ("HEAD /a HTTP/1.1\r\n\r\n", "200 OK", "b: c\r\n\r\n"),
            ("\r\nGET / HTTP/1.1\r\n\r\nmore behind", "200 OK", "nobody"),
            (&fits, "200 OK", "nobody"),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
                "405 Method",
                "\n",
            ),
            ("DELETE / HTTP/1.1\r\n\r\n", "405 Method", "\n"),
            ("EHLO client.test\r\n", "400 Bad", "\n"),
            ("GET / HTTP/2.0\r\n\r\n", "400 Bad", "\n"),
            ("GET /\r\n\r\n", "400 Bad", "\n"),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400 Bad", "\n"),
            ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", "400 Bad", "\n"),
            ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\n", "400 Bad", "\n"),
            (&long_header, "431 Request", "\n"),
            (&many, "431 Request", "\n"),
            ("GET /panic HTTP/1.1\r\n\r\n", "500 Internal", "\n"),
        ] {
            let answer = exchange(&listener, sent.as_bytes());
            let sent = sent.get(..40).unwrap_or(sent);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{sent}: {answer}"
            );
            assert!(answer.ends_with(end), "{sent}: {answer}");
            assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        }
    }

    #[test]
    fn line_breaks_in_a_response_header_value_are_removed() {
        let answer = exchange(&start_http_echo_server(), b"GET / HTTP/1.1\r\n\r\n");
        assert!(answer.contains("\r\nX-Test: ab: c\r\n"), "{answer}");
    }

    #[test]
    fn slow_http_request_head_times_out_after_5_seconds() {
        let listener = start_http_echo_server();
        let mut socket = TcpStream::connect(listener.bound_address()).unwrap();
        let started_at = Instant::now();
        let mut sending = socket.try_clone().unwrap();
        thread::spawn(move || {
            while sending.write_all(b"G").is_ok() {
                let_time_pass(
                    Duration::from_millis(200),
                    "the data rate of a slow request",
                );
            }
        });
        // The connection is closed, possibly with a reset because an octet was left unread.
        let _ = socket.read_to_end(&mut Vec::new());
        let took = started_at.elapsed();
        assert!(took > Duration::from_millis(4_900), "{took:?}");
        assert_took(took, Duration::from_secs(5));
    }

    #[test]
    fn http_server_stops_when_its_listener_is_closed() {
        let listener = start_http_echo_server();
        listener.close();
        let mut answer = Vec::new();
        let ended = TcpStream::connect(listener.bound_address())
            .and_then(|mut socket| socket.read_to_end(&mut answer));
        assert!(ended.is_err() || answer.is_empty());
    }
}
