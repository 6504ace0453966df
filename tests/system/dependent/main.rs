//! A program outside this repository: it starts a server, receives a mail from lettre, checks it, and shuts down.

use std::error::Error;
use std::sync::mpsc::{self, Sender};
use std::thread;

use goguerrilla::{Config, Mail, SaveError, SaveMail, SavedId, Server};
use lettre::{SmtpTransport, Transport, address::Envelope};

struct ToChannel(Sender<(String, Vec<u8>)>);

impl SaveMail for ToChannel {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let received = (mail.subject().to_owned(), mail.content().to_vec());
        self.0.send(received).map_err(SaveError::unavailable)?;
        Ok(SavedId::from(mail.hash()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (sender, mails) = mpsc::channel();
    let config = Config::builder().listen("127.0.0.1:0".parse()?).build()?;
    let server = Server::builder(config)
        .store(move || Ok(ToChannel(sender.clone())))
        .bind()?;
    let (port, handle) = (server.local_addrs()[0].port(), server.handle());
    let running = thread::spawn(|| server.run());

    let client = SmtpTransport::builder_dangerous("127.0.0.1")
        .port(port)
        .build();
    let envelope = Envelope::new(Some("a@client.test".parse()?), vec!["u@ours.test".parse()?])?;
    // lettre ends the last line.
    client.send_raw(&envelope, b"Subject: hello\r\n\r\ntext")?;
    assert_eq!(
        mails.recv()?,
        (
            "hello".to_owned(),
            b"Subject: hello\r\n\r\ntext\r\n".to_vec()
        )
    );

    handle.shutdown();
    running.join().expect("no panic")?;
    Ok(())
}
