//! Mails of the kinds that a server receives, generated from pseudo-random numbers.

/// Mails of one kind.
pub struct Kind {
    pub name: &'static str,
    count: usize,
    make: Make,
}

/// Makes one mail.
type Make = fn(&mut Random) -> Vec<u8>;

impl Kind {
    /// Makes the mails, all different, at least 1 MB in total.
    pub fn mails(&self) -> Vec<Vec<u8>> {
        let seeds = 1..=self.count as u64;
        seeds
            .map(|seed| (self.make)(&mut Random(seed * FIRST_SEED)))
            .collect()
    }
}

/// Returns all kinds.
pub fn kinds() -> Vec<Kind> {
    let kinds: [(&str, usize, Make); 16] = [
        ("text, 2 KB", 500, |random| {
            with_header(random, "text/plain", |random| random.text(1_300))
        }),
        ("text, 20 KB", 60, |random| {
            with_header(random, "text/plain", |random| random.text(20_000))
        }),
        ("8-bit Cyrillic", 60, |random| {
            with_header(random, "text/plain; charset=koi8-r", |random| {
                cyrillic(&random.text(20_000))
            })
        }),
        ("quoted-printable", 40, |random| {
            with_header(random, "text/plain; charset=koi8-r", |random| {
                quoted_printable(&cyrillic(&random.text(15_000)))
            })
        }),
        ("HTML newsletter, 60 KB", 20, |random| {
            with_header(random, "text/html", |random| newsletter(random, 60_000))
        }),
        ("base64 of text, 100 KB", 12, |random| {
            with_header(random, "text/plain", |random| base64(&random.text(75_000)))
        }),
        ("PDF, 100 KB", 12, |random| {
            mixed(random, 500, &[75_000], pdf)
        }),
        ("JPEG, 100 KB", 12, |random| {
            mixed(random, 500, &[75_000], jpeg)
        }),
        ("S/MIME, 10 KB", 120, |random| {
            with_header(random, "application/pkcs7-mime", |random| {
                base64(&random.octets(7_000))
            })
        }),
        ("S/MIME, 100 KB", 12, |random| {
            with_header(random, "application/pkcs7-mime", |random| {
                base64(&random.octets(75_000))
            })
        }),
        ("HTML 30 KB and JPEG 70 KB", 12, |random| {
            mixed(random, 30_000, &[52_000], jpeg)
        }),
        ("HTML 80 KB and JPEG 20 KB", 12, |random| {
            mixed(random, 80_000, &[15_000], jpeg)
        }),
        ("HTML 15 KB and ten images of 5 KB", 15, |random| {
            mixed(random, 15_000, &[4_000; 10], jpeg)
        }),
        ("HTML 10 KB and three PDF of 40 KB", 10, |random| {
            mixed(random, 10_000, &[30_000; 3], pdf)
        }),
        ("1 MB, four PDF", 3, |random| {
            mixed(random, 5_000, &[190_000; 4], pdf)
        }),
        ("worst case: random octets, 100 KB", 12, |random| {
            random.octets(100_000)
        }),
    ];
    let kinds = kinds.into_iter();
    kinds
        .map(|(name, count, make)| Kind { name, count, make })
        .collect()
}

/// Returns a newsletter of about this many octets in HTML, the same each time.
pub fn html(octets: usize) -> String {
    let random = &mut Random(FIRST_SEED);
    let mut mail = header(random, "text/html");
    let body = newsletter(random, octets.saturating_sub(mail.len()));
    mail.extend(body);
    String::from_utf8(mail).expect("ASCII")
}

/// Pseudo-random numbers: G. Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    /// Returns octets without any structure, like those of compressed or encrypted data.
    fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// Returns a word; the first ones of the vocabulary are the most frequent, by G. Zipf's law.
    fn word(&mut self) -> Vec<u8> {
        let rank = 3_000.0_f64.powf(self.next() as f64 / (1_u64 << 48) as f64) as u64;
        let mut letters = Random(rank * 0x51_7cc1 + 1);
        letters.next();
        let length = 2 + (rank as f64).log2() as usize / 2 + letters.below(4);
        (0..length)
            .map(|_| LETTERS[letters.below(LETTERS.len())])
            .collect()
    }

    /// Returns at least `octets` octets of text in lines of about 72 octets.
    fn text(&mut self, octets: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let mut line = 0;
        while text.len() < octets {
            let word = self.word();
            line += word.len() + 1;
            text.extend(word);
            match line {
                ..65 if self.below(8) == 0 => text.extend(b", "),
                ..65 => text.push(b' '),
                _ => {
                    text.extend(b".\r\n");
                    line = 0;
                }
            }
        }
        text.extend(b"\r\n");
        text
    }

    fn hex(&mut self, octets: usize) -> String {
        self.octets(octets)
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect()
    }
}

/// Returns a mail with a header section as it arrives after two relays, and a body.
fn with_header(random: &mut Random, media_type: &str, body: fn(&mut Random) -> Vec<u8>) -> Vec<u8> {
    let mut mail = header(random, media_type);
    mail.extend(body(random));
    mail
}

fn header(random: &mut Random, media_type: &str) -> Vec<u8> {
    let mut header = String::new();
    for relay in ["out", "mx"] {
        let (host, address, id) = (random.below(40), random.below(250), random.hex(6));
        header += &format!(
            "Received: from {relay}{host}.example.net ({relay}{host}.example.net [192.0.2.{address}])\r\n\tby {relay}.example.com \
             (Postfix) with ESMTPS id {id}\r\n\tfor <user@example.com>; Mon, 1 Feb 2027 10:{:02}:{:02} +0000 (UTC)\r\n",
            random.below(60),
            random.below(60),
        );
    }
    header += "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.net; s=s2027;\r\n\th=from:to:subject:date:message-id;\r\n\tb=";
    let mut header = header.into_bytes();
    header.extend(base64(&random.octets(256)));
    let id = random.hex(12);
    header.extend(format!("From: Sender <sender@example.net>\r\nTo: user@example.com\r\nMessage-ID: <{id}@example.net>\r\nSubject: ").bytes());
    header.extend(random.word());
    header.extend(format!("\r\nMIME-Version: 1.0\r\nContent-Type: {media_type}\r\n\r\n").bytes());
    header
}

/// Returns a mail of HTML and attachments whose files have these lengths.
fn mixed(
    random: &mut Random,
    html: usize,
    files: &[usize],
    file: fn(&mut Random, usize) -> Vec<u8>,
) -> Vec<u8> {
    let boundary = format!("----=_NextPart_{}", random.hex(12));
    let mut mail = header(
        random,
        &format!("multipart/mixed;\r\n\tboundary=\"{boundary}\""),
    );
    mail.extend(format!("--{boundary}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n").bytes());
    mail.extend(newsletter(random, html));
    for (number, &octets) in files.iter().enumerate() {
        mail.extend(
            format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream; name=\"file{number:03}.bin\"\r\nContent-Transfer-Encoding: \
                 base64\r\nContent-ID: <file{number:03}@{}>\r\nContent-Disposition: attachment; filename=\"file{number:03}.bin\"\r\n\r\n",
                random.hex(6)
            )
            .bytes(),
        );
        mail.extend(base64(&file(random, octets)));
    }
    mail.extend(format!("\r\n--{boundary}--\r\n").bytes());
    mail
}

/// Returns HTML of table cells with styles, links and pictures.
fn newsletter(random: &mut Random, octets: usize) -> Vec<u8> {
    let mut html =
        b"<!DOCTYPE html>\r\n<html><head><meta charset=\"utf-8\"></head><body>\r\n".to_vec();
    while html.len() < octets {
        let (link, picture, width) = (
            random.hex(16),
            random.below(10_000),
            100 + random.below(500),
        );
        html.extend(
            format!(
                "<tr><td align=\"left\" style=\"padding:{}px {}px;font-family:Arial,Helvetica,sans-serif;font-size:{}px;color:#333333\">\r\n\
                 <a href=\"https://click.example.net/t/{link}?utm_source=newsletter\" target=\"_blank\"><img \
                 src=\"https://img.example.net/{picture}.png\" width=\"{width}\" border=\"0\" alt=\"\"></a>\r\n",
                random.below(30),
                random.below(30),
                12 + random.below(6),
            )
            .bytes(),
        );
        html.extend(random.text(200));
        html.extend(b"</td></tr>\r\n");
    }
    html.extend(b"</body></html>\r\n");
    html
}

/// Returns a file with the structure of a PDF: compressed streams, their dictionaries, and a table of references.
fn pdf(random: &mut Random, octets: usize) -> Vec<u8> {
    let mut file = b"%PDF-1.7\n".to_vec();
    let mut objects = 0;
    while file.len() < octets - octets / 20 {
        objects += 1;
        let length = 500 + random.below(octets / 4);
        file.extend(format!("{objects} 0 obj\n<< /Type /XObject /Filter /FlateDecode /Length {length} >>\nstream\n").bytes());
        file.extend(random.octets(length));
        file.extend(b"\nendstream\nendobj\n");
    }
    file.extend(format!("xref\n0 {objects}\n").bytes());
    for _ in 0..objects {
        file.extend(format!("{:010} 00000 n \n", random.below(octets)).bytes());
    }
    file.extend(b"trailer\n<< /Root 1 0 R >>\n%%EOF\n");
    file
}

/// Returns a file with the structure of a JPEG: quantization tables, then data with an octet 0 after each octet 255.
fn jpeg(random: &mut Random, octets: usize) -> Vec<u8> {
    let mut file = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00".to_vec();
    for table in 0..2 {
        file.extend(b"\xff\xdb\x00\x43");
        file.push(table);
        file.extend((0..64).map(|index| 10 + index / 2));
    }
    while file.len() < octets {
        let octet = random.next() as u8;
        file.push(octet);
        if octet == 0xff {
            file.push(0);
        }
    }
    file.extend(b"\xff\xd9");
    file
}

/// Returns base64 in lines of 76 octets (RFC 2045 §6.8).
fn base64(octets: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in octets.chunks(57) {
        for group in line.chunks(3) {
            let bits = (0..3).fold(0, |bits, index| {
                bits << 8 | u32::from(group.get(index).copied().unwrap_or(0))
            });
            for digit in 0..4 {
                let value = bits >> (18 - 6 * digit) & 63;
                text.push(if digit > group.len() {
                    b'='
                } else {
                    BASE64[value as usize]
                });
            }
        }
        text.extend(b"\r\n");
    }
    text
}

/// Returns the text with each letter as one of KOI8-R.
fn cyrillic(text: &[u8]) -> Vec<u8> {
    let letter = |octet: &u8| {
        if octet.is_ascii_lowercase() {
            octet + 0x60
        } else {
            *octet
        }
    };
    text.iter().map(letter).collect()
}

/// Returns quoted-printable with soft line breaks (RFC 2045 §6.7).
fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut line = 0;
    for &octet in text {
        if line > 72 && octet != b'\r' && octet != b'\n' {
            encoded.extend(b"=\r\n");
            line = 0;
        }
        let before = encoded.len();
        match octet {
            b'=' | 127.. => encoded.extend(format!("={octet:02X}").bytes()),
            _ => encoded.push(octet),
        }
        line = if octet == b'\n' {
            0
        } else {
            line + encoded.len() - before
        };
    }
    encoded
}

const FIRST_SEED: u64 = 0x9e37_79b9;
/// Letters, the more frequent ones more often.
const LETTERS: &[u8] = b"eeeeeeeettttttaaaaaoooooiiiiinnnnnsssshhhhrrrrddlluccmmwwffggyppbvk";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
