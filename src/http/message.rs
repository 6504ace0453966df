//! HTTP requests and responses.

use std::fmt::Display;
use std::net::{SocketAddr, TcpStream};

use httparse::Header;
use jiff::Timestamp;

/// One HTTP request.
pub struct HttpRequest<'a> {
    /// `GET` or `HEAD`.
    pub method: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The text after the first `?` of the target; empty if there is none.
    pub query: &'a str,
    /// The client's address; an IPv4-mapped address is converted to IPv4.
    pub peer: SocketAddr,
    /// The local address that the client connected to; an IPv4-mapped address is converted to IPv4.
    pub local: SocketAddr,
    pub(super) headers: &'a [Header<'a>],
}

/// One HTTP response.
pub struct HttpResponse {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
    stream: Option<HttpStream>,
}

/// A function that writes a body whose length is not known in advance. The connection is closed when it returns.
pub type HttpStream = Box<dyn FnOnce(&TcpStream) + Send>;

/// What a client gets: the octets of the response, then the stream if there is one.
pub struct HttpAnswer {
    /// The head and the body, without a streamed one.
    pub octets: Vec<u8>,
    /// Writes the body.
    pub stream: Option<HttpStream>,
}

impl From<HttpResponse> for HttpAnswer {
    fn from(mut response: HttpResponse) -> HttpAnswer {
        HttpAnswer {
            octets: response.http_response_octets(true),
            stream: response.stream.take(),
        }
    }
}

impl<'a> HttpRequest<'a> {
    /// Returns the value of the first header called `name` (case is ignored), without surrounding whitespace; `None` if the
    /// request has no such header.
    pub fn request_header_value(&self, name: &str) -> Option<&'a [u8]> {
        self.request_header_values(name).next()
    }

    /// Returns the value of each header called `name` (case is ignored), without surrounding whitespace.
    pub fn request_header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let headers = self.headers.iter();
        headers
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.trim_ascii())
    }
}

impl HttpResponse {
    /// Returns a plain text response.
    pub fn plain_text_response(status: u16, body: impl Into<String>) -> HttpResponse {
        HttpResponse {
            status,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
            stream: None,
        }
    }

    /// Returns a response whose body `stream` writes. It is not called for HEAD. The connection does not count in
    /// [`MAX_HTTP_CONNECTIONS`](super::MAX_HTTP_CONNECTIONS) while it runs.
    pub fn stream_response(content_type: &'static str, stream: HttpStream) -> HttpResponse {
        HttpResponse {
            stream: Some(stream),
            ..HttpResponse::plain_text_response(200, "").with_content_type(content_type)
        }
    }

    /// Replaces the content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: &'static str) -> HttpResponse {
        self.content_type = content_type;
        self
    }

    /// Adds a header. Characters of `value` that are not printable ASCII are left out, so that `value` cannot end the header
    /// line. Even so, never pass a value that a client chose.
    #[must_use]
    pub fn with_http_header(mut self, name: &'static str, value: impl Display) -> HttpResponse {
        let value = value.to_string();
        let printable = value.chars().filter(|c| matches!(c, ' '..='~')).collect();
        self.headers.push((name, printable));
        self
    }

    /// Returns the octets of the response, without those of a stream. `with_body` is `false` for a response to HEAD.
    pub(super) fn http_response_octets(&self, with_body: bool) -> Vec<u8> {
        let mut text = format!(
            "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\nConnection: close\r\n",
            self.status,
            reason_phrase(self.status),
            Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT"),
            self.content_type,
        );
        if self.stream.is_none() {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        text += "\r\n";
        if with_body {
            text += &self.body;
        }
        text.into_bytes()
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        // The reason phrase is optional (RFC 9112 §4), but the space before it is required.
        _ => "",
    }
}
