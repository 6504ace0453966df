//! Catches mail in the tests of a program that sends mail: each mail goes to a channel.

use std::error::Error;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use goguerrilla::{Config, Mail, SaveError, SaveMail, SavedId, Server, ServerHandle, StartError};
use lettre::address::Envelope;
use lettre::{SmtpTransport, Transport};

/// What a test checks of a mail.
struct CaughtMail {
    sender: String,
    recipients: Vec<String>,
    subject: String,
    content: Vec<u8>,
}

/// An SMTP server on a free port of 127.0.0.1 that accepts every mail. Dropping it stops the server.
struct MailCatcher {
    port: u16,
    handle: ServerHandle,
    thread: Option<JoinHandle<Result<(), StartError>>>,
    mails: Receiver<CaughtMail>,
}

struct ChannelStore(Sender<CaughtMail>);

impl SaveMail for ChannelStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let recipients = mail.recipients().iter();
        let caught = CaughtMail {
            sender: mail.reverse_path().to_owned(),
            recipients: recipients.map(|row| row.recipient.clone()).collect(),
            subject: mail.subject().to_owned(),
            content: mail.content().to_owned(),
        };
        self.0.send(caught).map_err(SaveError::unavailable)?;
        Ok(SavedId::from(mail.hash()))
    }
}

impl MailCatcher {
    fn start() -> Result<MailCatcher, Box<dyn Error>> {
        let (sender, mails) = mpsc::channel();
        let config = Config::builder().listen("127.0.0.1:0".parse()?).build()?;
        let server = Server::builder(config)
            .store(move || Ok(ChannelStore(sender.clone())))
            .bind()?;
        Ok(MailCatcher {
            port: server.local_addrs()[0].port(),
            handle: server.handle(),
            thread: Some(thread::spawn(|| server.run())),
            mails,
        })
    }

    fn port(&self) -> u16 {
        self.port
    }

    /// Returns the oldest mail that was not returned yet; waits for it if there is none.
    fn next_mail(&self, timeout: Duration) -> Result<CaughtMail, RecvTimeoutError> {
        self.mails.recv_timeout(timeout)
    }
}

impl Drop for MailCatcher {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let catcher = MailCatcher::start()?;
    // The program under test, which is configured with the port of the catcher.
    let mailer = SmtpTransport::builder_dangerous("127.0.0.1")
        .port(catcher.port())
        .build();
    let customer = "customer@example.org".parse()?;
    let envelope = Envelope::new(Some("shop@example.com".parse()?), vec![customer])?;
    mailer.send_raw(&envelope, b"Subject: Your order\r\n\r\nThank you.")?;

    let mail = catcher.next_mail(Duration::from_secs(10))?;
    assert_eq!(mail.sender, "shop@example.com");
    assert_eq!(mail.recipients, ["customer@example.org"]);
    assert_eq!(mail.subject, "Your order");
    assert!(mail.content.ends_with(b"\r\n\r\nThank you.\r\n"));
    println!("caught 1 mail: {}", mail.subject);
    Ok(())
}
