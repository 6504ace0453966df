//! Replies: code, enhanced status and text, and the table of all fixed replies.
//!
//! [RFC 5321 §4.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.2) defines the form,
//! [RFC 2034](https://www.rfc-editor.org/rfc/rfc2034) the enhanced status on each line.

use std::borrow::Cow;

/// The reply to one command; each line feed in `text` begins a new reply line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedStatus>,
    text: Cow<'static, str>,
}

/// An enhanced mail system status code such as 5.1.3 ([RFC 3463](https://www.rfc-editor.org/rfc/rfc3463)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnhancedStatus(pub u8, pub u8, pub u8);

impl Reply {
    /// Returns a reply; `code` has three digits and `text` consists of printable ASCII and line feeds.
    pub const fn new(
        code: u16,
        enhanced: Option<EnhancedStatus>,
        text: Cow<'static, str>,
    ) -> Reply {
        Reply {
            code,
            enhanced,
            text,
        }
    }

    /// Returns the greeting `220 <host> ESMTP`. It has no product name, and no enhanced status (RFC 2034 §4).
    pub fn greeting(host_name: &str) -> Reply {
        Reply::new(220, None, format!("{host_name} ESMTP").into())
    }

    /// Returns the reply to a message that was saved with this mail id. It may be sent only after the store has committed the
    /// mail.
    pub fn mail_queued_reply(id: &str) -> Reply {
        let text = format!("OK : queued as {id}");
        Reply::new(250, Some(EnhancedStatus(2, 0, 0)), text.into())
    }

    /// Returns the three-digit code.
    pub fn three_digit_code(&self) -> u16 {
        self.code
    }

    /// Returns the code with the enhanced status (`550 5.7.1`), and the text. nginx's auth_http needs both separately.
    pub fn reply_code_and_text(&self) -> (String, &str) {
        let status = match self.enhanced {
            Some(EnhancedStatus(class, subject, detail)) => {
                format!("{} {class}.{subject}.{detail}", self.code)
            }
            None => self.code.to_string(),
        };
        (status, &self.text)
    }

    /// Returns whether the reply counts towards the limit of erroneous commands in a session.
    pub fn counts_toward_error_limit(&self) -> bool {
        matches!(self.code, 500 | 501 | 502 | 503 | 555)
    }

    /// Appends the reply in wire format; each line ends in CR LF.
    pub fn write_to(&self, output: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            push_digits(output, self.code);
            output.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(EnhancedStatus(class, subject, detail)) = self.enhanced {
                for (part, end) in [(class, b'.'), (subject, b'.'), (detail, b' ')] {
                    push_digits(output, u16::from(part));
                    output.push(end);
                }
            }
            output.extend_from_slice(line.as_bytes());
            output.extend_from_slice(b"\r\n");
        }
    }
}

fn push_digits(output: &mut Vec<u8>, number: u16) {
    for (unit, digits) in [(100, 3), (10, 2), (1, 1)] {
        if number >= unit || digits == 1 {
            output.push(b'0' + (number / unit % 10) as u8);
        }
    }
}

/// Declares a constant for each fixed reply and, for the tests, a list `ALL` of their names and values.
macro_rules! replies {
    ($($name:ident = $code:literal $class:literal . $subject:literal . $detail:literal $text:literal;)*) => {
        $(
            #[doc = concat!("`", $code, " ", $class, ".", $subject, ".", $detail, " ", $text, "`")]
            pub const $name: Reply = Reply::new(
                $code,
                Some(EnhancedStatus($class, $subject, $detail)),
                Cow::Borrowed($text),
            );
        )*
        #[cfg(test)]
        const ALL: &[(&str, Reply)] = &[$((stringify!($name), $name)),*];
    };
}

replies! {
    R214_HELP = 214 2 . 0 . 0 "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT";
    R220_START_TLS = 220 2 . 0 . 0 "Ready to start TLS";
    R221_BYE = 221 2 . 0 . 0 "Bye";
    R250_OK = 250 2 . 0 . 0 "OK";
    R250_SENDER_OK = 250 2 . 1 . 0 "OK";
    R250_RECIPIENT_OK = 250 2 . 1 . 5 "OK";
    R250_CHUNK_OK = 250 2 . 0 . 0 "OK, chunk received";
    R252_CANNOT_VERIFY = 252 2 . 5 . 0 "Cannot VRFY user, but will accept message and attempt delivery";
    R421_SHUTTING_DOWN = 421 4 . 3 . 2 "Service shutting down, closing connection";
    R421_TOO_BUSY = 421 4 . 3 . 2 "Too many connections, try again later";
    R421_TOO_MANY_FROM_ADDRESS = 421 4 . 7 . 0 "Too many connections from your address";
    R421_TIMEOUT = 421 4 . 4 . 2 "Timeout, closing connection";
    R421_TOO_MANY_ERRORS = 421 4 . 7 . 0 "Too many errors, closing connection";
    R421_TOO_MANY_COMMANDS = 421 4 . 7 . 0 "Too many commands without a message";
    R451_NOT_SAVED = 451 4 . 3 . 0 "Cannot save the message now, try again later";
    R451_RECIPIENT_LOOKUP_FAILED = 451 4 . 3 . 0 "Recipient address: temporary lookup failure";
    R452_STORE_FULL = 452 4 . 3 . 1 "Insufficient system storage, try again later";
    R452_NO_MEMORY = 452 4 . 3 . 1 "Insufficient memory, try again later";
    R452_TOO_MANY_RECIPIENTS = 452 4 . 5 . 3 "Too many recipients";
    R454_PIPELINED_STARTTLS = 454 4 . 5 . 0 "STARTTLS must be the last command of a pipelined group";
    R500_UNKNOWN_VERB = 500 5 . 5 . 2 "Command not recognized";
    R500_LINE_TOO_LONG = 500 5 . 5 . 2 "Line too long";
    R500_BARE_LF = 500 5 . 5 . 2 "Lines must end with CR LF";
    R500_BAD_OCTETS = 500 5 . 5 . 2 "Command contains NUL or a bare CR";
    R500_HTTP_REQUEST = 500 5 . 5 . 2 "This is an SMTP server";
    R501_BAD_ARGUMENT = 501 5 . 5 . 4 "Syntax error in argument";
    R501_NO_HELO_NAME = 501 5 . 5 . 4 "HELO and EHLO require a host name";
    R501_UNEXPECTED_ARGUMENT = 501 5 . 5 . 4 "Command takes no argument";
    R501_BAD_OCTETS = 501 5 . 5 . 4 "Control characters or invalid UTF-8";
    R501_BAD_PARAMETER = 501 5 . 5 . 4 "Malformed or repeated parameter";
    R501_BAD_CHUNK_SIZE = 501 5 . 5 . 4 "Unreadable chunk size";
    R501_BAD_REVERSE_PATH = 501 5 . 1 . 7 "Bad reverse-path, expected MAIL FROM:<a@example.com>";
    R501_BAD_FORWARD_PATH = 501 5 . 1 . 3 "Bad forward-path, expected RCPT TO:<a@example.com>";
    R502_NOT_IMPLEMENTED = 502 5 . 5 . 1 "Command not implemented";
    R503_SEND_HELO_FIRST = 503 5 . 5 . 1 "Send HELO or EHLO first";
    R503_SEND_MAIL_FIRST = 503 5 . 5 . 1 "Send MAIL first";
    R503_SEND_RCPT_FIRST = 503 5 . 5 . 1 "No valid recipient, send RCPT first";
    R503_NESTED_MAIL = 503 5 . 5 . 1 "Nested MAIL command";
    R503_BDAT_IN_PROGRESS = 503 5 . 5 . 1 "BDAT in progress, send BDAT or RSET";
    R503_XCLIENT_IN_TRANSACTION = 503 5 . 5 . 1 "XCLIENT not allowed within a transaction";
    R503_TLS_ACTIVE = 503 5 . 5 . 1 "TLS already active";
    R550_XCLIENT_DENIED = 550 5 . 7 . 0 "XCLIENT not permitted";
    R550_USER_UNKNOWN = 550 5 . 1 . 1 "Recipient address rejected: User unknown";
    R550_RELAY_DENIED = 550 5 . 7 . 1 "Relay access denied";
    R552_TOO_LARGE = 552 5 . 3 . 4 "Message size exceeds fixed limit";
    R553_NEEDS_SMTPUTF8 = 553 5 . 6 . 7 "Non-ASCII address requires SMTPUTF8";
    R553_RECIPIENT_UNSTORABLE = 553 5 . 1 . 3 "Recipient address too long or not representable in the mail store";
    R555_UNKNOWN_PARAMETER = 555 5 . 5 . 4 "Parameter not recognized";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_constant_names_match_their_code_and_status_class() {
        for (name, reply) in ALL {
            assert_eq!(name[1..4], reply.code.to_string(), "{name}");
            let EnhancedStatus(class, ..) = reply.enhanced.expect("the table gives each one");
            assert_eq!(u16::from(class), reply.code / 100, "{name}");
            assert!(reply.text.len() < 400, "{name}");
            assert!(
                reply.text.bytes().all(|octet| (32..127).contains(&octet)),
                "{name}"
            );
        }
    }

    #[test]
    fn two_line_reply_has_its_code_on_both_lines() {
        let mut output = Vec::new();
        Reply::new(250, Some(EnhancedStatus(2, 10, 0)), "a\nb".into()).write_to(&mut output);
        assert_eq!(output, b"250-2.10.0 a\r\n250 2.10.0 b\r\n");
    }

    #[test]
    fn greeting_has_no_enhanced_status_code() {
        let mut output = Vec::new();
        Reply::greeting("mx.example.com").write_to(&mut output);
        assert_eq!(output, b"220 mx.example.com ESMTP\r\n");
    }
}
