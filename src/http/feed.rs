//! `/feed`: the entries of the feed as server-sent events
//! ([HTML, §9.2](https://html.spec.whatwg.org/multipage/server-sent-events.html)).
//!
//! A reader that is too slow is disconnected: it has 5 seconds to take what was sent, and must not fall behind by more entries
//! than the feed keeps. The server notices within a second that a reader has closed its connection.

use std::net::{IpAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::message::{HttpRequest, HttpResponse};
use super::server::write_all;
use crate::connection::SharedSettings;
use crate::feed::{Feed, FeedBatch, FeedFilter, FeedReader, MAX_FEED_READERS};

/// Returns the answer to a request for `/feed`: a stream of events, or why this client does not get it.
pub fn answer_feed_request(
    request: &HttpRequest,
    feed: &Arc<Feed>,
    settings: &Arc<SharedSettings>,
) -> HttpResponse {
    let current = settings.current();
    if let Some(refusal) = request.refusal_if_from_a_foreign_page(&current.session.host_name) {
        return refusal;
    }
    if !current.feed_clients.contains(request.peer.ip()) {
        return HttpResponse::plain_text_response(
            403,
            "forbidden: GM_FEED_CLIENTS does not list this address\n",
        );
    }
    if !feed.is_on() {
        return HttpResponse::plain_text_response(404, "not found: GM_FEED is empty\n");
    }
    let filter = match FeedFilter::parse_query(request.query) {
        Ok(filter) => filter,
        Err(error) => return HttpResponse::plain_text_response(400, format!("{error}\n")),
    };
    let Some(reader) = feed.open_reader() else {
        let text =
            format!("the feed has {MAX_FEED_READERS} readers already, or the server is stopping\n");
        return HttpResponse::plain_text_response(503, text).with_http_header("Retry-After", 5);
    };
    let mut sender = EventSender {
        reader,
        filter,
        client: request.peer.ip(),
        settings: Arc::clone(settings),
    };
    HttpResponse::stream_response(
        "text/event-stream",
        Box::new(move |socket| sender.run(socket)),
    )
    .with_http_header("Cache-Control", "no-store")
    .with_http_header("X-Accel-Buffering", "no")
    .with_http_header("X-Content-Type-Options", "nosniff")
}

struct EventSender {
    reader: FeedReader,
    filter: FeedFilter,
    client: IpAddr,
    settings: Arc<SharedSettings>,
}

impl EventSender {
    /// Sends events until the reader leaves or is too slow, the feed is turned off, GM_FEED_CLIENTS does not list the client
    /// any more, or the server stops.
    fn run(&mut self, socket: &TcpStream) {
        let mut events = ": the feed begins\n\n".to_owned();
        let mut is_slow = false;
        let mut last_sent = Instant::now();
        loop {
            if events.is_empty() && last_sent.elapsed() >= HEARTBEAT_INTERVAL {
                events.push_str(":\n\n");
            }
            if !events.is_empty() {
                is_slow |= write_all(socket, events.as_bytes()).is_err();
                last_sent = Instant::now();
            }
            if is_slow {
                break;
            }
            self.reader.wait(CLOSE_CHECK_INTERVAL);
            if self.is_ended() || has_left(socket) {
                return;
            }
            let read = self.reader.take(ENTRIES_OF_A_WRITE);
            is_slow = read.missed > 0;
            events = match is_slow {
                true => String::new(),
                false => self.events_of(&read),
            };
        }
        if !has_left(socket) {
            let dropped = self.reader.drop_entries_left();
            log::warn!(client:% = self.client, entries = dropped, reason = "too slow"; "feed_reader_dropped");
        }
    }

    fn is_ended(&self) -> bool {
        let is_allowed = self.settings.current().feed_clients.contains(self.client);
        self.reader.is_ended() || !is_allowed
    }

    /// Returns an event for each entry that the reader wants.
    fn events_of(&self, read: &FeedBatch) -> String {
        let wanted = read
            .entries
            .iter()
            .filter(|entry| self.filter.selects(entry));
        wanted
            .map(|entry| format!("data: {}\n\n", entry.to_json()))
            .collect()
    }
}

/// Returns whether the reader has closed its connection. Octets that it sends are discarded.
fn has_left(socket: &TcpStream) -> bool {
    let mut buffer = [0; 1_024];
    match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error, Errno::EAGAIN | Errno::EINTR),
    }
}

/// Maximum number of entries of one write, about 20 kB.
const ENTRIES_OF_A_WRITE: usize = 64;
/// Interval at which a comment is sent while there is no entry. Proxies close a connection that is idle for a minute.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Interval at which a reader is checked while there is no entry.
const CLOSE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
