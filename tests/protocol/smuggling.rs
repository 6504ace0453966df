//! SMTP smuggling: the 13 end-of-data forms of "Email Spoofing with SMTP Smuggling" (USENIX Security 2025, table 1), sent
//! to the server directly and through Postfix, Exim, OpenSMTPD and nullmailer.
//!
//! A content with one of the forms, followed by the commands of a second mail, must be stored as the one mail that the
//! client or the MTA sent. `docs/testing.md` has the table of what arrived; `-- --nocapture` prints it.

use testkit::smuggling::{FORMS, content};
use testkit::{Server, test};

#[test]
fn each_published_smuggling_form_ends_a_mail_only_if_it_contains_crlf_dot_crlf() {
    for form in FORMS {
        let server = Server::start(&[]);
        let mut client = server.client();
        client.begin_data("a@client.test", "u@ours.test");
        client.send(content(form, "\r\n"));
        client.send("\r\n.\r\nQUIT\r\n");
        let mut replies = Vec::new();
        while let Some(reply) = client.read_reply() {
            replies.push(reply.code);
        }
        let mails = server.contents().len();
        let expected: (&[u16], usize) = match form {
            // NUL after the end of data makes the next command invalid, so that no second mail begins.
            b"\r\n.\r\n\0" => (&[250, 500, 503, 503, 500, 500, 500, 500, 221], 1),
            // The complete sequence ends the mail, with NUL as the last octet of its content.
            b"\0\r\n.\r\n" => (&[250, 250, 250, 354, 250, 221], 2),
            _ => (&[250, 221], 1),
        };
        let found = (replies.as_slice(), mails);
        assert_eq!(found, expected, "{}", form.escape_ascii());
    }
}
