//! Replies of Redis, read within limits.
//!
//! The library's parser recurses for each array in an array, so a few kilobytes of nonsense overflow its stack and end the
//! process, which no guard against panics prevents; and it collects values of any size. Errors are still made by the
//! library, which knows their kinds. RESP2:
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::io::{self, BufRead, Read};

use r2d2_redis::redis::{self, ErrorKind, RedisError, RedisResult, Value};

use crate::store::reader::MAX_SHOWN_OCTETS;

/// Reads one value; an error of the server is an error.
///
/// # Errors
/// What the server answered, that it is no RESP or beyond the limits, or what became of the connection.
pub fn read_value(reader: &mut impl BufRead) -> RedisResult<Value> {
    read_nested(reader, MAX_DEPTH)
}

fn read_nested(reader: &mut impl BufRead, depth: usize) -> RedisResult<Value> {
    let line = read_line(reader)?;
    let Some((kind, rest)) = line.split_first() else {
        return Err(malformed("an empty line"));
    };
    match kind {
        b'+' if rest == b"OK" => Ok(Value::Okay),
        b'+' => Ok(Value::Status(String::from_utf8_lossy(rest).into_owned())),
        b':' => number(rest).map(Value::Int),
        b'-' => {
            let text = String::from_utf8_lossy(rest);
            redis::parse_redis_value(format!("-{text}\r\n").as_bytes())
        }
        b'$' => match length(rest, MAX_SHOWN_OCTETS)? {
            None => Ok(Value::Nil),
            Some(length) => read_octets(reader, length).map(Value::Data),
        },
        b'*' => match length(rest, MAX_ELEMENTS)? {
            None => Ok(Value::Nil),
            Some(_) if depth == 0 => Err(malformed("too many arrays inside each other")),
            Some(length) => {
                // Grows with what arrives, not with what is announced.
                let mut values = Vec::new();
                for _ in 0..length {
                    values.push(read_nested(reader, depth - 1)?);
                }
                Ok(Value::Bulk(values))
            }
        },
        _ => Err(malformed("no reply of Redis")),
    }
}

/// Without its CR LF.
fn read_line(reader: &mut impl BufRead) -> RedisResult<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_OCTETS).read_until(b'\n', &mut line)?;
    if line.strip_suffix(b"\r\n").is_some() {
        line.truncate(line.len() - 2);
        return Ok(line);
    }
    let is_end = !line.ends_with(b"\n") && (line.len() as u64) < MAX_LINE_OCTETS;
    match is_end && line.first().is_none_or(|kind| b"+-:$*".contains(kind)) {
        true => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        false => Err(malformed("no reply of Redis")),
    }
}

fn read_octets(reader: &mut impl BufRead, length: usize) -> RedisResult<Vec<u8>> {
    let mut octets = Vec::new();
    let with_end = length + 2;
    reader.take(with_end as u64).read_to_end(&mut octets)?;
    if octets.len() < with_end {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    match octets.ends_with(b"\r\n") {
        true => {
            octets.truncate(length);
            Ok(octets)
        }
        false => Err(malformed("a value that does not end where it should")),
    }
}

fn number(digits: &[u8]) -> RedisResult<i64> {
    let text = str::from_utf8(digits).ok();
    let number = text.and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| malformed("no number"))
}

/// A negative one stands for no value.
fn length(digits: &[u8], max: usize) -> RedisResult<Option<usize>> {
    match usize::try_from(number(digits)?) {
        Ok(length) if length > max => Err(malformed("a value that is too large")),
        Ok(length) => Ok(Some(length)),
        Err(_) => Ok(None),
    }
}

fn malformed(what: &str) -> RedisError {
    RedisError::from((ErrorKind::ResponseError, "parse error", what.to_owned()))
}

/// Arrays inside each other: CLUSTER SLOTS has three.
const MAX_DEPTH: usize = 8;
/// Elements of one array: CLUSTER SLOTS has one for each range of its 16,384 slots.
const MAX_ELEMENTS: usize = 100_000;
/// A status or an error; Redis cuts its own at about a kilobyte.
const MAX_LINE_OCTETS: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut octets: &[u8]) -> RedisResult<Value> {
        read_value(&mut octets)
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
            let ours = read(octets).unwrap_err();
            assert_eq!(ours.kind(), library.kind(), "{octets:?}");
            assert_eq!(ours.to_string(), library.to_string());
            assert_eq!(ours.redirect_node(), library.redirect_node());
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
        assert!(read(b"+O").unwrap_err().is_io_error(), "it was closed");
    }
}
