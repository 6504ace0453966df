//! Postfix, Exim, OpenSMTPD and nullmailer with the server under test as their smarthost, each in its own chroot.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};

use crate::root::{Daemon, MtaRoot};
use crate::wait_for;

/// The envelope sender of all mails.
pub const SENDER: &str = "a@client.test";

/// Where an MTA sends and receives mail.
#[derive(Clone, Copy, Debug)]
pub struct Relay {
    /// The port of the server under test.
    pub smarthost: u16,
    /// Whether the server offers STARTTLS.
    pub in_tls: bool,
    /// The port on which the MTA receives mail by SMTP.
    pub listens_on: Option<u16>,
}

/// A mail server as the sending side, which relays to the server under test.
pub trait Mta: Sized {
    const PACKAGE: &str;
    const KNOWS_SMTPUTF8: bool;
    /// Whether the MTA delivers to the accepted recipients when others were rejected.
    const SPLITS: bool = true;
    /// Whether the MTA can receive mail by SMTP.
    const LISTENS: bool = true;
    /// Configures and starts the MTA in a fresh chroot.
    fn start(root: MtaRoot, relay: Relay) -> Self;
    /// Queues a mail, as a local program would submit it.
    fn queue(&self, recipients: &[&str], mail: &[u8]);
    /// Makes the MTA retry its queue now, however recent the last attempt was.
    fn deliver(&self);
    /// Returns the number of mails in the queue.
    fn waiting(&self) -> usize;
    /// Returns the text of all bounces.
    fn returned(&self) -> String;
}

/// Exim, whose daemon runs only if it receives mail by SMTP: other invocations of its program end by themselves.
pub struct Exim {
    _daemon: Option<Daemon>,
    root: MtaRoot,
}

impl Mta for Exim {
    const PACKAGE: &str = "exim4-daemon-light";
    const KNOWS_SMTPUTF8: bool = true;

    fn start(root: MtaRoot, relay: Relay) -> Exim {
        root.make_folder("var/spool/exim4", 61002, 61002, 0o750);
        let config = "
primary_hostname = client.test
log_file_path = /var/spool/exim4/%slog
keep_environment =
disable_ipv6
LISTENER
begin routers
here:
  driver = accept
  domains = client.test
  transport = box
smarthost:
  driver = manualroute
  route_list = * 127.0.0.1 byname
  self = send
  transport = smarthost
begin transports
smarthost:
  driver = smtp
  port = PORT
  allow_localhost
  message_linelength_limit = 1000000
CHUNKING
box:
  driver = appendfile
  file = /var/mail/box/returned
  user = sender
begin retry
* * F,1h,1s
";
        root.make_folder("var/mail/box", 61001, 61001, 0o755);
        let config = config.replace("PORT", &relay.smarthost.to_string());
        // A relay sends with DATA: a chunk of BDAT has a size, so that no text could end it.
        let (listener, chunking) = match relay.listens_on {
            Some(port) => (
                format!(
                    "local_interfaces = 127.0.0.1\ndaemon_smtp_ports = {port}\nsmtp_enforce_sync = false\n\
                     acl_smtp_rcpt = accept\nacl_smtp_data = accept"
                ),
                "  hosts_try_chunking =",
            ),
            None => (String::new(), ""),
        };
        let config = config.replace("LISTENER", &listener);
        root.write("etc/exim4/exim4.conf", config.replace("CHUNKING", chunking));
        let daemon = relay.listens_on.map(|port| {
            let daemon = root.start(&["exim4", "-bdf"]);
            wait_for("Exim to start", || listens(port).then_some(()));
            daemon
        });
        Exim {
            _daemon: daemon,
            root,
        }
    }

    fn queue(&self, recipients: &[&str], mail: &[u8]) {
        let queue = ["exim4", "-odq", "-oi", "-f", SENDER];
        self.root.run(&[&queue, recipients].concat(), mail);
    }

    fn deliver(&self) {
        // The second run delivers the bounces that the first run creates.
        for _ in 0..2 {
            self.root.run(&["exim4", "-qff"], b"");
        }
    }

    fn waiting(&self) -> usize {
        let count = self.root.run(&["exim4", "-bpc"], b"");
        count.trim().parse().expect("a figure")
    }

    fn returned(&self) -> String {
        self.root.texts("var/mail/box")
    }
}

/// Postfix's master process, without the usual shell scripts.
pub struct Postfix {
    _master: Daemon,
    root: MtaRoot,
}

impl Mta for Postfix {
    const PACKAGE: &str = "postfix";
    const KNOWS_SMTPUTF8: bool = true;

    fn start(root: MtaRoot, relay: Relay) -> Postfix {
        let queues = "active bounce corrupt defer deferred flush hold incoming private saved trace";
        for name in queues.split(' ') {
            root.make_folder(&format!("var/spool/postfix/{name}"), 61003, 0, 0o700);
        }
        root.make_folder("var/spool/postfix/maildrop", 61003, 61006, 0o730);
        root.make_folder("var/spool/postfix/public", 61003, 61006, 0o710);
        root.make_folder("var/spool/postfix/pid", 0, 0, 0o755);
        root.make_folder("var/lib/postfix", 61003, 61003, 0o755);
        root.make_folder("var/mail/box", 61001, 61001, 0o755);
        let config = "
compatibility_level = 3.6
myhostname = client.test
mydestination = client.test
mynetworks = 127.0.0.0/8
inet_protocols = ipv4
relayhost = [127.0.0.1]:PORT
maillog_file = /var/log/mail
alias_maps =
local_recipient_maps =
local_transport = virtual
virtual_mailbox_base = /var/mail/box
virtual_mailbox_domains =
virtual_mailbox_maps = static:returned
virtual_uid_maps = static:61001
virtual_gid_maps = static:61001
smtp_line_length_limit = 0
smtp_tls_security_level = may
";
        let config = config.replace("PORT", &relay.smarthost.to_string());
        root.write("etc/postfix/main.cf", config);
        let services = "
pickup   unix n - n 60 1 pickup
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 300 1 qmgr
tlsmgr   unix - - n 1000? 1 tlsmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
flush    unix n - n 1000? 0 flush
smtp     unix - - n - - smtp
relay    unix - - n - - smtp
showq    unix n - n - - showq
error    unix - - n - - error
retry    unix - - n - - error
virtual  unix - n n - - virtual
scache   unix - - n - 1 scache
anvil    unix - - n - 1 anvil
postlog  unix-dgram n - n - 1 postlogd
";
        let listener = relay
            .listens_on
            .map(|port| format!("127.0.0.1:{port} inet n - n - - smtpd\n"));
        let services = listener.unwrap_or_default() + services;
        root.write("etc/postfix/master.cf", services);
        let master = root.start(&["/usr/lib/postfix/sbin/master", "-d"]);
        wait_for("Postfix to start", || {
            let showq = fs::exists(root.path("var/spool/postfix/public/showq")).ok()?;
            (showq && relay.listens_on.is_none_or(listens)).then_some(())
        });
        Postfix {
            _master: master,
            root,
        }
    }

    fn queue(&self, recipients: &[&str], mail: &[u8]) {
        let queue = ["sendmail", "-i", "-f", SENDER];
        self.root.run(&[&queue, recipients].concat(), mail);
    }

    fn deliver(&self) {
        self.root.run(&["postqueue", "-f"], b"");
    }

    fn waiting(&self) -> usize {
        self.root.run(&["postqueue", "-j"], b"").lines().count()
    }

    fn returned(&self) -> String {
        self.root.texts("var/mail/box")
    }
}

pub struct OpenSmtpd {
    _smtpd: Daemon,
    root: MtaRoot,
}

impl Mta for OpenSmtpd {
    const PACKAGE: &str = "opensmtpd";
    const KNOWS_SMTPUTF8: bool = false;

    fn start(root: MtaRoot, relay: Relay) -> OpenSmtpd {
        root.make_folder("var/spool/smtpd", 0, 0, 0o711);
        for name in ["corrupt", "incoming", "purge", "queue", "temporary"] {
            root.make_folder(&format!("var/spool/smtpd/{name}"), 61005, 0, 0o700);
        }
        root.make_folder("var/spool/smtpd/offline", 0, 61005, 0o770);
        root.make_folder("var/run", 0, 0, 0o755);
        let config = "
listen on socket
table aliases { a = sender }
action here maildir alias <aliases>
action there relay host smtp://127.0.0.1:PORT helo client.test
match from any for domain client.test action here
match from any for any action there
";
        let config = config.replace("PORT", &relay.smarthost.to_string());
        let listener = relay
            .listens_on
            .map(|port| format!("listen on 127.0.0.1 port {port}\n"));
        root.write("etc/smtpd.conf", listener.unwrap_or_default() + &config);
        let smtpd = root.start(&["smtpd", "-d"]);
        wait_for("OpenSMTPD to start", || {
            let socket = fs::exists(root.path("var/run/smtpd.sock")).ok()?;
            (socket && relay.listens_on.is_none_or(listens)).then_some(())
        });
        OpenSmtpd {
            _smtpd: smtpd,
            root,
        }
    }

    fn queue(&self, recipients: &[&str], mail: &[u8]) {
        let queue = ["sendmail", "-i", "-f", SENDER];
        self.root.run(&[&queue, recipients].concat(), mail);
    }

    fn deliver(&self) {
        self.root.run(&["smtpctl", "schedule", "all"], b"");
    }

    fn waiting(&self) -> usize {
        let envelopes = self.root.run(&["smtpctl", "show", "queue"], b"");
        let messages: HashSet<&str> = envelopes
            .lines()
            // An envelope id begins with the id of its message.
            .filter_map(|line| line.get(..8))
            .collect();
        messages.len()
    }

    fn returned(&self) -> String {
        self.root.texts("home/sender/Maildir/new")
    }
}

/// nullmailer has no local delivery: its bounces would go to the smarthost too, so the failed mails in folder `failed`
/// count as bounces.
pub struct Nullmailer {
    _send: Daemon,
    root: MtaRoot,
}

impl Mta for Nullmailer {
    const PACKAGE: &str = "nullmailer";
    const KNOWS_SMTPUTF8: bool = false;
    const SPLITS: bool = false;
    const LISTENS: bool = false;

    fn start(root: MtaRoot, relay: Relay) -> Nullmailer {
        let tls = if relay.in_tls {
            " --starttls --insecure"
        } else {
            ""
        };
        let remote = format!("127.0.0.1 smtp --port={}{tls}\n", relay.smarthost);
        root.write("etc/nullmailer/remotes", remote);
        for pause in ["pausetime", "maxpause"] {
            root.write(&format!("etc/nullmailer/{pause}"), "1\n");
        }
        let trigger = root.path("var/spool/nullmailer/trigger");
        nix::unistd::mkfifo(&trigger, nix::sys::stat::Mode::from_bits_truncate(0o622))
            .expect("a pipe is made");
        let send = root.start(&["nullmailer-send"]);
        wait_for("nullmailer to start", || {
            root.texts("tmp").contains("Rescanning").then_some(())
        });
        Nullmailer { _send: send, root }
    }

    fn queue(&self, recipients: &[&str], mail: &[u8]) {
        let queue = ["nullmailer-inject", "-f", SENDER];
        self.root.run(&[&queue, recipients].concat(), mail);
    }

    fn deliver(&self) {}

    fn waiting(&self) -> usize {
        let queue = fs::read_dir(self.root.path("var/spool/nullmailer/queue"));
        queue.expect("the queue folder").count()
    }

    fn returned(&self) -> String {
        self.root.texts("var/spool/nullmailer/failed")
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}
