//! One command line in each session state: it gets exactly one reply, and no envelope can be used for relaying.
#![no_main]

use goguerrilla::internals::smtp::TlsState;
use goguerrilla_fuzz::{Dialogue, StepOutput};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let ends = line.contains(&b'\n');
    for before in [
        "",
        "EHLO c\r\n",
        "EHLO c\r\nMAIL FROM:<a@b>\r\n",
        "EHLO c\r\nMAIL FROM:<> SMTPUTF8\r\n",
        "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<v@ours.test>\r\n",
    ] {
        let mut dialogue = Dialogue::new(100_000, 1 << 20, TlsState::On);
        let command_count = before.lines().count();
        assert_eq!(dialogue.receive(before.as_bytes()).len(), command_count);
        let seen = dialogue.receive(&[line, b"\r\n"].concat());
        let counts = dialogue.session().session_counters();
        if !ends && line.len() <= 2_046 {
            let verb = line.trim_ascii_start().get(..4).unwrap_or_default();
            match &seen[..] {
                // The session waits for the octets of a chunk.
                [] => assert!(verb.eq_ignore_ascii_case(b"BDAT")),
                [step] => check_step(step, verb),
                more => panic!("{more:?}"),
            }
            if counts.mail + counts.rcpt > command_count as u64 {
                panic!("{counts:?} in {command_count} commands and one");
            }
        }
        // If the line left a transaction open, a mail shows the accepted paths.
        let rest = b"RCPT TO:<known@ours.test>\r\nDATA\r\n.\r\n";
        for step in dialogue.receive(rest) {
            if let StepOutput::Save(mail) = step {
                check_path(&mail.from, mail.smtputf8);
                assert!(mail.from.len() <= 254);
                for recipient in &mail.recipients {
                    check_path(recipient, mail.smtputf8);
                    assert!(is_allowed(recipient), "{recipient}");
                    // The width of the column `recipient`.
                    assert!(recipient.chars().count() <= 320);
                }
            }
        }
        dialogue.end();
    }
});

fn check_step(step: &StepOutput, verb: &[u8]) {
    let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
    match step.code() {
        // An empty last chunk.
        0 => assert!(is(b"BDAT")),
        354 => assert!(is(b"DATA")),
        221 => assert!(is(b"QUIT")),
        252 => assert!(is(b"VRFY")),
        214 => assert!(is(b"HELP")),
        250 => assert!(
            [
                &b"HELO"[..],
                b"EHLO",
                b"MAIL",
                b"RCPT",
                b"RSET",
                b"NOOP",
                b"BDAT"
            ]
            .iter()
            .any(|name| is(name))
        ),
        451 | 454 => panic!("{step:?}"),
        code => assert!((500..560).contains(&code), "{step:?}"),
    }
}

/// Asserts that the path is printable, and ASCII unless SMTPUTF8 was requested.
fn check_path(path: &str, smtputf8: bool) {
    assert!(!path.chars().any(char::is_control), "{path:?}");
    assert!(smtputf8 || path.is_ascii(), "{path}");
}

/// Returns whether the recipient is in the allowed domain and cannot be read as a second address by a later MTA.
fn is_allowed(recipient: &str) -> bool {
    let behind_route = match recipient.strip_prefix('@') {
        Some(route) => route.split_once(':').expect("a route has an end").1,
        None => recipient,
    };
    if behind_route.eq_ignore_ascii_case("postmaster") {
        return true;
    }
    let Some((local_part, domain)) = behind_route.rsplit_once('@') else {
        return false;
    };
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    domain.eq_ignore_ascii_case("ours.test") && !local_part.contains(['@', '%', '!'])
}
