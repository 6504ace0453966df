//! Parses replies of Redis within limits.
//!
//! The redis crate's own parser has no limits. It recurses for each nested array, so a few kilobytes of malicious input
//! overflow the stack and abort the process, and that parser reads values of any size. An error line of the server is still
//! parsed by the redis crate, which classifies the error. The format is
//! [RESP2](https://redis.io/docs/latest/develop/reference/protocol-spec/).

use std::io::{self, BufRead, Read};

use r2d2_redis::redis::{self, ErrorKind, RedisError, RedisResult, Value};

use crate::store::reader::MAX_SHOWN_OCTETS;

/// Reads one reply.
///
/// # Errors
/// The server sent an error, the reply is not RESP2 or exceeds a limit, or the connection failed.
pub fn read_resp_value(reader: &mut impl BufRead) -> RedisResult<Value> {
    read_reply_with_depth_limit(reader, MAX_DEPTH)
}

fn read_reply_with_depth_limit(reader: &mut impl BufRead, depth: usize) -> RedisResult<Value> {
    let line = read_line(reader)?;
    let Some((kind, rest)) = line.split_first() else {
        return Err(malformed_redis_reply_error("an empty line"));
    };
    match kind {
        b'+' if rest == b"OK" => Ok(Value::Okay),
        b'+' => Ok(Value::Status(String::from_utf8_lossy(rest).into_owned())),
        b':' => parse_number(rest).map(Value::Int),
        b'-' => {
            let text = String::from_utf8_lossy(rest);
            redis::parse_redis_value(format!("-{text}\r\n").as_bytes())
        }
        b'$' => match parse_redis_length(rest, MAX_SHOWN_OCTETS)? {
            None => Ok(Value::Nil),
            Some(length) => read_octets_and_crlf(reader, length).map(Value::Data),
        },
        b'*' => match parse_redis_length(rest, MAX_ELEMENTS)? {
            None => Ok(Value::Nil),
            Some(_) if depth == 0 => Err(malformed_redis_reply_error("arrays nested too deeply")),
            Some(length) => {
                // No `with_capacity`: memory grows with the received elements, not with the announced number.
                let mut values = Vec::new();
                for _ in 0..length {
                    values.push(read_reply_with_depth_limit(reader, depth - 1)?);
                }
                Ok(Value::Bulk(values))
            }
        },
        _ => Err(malformed_redis_reply_error("not a reply of Redis")),
    }
}

/// Reads a line and returns it without its CR LF.
fn read_line(reader: &mut impl BufRead) -> RedisResult<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_OCTETS).read_until(b'\n', &mut line)?;
    if line.strip_suffix(b"\r\n").is_some() {
        line.truncate(line.len() - 2);
        return Ok(line);
    }
    let is_eof = !line.ends_with(b"\n") && (line.len() as u64) < MAX_LINE_OCTETS;
    match is_eof && line.first().is_none_or(|kind| b"+-:$*".contains(kind)) {
        true => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        false => Err(malformed_redis_reply_error("not a reply of Redis")),
    }
}

fn read_octets_and_crlf(reader: &mut impl BufRead, length: usize) -> RedisResult<Vec<u8>> {
    let mut octets = Vec::new();
    let total = length + 2;
    reader.take(total as u64).read_to_end(&mut octets)?;
    if octets.len() < total {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    match octets.ends_with(b"\r\n") {
        true => {
            octets.truncate(length);
            Ok(octets)
        }
        false => Err(malformed_redis_reply_error(
            "a value that does not end with CR LF",
        )),
    }
}

fn parse_number(digits: &[u8]) -> RedisResult<i64> {
    let text = str::from_utf8(digits).ok();
    let number = text.and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| malformed_redis_reply_error("not a number"))
}

/// Parses the length of a value or array, which must not exceed `max`; `None` if the length is negative, which means that there
/// is no value.
fn parse_redis_length(digits: &[u8], max: usize) -> RedisResult<Option<usize>> {
    match usize::try_from(parse_number(digits)?) {
        Ok(length) if length > max => Err(malformed_redis_reply_error("a value that is too large")),
        Ok(length) => Ok(Some(length)),
        Err(_) => Ok(None),
    }
}

fn malformed_redis_reply_error(reason: &str) -> RedisError {
    RedisError::from((ErrorKind::ResponseError, "parse error", reason.to_owned()))
}

/// Maximum depth of nested arrays; a deeper reply is an error. The reply to CLUSTER SLOTS has at most four levels.
const MAX_DEPTH: usize = 8;
/// Maximum number of elements of an array; a longer array is an error. The reply to CLUSTER SLOTS has at most one element for
/// each of the 16,384 slots.
const MAX_ELEMENTS: usize = 100_000;
/// Maximum length of a line, such as a status or an error, in octets; a longer line is an error. Redis sends at most about a
/// kilobyte.
const MAX_LINE_OCTETS: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut octets: &[u8]) -> RedisResult<Value> {
        read_resp_value(&mut octets)
    }

    #[test]
    fn redis_reply_parser_agrees_with_the_redis_crate() {
        for octets in [
            &b"+OK\r\n"[..],
            b"+PONG\r\n",
            b":-12\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"$5\r\na\r\nbc\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n*3\r\n:1\r\n:2\r\n*1\r\n$1\r\nx\r\n+OK\r\n",
        ] {
            let library = redis::parse_redis_value(octets).unwrap();
            assert_eq!(read(octets).unwrap(), library, "{octets:?}");
        }
        for octets in [
            &b"-ERR no\r\n"[..],
            b"-WRONGPASS no\r\n",
            b"-MOVED 3999 127.0.0.1:6381\r\n",
            b"-ASK 3999 127.0.0.1:6381\r\n",
            b"-\r\n",
        ] {
            let library = redis::parse_redis_value(octets).unwrap_err();
            let parsed = read(octets).unwrap_err();
            assert_eq!(parsed.kind(), library.kind(), "{octets:?}");
            assert_eq!(parsed.to_string(), library.to_string());
            assert_eq!(parsed.redirect_node(), library.redirect_node());
        }
    }

    #[test]
    fn malformed_redis_replies_are_errors_and_allocate_little_memory() {
        let deep = b"*1\r\n".repeat(1_000_000);
        let long = vec![b'+'; 10_000_000];
        for octets in [
            &deep[..],
            &long,
            b"*99999999999\r\n",
            b"*100000\r\n",
            b"$99999999999999999999\r\n",
            b"$9223372036854775807\r\n",
            b"$500000000\r\nx",
            b"$1\r\nxyz",
            b":x\r\n",
            b"SSH-2.0-x\r\n",
            b"\r\n",
            b"\n",
            b"+OK",
            b"",
            b"\xff\xff",
        ] {
            assert!(
                read(octets).is_err(),
                "{:?}",
                &octets[..octets.len().min(9)]
            );
        }
        assert!(
            read(b"+O").unwrap_err().is_io_error(),
            "the connection was closed"
        );
    }
}
