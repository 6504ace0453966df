//! Properties that hold for every input stream, tested on a session without a socket.

use std::sync::Arc;

use goguerrilla::internals::smtp::{
    AcceptedDomains, COMMAND_READ_SIZE, InputBuffer, MemoryBudget, Reply, Session, SessionSettings,
    Step, TlsState, reply,
};
use goguerrilla::internals::store::TableColumns;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use testkit::test;

proptest! {
    #[test]
    fn session_steps_do_not_depend_on_packet_boundaries(
        stream in stream(),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let budget = MemoryBudget::new(1 << 20);
        let whole = steps(&[&stream], &budget);
        prop_assert_eq!(&steps(&cut(&stream, &cuts), &budget), &whole);
        let octets: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&steps(&octets, &budget), &whole);
        prop_assert_eq!(budget.reserved_octets(), 0);
    }

    #[test]
    fn session_never_panics_or_exceeds_its_limits_on_any_input(
        stream in vec(prop_oneof![8 => word(), 1 => vec(any::<u8>(), 0..40)], 0..60),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream = stream.concat();
        let budget = MemoryBudget::new(100);
        for step in steps(&cut(&stream, &cuts), &budget) {
            if let StepOutput::Save { content, .. } = step {
                prop_assert!(content.len() <= 100);
            }
        }
        prop_assert_eq!(budget.reserved_octets(), 0);
    }
}

#[test]
fn endless_input_is_read_with_a_bounded_buffer() {
    let transaction = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@ours.test>\r\n";
    for beginning in [
        &b""[..],
        &[transaction, &b"DATA\r\n"[..]].concat(),
        &[transaction, &b"BDAT 4000000000 LAST\r\n"[..]].concat(),
        b"BDAT 4000000000\r\n",
    ] {
        for endless in [&b"x"[..], b"\r", b"x\n.\nRSET ", b"\r\n..", b"\0"] {
            if beginning.is_empty() && endless.contains(&b'\n') {
                // With LF these lines would be commands or end the connection.
                continue;
            }
            let budget = MemoryBudget::new(1 << 20);
            let stream = [beginning, &endless.repeat(1_000_000 / endless.len())].concat();
            steps(&[&stream], &budget);
            assert_eq!(budget.reserved_octets(), 0, "{}", beginning.escape_ascii());
        }
    }
}

#[test]
fn memory_budget_counts_content_held_and_not_the_declared_size() {
    let budget = MemoryBudget::new(1 << 20);
    let mut session = Session::new(settings(), budget.clone(), TlsState::Unavailable);
    let mut input = InputBuffer::new();
    input.push(b"EHLO c\r\nMAIL FROM:<a@b> SIZE=200\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n");
    while !matches!(session.next_step(&mut input), Step::NeedInput) {}
    assert_eq!(budget.reserved_octets(), 0);
    input.push(b"text\r\n.\r\n");
    let step = session.next_step(&mut input);
    assert!(budget.reserved_octets() > 0, "{step:?}");
    drop(step);
    assert_eq!(budget.reserved_octets(), 0);
}

/// The externally visible part of a step.
#[derive(Debug, PartialEq, Eq)]
enum StepOutput {
    Say(String),
    Save {
        from: String,
        recipients: Vec<String>,
        smtputf8: bool,
        content: Vec<u8>,
    },
    Close(String),
}

/// Returns every step until the stream or the session ends; each piece arrives as one write, read in parts.
fn steps(pieces: &[&[u8]], budget: &MemoryBudget) -> Vec<StepOutput> {
    let mut session = Session::new(settings(), budget.clone(), TlsState::Unavailable);
    let mut input = InputBuffer::new();
    let mut seen = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let spare = input.spare_mut(COMMAND_READ_SIZE);
            let count = spare.len().min(rest.len());
            spare[..count].copy_from_slice(&rest[..count]);
            input.mark_spare_octets_as_filled(count);
            rest = &rest[count..];
            loop {
                match session.next_step(&mut input) {
                    Step::NeedInput => break,
                    Step::Reply(reply) => seen.push(StepOutput::Say(text(&reply))),
                    Step::RejectMessage(error) => seen.push(StepOutput::Say(text(&error.into()))),
                    Step::RejectXclient => {
                        seen.push(StepOutput::Say(text(&reply::R550_XCLIENT_DENIED)));
                    }
                    Step::StartTls(_) => unreachable!("TLS is not offered"),
                    Step::Xclient(..) => unreachable!("no proxy is trusted"),
                    Step::CheckRecipient(_) => unreachable!("no recipient hook is set"),
                    Step::Quit(reply) | Step::Close(reply) => {
                        seen.push(StepOutput::Close(text(&reply)));
                        return seen;
                    }
                    Step::Save(envelope, content) => {
                        let paths = envelope.recipients.iter();
                        seen.push(StepOutput::Save {
                            from: envelope.reverse_path.as_str().to_owned(),
                            recipients: paths.map(|path| path.as_str().to_owned()).collect(),
                            smtputf8: envelope.smtputf8,
                            content: content.octets().to_vec(),
                        });
                    }
                }
            }
            // Only an incomplete command line may stay unread.
            let unread = input.unconsumed_octets().len();
            assert!(unread < 2_048, "{unread} octets unread");
            let buffer = unread + input.spare_mut(COMMAND_READ_SIZE).len();
            assert!(buffer <= 65_536, "a buffer of {buffer} octets");
        }
    }
    seen
}

/// Returns the reply as it is sent.
fn text(reply: &Reply) -> String {
    let mut octets = Vec::new();
    reply.write_to(&mut octets);
    String::from_utf8(octets).expect("ASCII")
}

fn settings() -> Arc<SessionSettings> {
    Arc::new(SessionSettings {
        host_name: "mx.test".to_owned(),
        primary_mail_host: "primary.test".to_owned(),
        allowed_hosts: AcceptedDomains::from_host_patterns(["ours.test"]).expect("a domain"),
        max_content_octets: 200,
        max_recipients: 3,
        recipient_limits: Arc::new(TableColumns::DEFAULT.columns_limiting_recipients()),
        recipient_hook: None,
        verbose: true,
    })
}

fn cut<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &stream[pair[0]..pair[1]])
        .collect()
}

/// Generates mostly valid sessions with errors mixed in.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let command = select(COMMANDS).prop_map(|line| line.as_bytes().to_vec());
    let data = vec(word(), 0..40).prop_map(|words| {
        let content = words.concat();
        [TRANSACTION, b"DATA\r\n", &content, b"\r\n.\r\n"].concat()
    });
    let chunk = (any::<bool>(), 0..250usize, any::<bool>()).prop_map(|(begin, size, last)| {
        let begin = if begin { TRANSACTION } else { b"" };
        let last = if last { " LAST" } else { "" };
        let octets = b"RSET\r\n.\r\n\n.".iter().cycle().take(size);
        let octets: Vec<u8> = octets.copied().collect();
        let command = format!("BDAT {size}{last}\r\n");
        [begin, command.as_bytes(), &octets].concat()
    });
    let long_line = (2_040..2_056usize)
        .prop_map(|length| [&b"NOOP "[..], &b"x".repeat(length - 5), b"\r\n"].concat());
    let garbage = vec(any::<u8>(), 0..20);
    let piece = prop_oneof![10 => command, 4 => data, 4 => chunk, 1 => long_line, 1 => garbage];
    vec(piece, 0..20).prop_map(|pieces| [&b"EHLO c\r\n"[..], &pieces.concat()].concat())
}

/// Generates the critical parts of streams: line ends, dots, and text that looks like commands.
fn word() -> impl Strategy<Value = Vec<u8>> {
    select(WORDS).prop_map(|word| word.to_vec())
}

const TRANSACTION: &[u8] = b"RSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@ours.test>\r\n";

const COMMANDS: &[&str] = &[
    "EHLO client.test\r\n",
    "HELO client.test\r\n",
    "MAIL FROM:<a@client.test>\r\n",
    "MAIL FROM:<grün@client.test> SMTPUTF8 SIZE=10\r\n",
    "MAIL FROM:<a@client.test> SIZE=201\r\n",
    "RCPT TO:<u@ours.test>\r\n",
    "RCPT TO:<v@ours.test>\r\n",
    "RCPT TO:<w@foreign.test>\r\n",
    "RCPT TO:<w@foreign.test@ours.test>\r\n",
    "DATA\r\n",
    "DATA\r\n.\r\n",
    "BDAT 5\r\nRSET\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "NOOP\rRSET\r\n",
    "VRFY u\r\n",
    "HELP\r\n",
    "XYZZY\r\n",
    "NOOP\n",
    "GET / HTTP/1.1\r\n",
    "QUIT\r\n",
];

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b".",
    b"..",
    b"\0",
    b"x",
    b"text ",
    b"\r\n.\r\n",
    b"\r\n.\n",
    b"\n.\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"RCPT TO:<u@ours.test>\r\n",
    b"EHLO c\r\n",
    b"BDAT 7 LAST\r\n",
    b"BDAT 18446744073709551615\r\n",
    b"\xff\xfe",
];
