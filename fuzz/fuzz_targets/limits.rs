//! LIMITS RCPTMAX and SIZE: EHLO announces the limits, and a transaction keeps them, compared with a model of the session.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use goguerrilla::internals::smtp::{SessionSettings, TlsState, XclientAddress};
use goguerrilla_fuzz::{Dialogue, StepOutput, settings};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    max_recipients: u8,
    max_content: u16,
    tls: u8,
    is_proxy: bool,
    commands: Vec<Command>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Command {
    Ehlo,
    Helo,
    Xclient,
    StartTls,
    Mail,
    /// MAIL with this value of SIZE.
    MailOfSize(u16),
    /// The recipient with this number.
    Rcpt(u8),
    /// As many further recipients as the value.
    Recipients(u8),
    RcptOfForeignDomain,
    Rset,
    Data,
}

/// What the model knows of the session.
#[derive(Default)]
struct Model {
    has_helo: bool,
    is_behind_proxy: bool,
    /// The distinct recipients of the open transaction.
    recipients: Option<Vec<u8>>,
}

fuzz_target!(|input: Input| {
    let limits = SessionSettings {
        max_recipients: usize::from(input.max_recipients).max(1),
        ..SessionSettings::clone(&settings(usize::from(input.max_content).max(1)))
    };
    let tls = [TlsState::Unavailable, TlsState::Offered, TlsState::On][usize::from(input.tls % 3)];
    let mut dialogue = Dialogue::with_settings(Arc::new(limits.clone()), 1 << 20, tls);
    if input.is_proxy {
        dialogue = dialogue.allow_xclient(None);
    }
    let mut run = Run {
        dialogue,
        limits,
        tls,
        is_proxy: input.is_proxy,
        model: Model::default(),
    };
    for command in input.commands.iter().take(60) {
        let is_open = match *command {
            Command::Recipients(count) => (0..count).all(|number| run.step(Command::Rcpt(number))),
            command => run.step(command),
        };
        if !is_open {
            break;
        }
    }
    run.dialogue.end();
});

struct Run {
    dialogue: Dialogue,
    limits: SessionSettings,
    tls: TlsState,
    is_proxy: bool,
    model: Model,
}

impl Run {
    /// Sends one command and compares its reply. Returns whether the session is still open.
    fn step(&mut self, command: Command) -> bool {
        let line = line_of(command);
        let seen = self.dialogue.receive(line.as_bytes());
        let [step] = &seen[..] else {
            panic!("{seen:?} to {line}");
        };
        // More than 10 errors or 100 commands end a session.
        if let StepOutput::Close(code, _) = step {
            assert_eq!(*code, 421, "{line}");
            return false;
        }
        self.check(command, step);
        true
    }

    fn check(&mut self, command: Command, step: &StepOutput) {
        let code = step.code();
        let max_recipients = self.limits.max_recipients;
        match command {
            Command::Ehlo => {
                let StepOutput::Reply(250, text) = step else {
                    panic!("{step:?}");
                };
                self.check_ehlo(text);
                self.begin_session(true);
            }
            Command::Helo => {
                assert_eq!(code, 250);
                self.begin_session(true);
            }
            Command::Xclient if !self.is_proxy => assert_eq!(code, 550),
            Command::Xclient if self.model.recipients.is_some() => assert_eq!(code, 503),
            Command::Xclient => {
                assert_eq!(*step, StepOutput::Xclient(XclientAddress::NotGiven));
                self.model.is_behind_proxy = true;
                self.begin_session(false);
            }
            Command::StartTls => match step {
                StepOutput::StartTls => {
                    assert_eq!(self.tls, TlsState::Offered);
                    self.tls = TlsState::On;
                    self.begin_session(false);
                }
                _ => assert!((500..504).contains(&code), "{step:?}"),
            },
            Command::Mail => self.check_mail(code, 0),
            Command::MailOfSize(size) => self.check_mail(code, usize::from(size)),
            Command::Rcpt(number) => match &mut self.model.recipients {
                None => assert_eq!(code, 503),
                Some(known) if known.contains(&number) => assert_eq!(code, 250),
                Some(known) if known.len() < max_recipients => {
                    assert_eq!(code, 250);
                    known.push(number);
                }
                Some(_) => assert_eq!(code, 452),
            },
            Command::RcptOfForeignDomain => {
                let is_open = self.model.recipients.is_some();
                assert_eq!(code, if is_open { 550 } else { 503 });
            }
            Command::Rset => {
                assert_eq!(code, 250);
                self.model.recipients = None;
            }
            Command::Data => self.check_data(code),
            Command::Recipients(_) => unreachable!("it is sent as several commands"),
        }
    }

    fn begin_session(&mut self, has_helo: bool) {
        self.model.has_helo = has_helo;
        self.model.recipients = None;
    }

    fn check_mail(&mut self, code: u16, size: usize) {
        match self.model {
            Model {
                has_helo: false, ..
            } => assert_eq!(code, 503),
            Model {
                recipients: Some(_),
                ..
            } => assert_eq!(code, 503),
            _ if size > self.limits.max_content_octets => assert_eq!(code, 552),
            _ => {
                assert_eq!(code, 250);
                self.model.recipients = Some(Vec::new());
            }
        }
    }

    fn check_data(&mut self, code: u16) {
        let recipients = match &self.model.recipients {
            Some(recipients) if !recipients.is_empty() => recipients.clone(),
            _ => return assert_eq!(code, 503),
        };
        assert_eq!(code, 354);
        let seen = self.dialogue.receive(b"\r\n.\r\n");
        self.model.recipients = None;
        match &seen[..] {
            [StepOutput::Save(mail)] => {
                let want: Vec<String> = recipients.iter().map(|number| address(*number)).collect();
                assert_eq!(mail.recipients, want);
                assert!(mail.content.len() <= self.limits.max_content_octets);
            }
            [StepOutput::Reply(552, _)] => assert!(self.limits.max_content_octets < 2),
            other => panic!("{other:?}"),
        }
    }

    /// Checks that each keyword is there once, if it is to be offered, with its limit.
    fn check_ehlo(&self, text: &str) {
        let lines = text.lines().map(|line| &line[4..]).skip(1);
        let (mut limits, mut size, mut keywords) = (None, None, Vec::new());
        for line in lines {
            let (keyword, parameter) = line.split_once(' ').unwrap_or((line, ""));
            match keyword {
                "LIMITS" => limits = parameter.strip_prefix("RCPTMAX="),
                "SIZE" => size = Some(parameter),
                _ => {}
            }
            assert!(!keywords.contains(&keyword), "{keyword} twice");
            keywords.push(keyword);
        }
        let is_direct = !self.model.is_behind_proxy;
        // RFC 9422 §4: a decimal number without sign and leading zeros.
        let want = is_direct.then(|| self.limits.max_recipients.to_string());
        assert_eq!(limits, want.as_deref());
        assert_eq!(keywords.contains(&"LIMITS"), is_direct);
        assert_eq!(keywords.contains(&"CHUNKING"), is_direct);
        let max_content = self.limits.max_content_octets.to_string();
        assert_eq!(size, Some(max_content.as_str()));
        assert_eq!(
            keywords.contains(&"STARTTLS"),
            self.tls == TlsState::Offered
        );
        assert_eq!(keywords.contains(&"XCLIENT"), self.is_proxy);
    }
}

fn line_of(command: Command) -> String {
    match command {
        Command::Ehlo => "EHLO c.test\r\n".to_owned(),
        Command::Helo => "HELO c.test\r\n".to_owned(),
        Command::Xclient => "XCLIENT HELO=c.test\r\n".to_owned(),
        Command::StartTls => "STARTTLS\r\n".to_owned(),
        Command::Mail => "MAIL FROM:<>\r\n".to_owned(),
        Command::MailOfSize(size) => format!("MAIL FROM:<> SIZE={size}\r\n"),
        Command::Rcpt(number) => format!("RCPT TO:<{}>\r\n", address(number)),
        Command::RcptOfForeignDomain => "RCPT TO:<u@foreign.test>\r\n".to_owned(),
        Command::Rset => "RSET\r\n".to_owned(),
        Command::Data => "DATA\r\n".to_owned(),
        Command::Recipients(_) => unreachable!("it is sent as several commands"),
    }
}

fn address(number: u8) -> String {
    format!("u{number}@ours.test")
}
