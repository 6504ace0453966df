//! Message contents for the micro-benchmarks: generated ones, the same in every run, and those of `tests/corpus`.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Returns a mail of `octets` octets: a short header section and plain text.
pub fn text_mail(octets: usize) -> String {
    let mut mail = String::from(
        "From: A <a@client.test>\r\nTo: B <b@ours.test>\r\nSubject: Minutes of the meeting\r\n\
         Date: Fri, 2 Jan 2026 03:04:05 +0000\r\nMessage-ID: <1@client.test>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
    );
    append_lines(&mut mail, octets, "");
    mail
}

/// Returns text of `octets` octets in which every line begins with a dot.
pub fn text_with_leading_dots(octets: usize) -> String {
    let mut text = String::new();
    append_lines(&mut text, octets, ".");
    text
}

/// Returns a mail with a text part and an attachment `report.pdf` of random octets in base64, which has `lines` lines of
/// [`OCTETS_OF_BASE64_LINE`] decoded octets.
pub fn mail_with_attachment(lines: usize) -> String {
    let mut random = Random::new();
    let mut mail = String::from(
        "From: A <a@client.test>\r\nTo: B <b@ours.test>\r\nSubject: The report\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"boundary-1\"\r\n\r\n\
         --boundary-1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nSee the attachment.\r\n\
         --boundary-1\r\nContent-Type: application/pdf; name=\"report.pdf\"\r\n\
         Content-Disposition: attachment; filename=\"report.pdf\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n",
    );
    for _ in 0..lines {
        // Base64 of random octets is a random sequence of the alphabet.
        mail.extend((0..76).map(|_| char::from(BASE64_ALPHABET[random.below(64)])));
        mail.push_str("\r\n");
    }
    mail.push_str("--boundary-1--\r\n");
    mail
}

/// Returns a newsletter of about 50 KB: text and HTML in quoted-printable, with an encoded subject.
pub fn html_newsletter() -> String {
    let mut html = String::from("<html><body><table>\r\n");
    for row in 0..300 {
        html.push_str(&format!(
            "<tr><td class=3D\"offer\" style=3D\"padding:4px;font-family:Arial\">Gr=C3=BC=\r\n\
             =C3=9Fe <a href=3D\"https://example.com/offers/{row}?utm_source=3Dnews\">No. =\r\n{row}</a></td></tr>\r\n"
        ));
    }
    html.push_str("</table></body></html>\r\n");
    format!(
        "From: =?utf-8?Q?Gr=C3=BC=C3=9Fe?= <news@client.test>\r\nTo: B <b@ours.test>\r\n\
         Subject: =?utf-8?B?R3LDvMOfZSBhdXMgTcO8bmNoZW4=?= =?utf-8?Q?_und_K=C3=B6ln?=\r\n\
         List-Unsubscribe: <https://example.com/unsubscribe>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/alternative; boundary=\"=_news\"\r\n\r\n\
         --=_news\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
         Gr=C3=BC=C3=9Fe\r\n\
         --=_news\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
         {html}--=_news--\r\n"
    )
}

/// Returns 1 MB of parts that are all attachments, many more than a summary lists.
pub fn mail_of_empty_attachments() -> String {
    let part = "--b\r\nContent-Type: a/b; name=\"x\"\r\n\r\n\r\n";
    let parts = part.repeat(1_000_000 / part.len());
    format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{parts}")
}

/// Returns a mail that is one attachment in quoted-printable: `lines` lines of Cyrillic text, joined by soft line breaks, with
/// [`OCTETS_OF_ESCAPED_LINE`] decoded octets each.
pub fn quoted_printable_attachment(lines: usize) -> String {
    let line = format!("{}=\r\n", "=D0=9F".repeat(OCTETS_OF_ESCAPED_LINE / 2));
    format!(
        "Content-Type: text/csv; name=a.csv\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{}",
        line.repeat(lines)
    )
}

/// Returns ten multiparts, each in the one before it, around 1 MB of lines that begin like a delimiter line of the first.
pub fn nested_multiparts_with_lines_like_delimiters() -> String {
    let levels: String = (0..10)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
        .collect();
    levels + "\r\n" + &"--b0x\n".repeat(1_000_000 / 6)
}

/// Returns `content` as a client sends it after DATA: with dot-stuffing and the final dot.
pub fn stuff_dots(content: &str) -> String {
    let lines = content.split_inclusive("\r\n");
    let stuffed: String = lines
        .flat_map(|line| [if line.starts_with('.') { "." } else { "" }, line])
        .collect();
    stuffed + ".\r\n"
}

/// A mail of `tests/corpus`.
pub struct CorpusMail {
    pub content: Vec<u8>,
    /// The values of the columns, as in the file NAME.expected.
    pub expected: Value,
}

impl CorpusMail {
    pub fn load(name: &str) -> CorpusMail {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
        let read =
            |extension| fs::read(folder.join(name).with_extension(extension)).expect("a file");
        CorpusMail {
            content: read("eml"),
            expected: serde_json::from_slice(&read("expected")).expect("a JSON object"),
        }
    }
}

/// Appends lines of words, each with `prefix`, until `text` has `octets` octets.
fn append_lines(text: &mut String, octets: usize, prefix: &str) {
    let mut random = Random::new();
    let words: Vec<&str> = WORDS.split(' ').collect();
    while text.len() < octets {
        let start = text.len();
        text.push_str(prefix);
        while text.len() - start < 66 {
            text.push_str(words[random.below(words.len())]);
            text.push(' ');
        }
        text.push_str("\r\n");
    }
    text.truncate(octets - 2);
    text.push_str("\r\n");
}

/// Pseudo-random numbers: Marsaglia's xorshift64 with a fixed start.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    /// Returns a number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

/// Number of octets that a line of 76 characters of base64 encodes.
pub const OCTETS_OF_BASE64_LINE: usize = 57;
/// Number of octets that a line of escapes in quoted-printable encodes.
pub const OCTETS_OF_ESCAPED_LINE: usize = 24;

const BASE64_ALPHABET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const WORDS: &str = "the a of and to in is that for it with as was on be at server message delivery meeting project \
    customer invoice number tomorrow please regards attached report question answer monday office \
    telephone we you they have will would could about after before between 2026 12.50 EUR e.g. (see \
    below) therefore, however, done. again?";
