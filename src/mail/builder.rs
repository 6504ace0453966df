//! Builds a mail without an SMTP session, for the tests of a store.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use super::{Mail, MailOrigin};
use crate::smtp::{
    Envelope, ForwardPath, MemoryBudget, MessageOctets, ReversePath, domain, is_helo_name,
    parse_mail_address, parse_rcpt_address,
};

/// Builds a [`Mail`] as an SMTP session would give it to a store. [`Mail::builder`] returns one.
///
/// Only a recipient is required; a test sets what it checks:
///
/// ```
/// use goguerrilla::Mail;
///
/// let mail = Mail::builder()
///     .recipient("u@ours.test")
///     .content("Subject: x\r\n\r\nbody\r\n")
///     .build()?;
/// assert_eq!(mail.subject(), "x");
/// assert_eq!(mail.recipients()[0].recipient, "u@ours.test");
/// # Ok::<(), goguerrilla::MailBuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MailBuilder {
    sender: String,
    recipients: Vec<String>,
    content: Vec<u8>,
    client_ip: IpAddr,
    helo_name: String,
    protocol: Option<&'static str>,
    host_name: String,
    primary_mail_host: Option<String>,
    received_at: Option<SystemTime>,
}

/// Why [`MailBuilder::build`] cannot build a mail. The text names the value, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailBuildError {
    /// The sender is not an address that MAIL would accept.
    #[error("sender: expected an address such as a@example.com, or an empty text, but found {0:?}")]
    InvalidSender(String),
    /// A recipient is not an address that RCPT would accept.
    #[error("recipient: expected an address such as u@example.com, but found {0:?}")]
    InvalidRecipient(String),
    /// The mail has no recipient.
    #[error("expected at least one recipient, but found none; call `recipient`")]
    NoRecipient,
    /// The HELO name is not one that HELO would accept.
    #[error("HELO name: expected 1 to 255 octets without control characters, but found {0:?}")]
    InvalidHeloName(String),
    /// The host name or the primary mail host is not a domain or an address literal.
    #[error("host name: expected a domain such as mx.example.com, but found {0:?}")]
    InvalidHostName(String),
    /// The protocol is not a keyword of letters and digits.
    #[error("protocol: expected a keyword such as ESMTPS, but found {0:?}")]
    InvalidProtocol(String),
    /// The memory for a copy of the content cannot be allocated.
    #[error("no memory for a mail of {0} octets")]
    NoMemory(usize),
    /// The kernel provides no random numbers for the mail ids.
    #[error("no random numbers for the mail id")]
    NoRandomNumbers(#[source] io::Error),
}

impl Default for MailBuilder {
    fn default() -> MailBuilder {
        MailBuilder {
            sender: "sender@client.test".to_owned(),
            recipients: Vec::new(),
            content: Vec::new(),
            client_ip: Ipv4Addr::LOCALHOST.into(),
            helo_name: "client.test".to_owned(),
            protocol: None,
            host_name: "mx.test".to_owned(),
            primary_mail_host: None,
            received_at: None,
        }
    }
}

impl MailBuilder {
    /// Sets the sender's address, with or without angle brackets; an empty text or `<>` is the sender of a bounce.
    ///
    /// The default is `sender@client.test`.
    pub fn sender(mut self, address: impl Into<String>) -> MailBuilder {
        self.sender = address.into();
        self
    }

    /// Adds a recipient's address, with or without angle brackets. As in an SMTP session, an address that names the same
    /// mailbox as an earlier one adds no second row.
    pub fn recipient(mut self, address: impl Into<String>) -> MailBuilder {
        self.recipients.push(address.into());
        self
    }

    /// Adds several recipients, in order; each is treated as by [`recipient`](MailBuilder::recipient).
    pub fn recipients<I>(mut self, addresses: I) -> MailBuilder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.recipients
            .extend(addresses.into_iter().map(Into::into));
        self
    }

    /// Sets the message content: header section, empty line and body, with lines that end in CR LF and without dot-stuffing.
    ///
    /// The content is stored unchanged. The default is empty.
    pub fn content(mut self, content: impl Into<Vec<u8>>) -> MailBuilder {
        self.content = content.into();
        self
    }

    /// Sets the client's IP address. The default is 127.0.0.1. An IPv4-mapped IPv6 address is converted to IPv4.
    pub fn client_ip(mut self, ip: impl Into<IpAddr>) -> MailBuilder {
        self.client_ip = ip.into().to_canonical();
        self
    }

    /// Sets the argument of HELO or EHLO. The default is `client.test`.
    pub fn helo_name(mut self, name: impl Into<String>) -> MailBuilder {
        self.helo_name = name.into();
        self
    }

    /// Sets the protocol keyword, such as `ESMTPS`. The default is `ESMTP`, or `UTF8SMTP` if an address is not ASCII.
    pub fn protocol(mut self, keyword: &'static str) -> MailBuilder {
        self.protocol = Some(keyword);
        self
    }

    /// Sets the server's host name (GSMTP_HOST_NAME). The default is `mx.test`.
    pub fn host_name(mut self, name: impl Into<String>) -> MailBuilder {
        self.host_name = name.into();
        self
    }

    /// Sets the domain of [`Recipient::to`](super::Recipient::to) (GM_PRIMARY_MAIL_HOST). The default is the host name.
    pub fn primary_mail_host(mut self, domain: impl Into<String>) -> MailBuilder {
        self.primary_mail_host = Some(domain.into());
        self
    }

    /// Sets the time at which the end of the message was received. The default is the time of [`build`](MailBuilder::build).
    pub fn received_at(mut self, time: SystemTime) -> MailBuilder {
        self.received_at = Some(time);
        self
    }

    /// Builds the mail. Each mail that is built has new mail ids.
    ///
    /// The addresses are parsed by the code that parses MAIL and RCPT. GM_ALLOWED_HOSTS, GM_MAX_RECIPIENTS, GSMTP_MAX_SIZE and
    /// the widths of columns do not apply.
    ///
    /// # Errors
    /// [`MailBuildError`]: an address or a name is invalid, there is no recipient, or memory or random numbers are not
    /// available.
    pub fn build(self) -> Result<Mail, MailBuildError> {
        let MailBuilder {
            sender,
            content,
            helo_name,
            ..
        } = self;
        let Some(reverse_path) = parse_mail_address(&sender) else {
            return Err(MailBuildError::InvalidSender(sender));
        };
        let recipients = parse_recipients(self.recipients)?;
        if !is_helo_name(&helo_name) {
            return Err(MailBuildError::InvalidHeloName(helo_name));
        }
        let primary_mail_host = (self.primary_mail_host).unwrap_or_else(|| self.host_name.clone());
        for host in [&self.host_name, &primary_mail_host] {
            if !domain::is_domain(host) && !domain::is_address_literal(host) {
                return Err(MailBuildError::InvalidHostName(host.clone()));
            }
        }
        let is_keyword = |word: &&str| {
            !word.is_empty() && word.bytes().all(|octet| octet.is_ascii_alphanumeric())
        };
        if let Some(protocol) = self.protocol.filter(|protocol| !is_keyword(protocol)) {
            return Err(MailBuildError::InvalidProtocol(protocol.to_owned()));
        }
        let smtputf8 = needs_smtputf8(&reverse_path, &recipients);
        let envelope = Envelope {
            reverse_path,
            recipients,
            smtputf8,
        };
        let origin = MailOrigin {
            client_ip: self.client_ip,
            helo_name,
            protocol: self.protocol.unwrap_or(match smtputf8 {
                true => "UTF8SMTP",
                false => "ESMTP",
            }),
            host_name: self.host_name,
            received_at: self.received_at.unwrap_or_else(SystemTime::now),
        };
        let content = message_octets_from(&content)?;
        Mail::new(envelope, content, origin, |path| {
            path.address_at_host(&primary_mail_host)
        })
        .map_err(MailBuildError::NoRandomNumbers)
    }
}

/// Parses the recipients; returns each mailbox once, in order.
fn parse_recipients(addresses: Vec<String>) -> Result<Vec<ForwardPath>, MailBuildError> {
    let mut recipients: Vec<ForwardPath> = Vec::new();
    for address in addresses {
        let Some(path) = parse_rcpt_address(&address) else {
            return Err(MailBuildError::InvalidRecipient(address));
        };
        if !recipients.iter().any(|known| known.is_same_mailbox(&path)) {
            recipients.push(path);
        }
    }
    match recipients.is_empty() {
        true => Err(MailBuildError::NoRecipient),
        false => Ok(recipients),
    }
}

fn needs_smtputf8(reverse_path: &ReversePath, recipients: &[ForwardPath]) -> bool {
    !reverse_path.as_str().is_ascii() || recipients.iter().any(|path| !path.as_str().is_ascii())
}

/// Returns the octets as content of a message. No memory budget limits it.
fn message_octets_from(octets: &[u8]) -> Result<MessageOctets, MailBuildError> {
    let mut content = MessageOctets::new(octets.len(), &MemoryBudget::new(usize::MAX));
    match content.append_within_limits(octets) {
        Ok(()) => Ok(content),
        Err(_) => Err(MailBuildError::NoMemory(octets.len())),
    }
}

#[cfg(test)]
mod tests;
