//! The published forms of an end of data, and a content that smuggles a second mail with one of them.

/// Returns the content of a mail with a form, followed by the commands and the content of a second mail.
pub fn content(form: &[u8], line_end: &str) -> Vec<u8> {
    let head = format!(
        "From: A Sender <a@client.test>\nTo: u@ours.test\nDate: Mon, 01 Jun 2026 12:00:00 +0000\n\
         Message-ID: <1@client.test>\nSubject: {}\n\n{FIRST}",
        form.escape_ascii()
    );
    let mut content = head.replace('\n', line_end).into_bytes();
    content.extend_from_slice(form);
    content.extend_from_slice(
        b"MAIL FROM:<evil@client.test>\r\nRCPT TO:<victim@ours.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx",
    );
    content
}

/// The last text of the content before the form.
pub const FIRST: &str = "first";

/// The forms in the order of the paper's table. Number 10 equals number 7 in the only public copy of the table; the others
/// are the six combinations of CR and LF without the complete sequence and one NUL in each place of the sequence.
pub const FORMS: [&[u8]; 13] = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\0\r\n.\r\n",
    b"\r\n\0.\r\n",
    b"\r\0\n.\r\n",
    b"\0\r\n.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n.\r\0\n",
    b"\r\n.\r\n\0",
];
