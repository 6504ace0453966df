//! A reader of `/feed`.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::{Server, TEST_TIMEOUT, status};

/// A connection to `/feed` whose request was answered.
pub struct FeedReader {
    stream: BufReader<TcpStream>,
    /// The status code of the response.
    pub code: u16,
    /// The head of the response, each line with CR LF.
    pub head: String,
}

impl FeedReader {
    /// Requests `target`, such as `/feed?to=u@ours.test`, and reads the head of the response.
    pub fn open(server: &Server, target: &str) -> FeedReader {
        FeedReader::open_with(
            server,
            &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        )
    }

    /// Sends a whole request and reads the head of the response.
    pub fn open_with(server: &Server, request: &str) -> FeedReader {
        let address = status::address(server);
        FeedReader::over(
            TcpStream::connect(address).expect("the server accepts"),
            request,
        )
    }

    /// Sends a whole request over a connection and reads the head of the response.
    pub fn over(mut socket: TcpStream, request: &str) -> FeedReader {
        socket
            .set_read_timeout(Some(TEST_TIMEOUT))
            .expect("an open socket");
        socket
            .write_all(request.as_bytes())
            .expect("the server reads");
        let mut stream = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let count = stream.read_line(&mut head).expect("a line of the head");
            assert!(count > 0, "the head ends: {head}");
        }
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        FeedReader {
            stream,
            code: code.expect("three digits"),
            head,
        }
    }

    /// Returns the socket.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Returns the next whole line without LF; `None` at the end of the response, also if the server was killed.
    pub fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(_) => line.strip_suffix('\n').map(str::to_owned),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line within the time of a test: {error}"),
        }
    }

    /// Returns the next entry; `None` at the end of the response.
    pub fn next_entry(&mut self) -> Option<Value> {
        loop {
            let line = self.next_line()?;
            if let Some(json) = line.strip_prefix("data: ") {
                let entry = serde_json::from_str(json).expect("one line of JSON");
                assert_eq!(self.next_line()?, "", "the end of the event");
                return Some(entry);
            }
            assert!(line.is_empty() || line.starts_with(':'), "{line}");
        }
    }

    /// Returns the subjects of the next entries.
    pub fn next_subjects(&mut self, count: usize) -> Vec<String> {
        let entries = (0..count).map(|_| self.next_entry().expect("an entry"));
        entries
            .map(|entry| entry["subject"].as_str().expect("a subject").to_owned())
            .collect()
    }

    /// Reads the rest of a response that is not a stream.
    pub fn body(mut self) -> String {
        let mut body = String::new();
        self.stream.read_to_string(&mut body).expect("a body");
        body
    }
}
