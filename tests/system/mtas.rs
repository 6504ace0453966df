//! Postfix, Exim, OpenSMTPD and nullmailer deliver their queues to the server: the content arrives unchanged, mails
//! that get 451 are retried, and mails that get 550 are returned to their sender.
//!
//! Each MTA runs in its own chroot, see `tests/mta-root`, with the server as its smarthost.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::clients;
use testkit::certificates::{KeyKind, Pair};
use testkit::root::{Daemon, MtaRoot};
use testkit::store::{StoredMail, mails_after};
use testkit::{Server, test, value, wait_for, wait_for_within, without_trace};

#[test]
fn postfix_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<Postfix>(&[" SIZE=", " BODY=8BITMIME", " SMTPUTF8"]);
}

#[test]
fn exim_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<Exim>(&[" SIZE=", " SMTPUTF8", "BDAT "]);
}

#[test]
fn opensmtpd_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<OpenSmtpd>(&[]);
}

#[test]
fn nullmailer_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<Nullmailer>(&[]);
}

#[test]
fn postfix_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<Postfix>();
}

#[test]
fn exim_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<Exim>();
}

#[test]
fn opensmtpd_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<OpenSmtpd>();
}

#[test]
fn nullmailer_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<Nullmailer>();
}

#[test]
fn postfix_bounces_a_mail_after_550() {
    assert_bounces_after_550::<Postfix>(Some("DATA"));
}

#[test]
fn exim_bounces_a_mail_after_550() {
    assert_bounces_after_550::<Exim>(Some("BDAT "));
}

#[test]
fn opensmtpd_bounces_a_mail_after_550() {
    assert_bounces_after_550::<OpenSmtpd>(None);
}

#[test]
fn nullmailer_moves_a_mail_to_its_failed_queue_after_550() {
    assert_bounces_after_550::<Nullmailer>(None);
}

/// Asserts that the MTA delivers its queue unchanged, in plaintext and with STARTTLS. `used` lists strings that its
/// commands must contain, to prove that it uses these SMTP extensions.
fn assert_delivers_unchanged<M: Mta>(used: &[&str]) {
    for in_tls in [false, true] {
        let server = server(in_tls);
        let mta = start::<M>(&server, in_tls);
        let mails = mails(M::KNOWS_SMTPUTF8);
        for mail in &mails {
            mta.queue(&mail.recipients, &mail.text("\n"));
        }
        mta.deliver();
        let count = mails.iter().map(|mail| mail.recipients.len()).sum();
        let rows = wait_for("all queued mails to be stored", || {
            Some(rows(&server)).filter(|rows| rows.len() >= count)
        });
        wait_for("an empty queue", || (mta.waiting() == 0).then_some(()));
        for mail in &mails {
            let of_this = rows.iter().filter(|row| row.subject == mail.subject);
            let mut recipients: Vec<&str> = of_this
                .map(|row| {
                    assert_content(row, &mail.text("\r\n"));
                    row.recipient.as_str()
                })
                .collect();
            recipients.sort_unstable();
            assert_eq!(recipients, mail.recipients, "{}", mail.subject);
        }
        assert_eq!(rows.len(), count);
        drop(mta);
        assert_sessions(
            &server,
            mails.len(),
            if in_tls { "TLSv1_3" } else { "none" },
        );
        let client_lines = client_lines(&server);
        for extension in used {
            let is_used = client_lines.iter().any(|line| line.contains(extension));
            assert!(is_used, "{extension} was not used: {client_lines:?}");
        }
    }
}

fn assert_retries_after_451<M: Mta>() {
    let server = server(false);
    let mta = start::<M>(&server, false);
    let store = Connection::open(server.path("goguerrilla.db")).expect("the server's database");
    let refuse =
        "CREATE TRIGGER refuse BEFORE INSERT ON new_mail BEGIN SELECT RAISE(ABORT, 'not now'); END";
    store.execute_batch(refuse).expect("a valid statement");
    let mail = &mails(false)[0];
    mta.queue(&mail.recipients, &mail.text("\n"));
    mta.deliver();
    server.wait_for_log("451 4.3.0 ");
    assert_eq!((mta.waiting(), rows(&server).len()), (1, 0));
    store
        .execute_batch("DROP TRIGGER refuse")
        .expect("a valid statement");
    let rows = wait_for_within("the mail to be retried", Duration::from_secs(60), || {
        mta.deliver();
        // The MTA may still be busy with the first attempt.
        wait_a_second_for(|| Some(rows(&server)).filter(|rows| !rows.is_empty()))
    });
    wait_for("an empty queue", || (mta.waiting() == 0).then_some(()));
    assert_eq!(rows.len(), mail.recipients.len());
    for row in &rows {
        assert_content(row, &mail.text("\r\n"));
    }
    assert_eq!(mta.returned(), "", "a bounce was sent");
}

/// Asserts that the MTA bounces a mail after 550. `begins` is the command that an MTA with pipelining sends after RCPT
/// before it knows that no recipient was accepted.
fn assert_bounces_after_550<M: Mta>(begins: Option<&str>) {
    let server = server(false);
    let mta = start::<M>(&server, false);
    let mail = &mails(false)[0];
    mta.queue(&["x@foreign.test"], &mail.text("\n"));
    mta.deliver();
    wait_for("the mail to be returned", || {
        let returned = mta.returned();
        let says_why = returned.contains("x@foreign.test") && returned.contains("550");
        says_why.then_some(())
    });
    wait_for("an empty queue", || (mta.waiting() == 0).then_some(()));
    mta.deliver();
    // The log is written after the replies.
    server.wait_for_log(begins.unwrap_or("RCPT TO:<x@foreign.test>"));
    let client_lines = client_lines(&server);
    let tries = client_lines
        .iter()
        .filter(|line| *line == "RCPT TO:<x@foreign.test>");
    assert_eq!(tries.count(), 1, "{client_lines:?}");
    if let Some(begins) = begins {
        let is_pipelined = client_lines.iter().any(|line| line.starts_with(begins));
        assert!(is_pipelined, "{client_lines:?}");
    }
    assert!(rows(&server).is_empty());

    mta.queue(&["u@ours.test", "y@foreign.test"], &mail.text("\n"));
    mta.deliver();
    wait_for("the rejected recipient to be returned", || {
        mta.returned().contains("y@foreign.test").then_some(())
    });
    let accepted: &[&str] = if M::SPLITS { &["u@ours.test"] } else { &[] };
    wait_for("the mail of the accepted recipient", || {
        let rows = rows(&server);
        let recipients = rows.iter().map(|row| row.recipient.as_str());
        recipients.eq(accepted.iter().copied()).then_some(())
    });
}

/// A mail server under test as the sending side.
trait Mta: Sized {
    const PACKAGE: &str;
    const KNOWS_SMTPUTF8: bool;
    /// Whether the MTA delivers to the accepted recipients when others were rejected.
    const SPLITS: bool = true;
    /// Configures and starts the MTA in a fresh chroot.
    fn start(root: MtaRoot, smarthost: u16, in_tls: bool) -> Self;
    /// Queues a mail, as a local program would submit it.
    fn queue(&self, recipients: &[&str], mail: &[u8]);
    /// Makes the MTA retry its queue now, however recent the last attempt was.
    fn deliver(&self);
    /// Returns the number of mails in the queue.
    fn waiting(&self) -> usize;
    /// Returns the text of all bounces.
    fn returned(&self) -> String;
}

/// Exim without a daemon: each invocation of its program ends by itself.
struct Exim {
    root: MtaRoot,
}

impl Mta for Exim {
    const PACKAGE: &str = "exim4-daemon-light";
    const KNOWS_SMTPUTF8: bool = true;

    fn start(root: MtaRoot, smarthost: u16, _in_tls: bool) -> Exim {
        root.make_folder("var/spool/exim4", 61002, 61002, 0o750);
        let config = "
primary_hostname = client.test
log_file_path = /var/spool/exim4/%slog
keep_environment =
disable_ipv6
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
box:
  driver = appendfile
  file = /var/mail/box/returned
  user = sender
begin retry
* * F,1h,1s
";
        root.make_folder("var/mail/box", 61001, 61001, 0o755);
        let config = config.replace("PORT", &smarthost.to_string());
        root.write("etc/exim4/exim4.conf", config);
        Exim { root }
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

/// Postfix's master process, without the usual shell scripts and without a listening port.
struct Postfix {
    _master: Daemon,
    root: MtaRoot,
}

impl Mta for Postfix {
    const PACKAGE: &str = "postfix";
    const KNOWS_SMTPUTF8: bool = true;

    fn start(root: MtaRoot, smarthost: u16, _in_tls: bool) -> Postfix {
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
        let config = config.replace("PORT", &smarthost.to_string());
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
postlog  unix-dgram n - n - 1 postlogd
";
        root.write("etc/postfix/master.cf", services);
        let master = root.start(&["/usr/lib/postfix/sbin/master", "-d"]);
        wait_for("Postfix to start", || {
            fs::exists(root.path("var/spool/postfix/public/showq"))
                .ok()?
                .then_some(())
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

struct OpenSmtpd {
    _smtpd: Daemon,
    root: MtaRoot,
}

impl Mta for OpenSmtpd {
    const PACKAGE: &str = "opensmtpd";
    const KNOWS_SMTPUTF8: bool = false;

    fn start(root: MtaRoot, smarthost: u16, _in_tls: bool) -> OpenSmtpd {
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
match from local for domain client.test action here
match from local for any action there
";
        let config = config.replace("PORT", &smarthost.to_string());
        root.write("etc/smtpd.conf", config);
        let smtpd = root.start(&["smtpd", "-d"]);
        wait_for("OpenSMTPD to start", || {
            fs::exists(root.path("var/run/smtpd.sock"))
                .ok()?
                .then_some(())
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
        let messages: std::collections::HashSet<&str> = envelopes
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
struct Nullmailer {
    _send: Daemon,
    root: MtaRoot,
}

impl Mta for Nullmailer {
    const PACKAGE: &str = "nullmailer";
    const KNOWS_SMTPUTF8: bool = false;
    const SPLITS: bool = false;

    fn start(root: MtaRoot, smarthost: u16, in_tls: bool) -> Nullmailer {
        let tls = if in_tls { " --starttls --insecure" } else { "" };
        let remote = format!("127.0.0.1 smtp --port={smarthost}{tls}\n");
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

/// A test mail without its From, To and Date fields.
struct Mail {
    recipients: Vec<&'static str>,
    subject: &'static str,
    head: &'static str,
    lines: Vec<Vec<u8>>,
}

impl Mail {
    fn text(&self, line_end: &str) -> Vec<u8> {
        let head = format!(
            "From: A Sender <{SENDER}>\nTo: {}\nDate: Mon, 01 Jun 2026 12:00:00 +0000\n\
             Message-ID: <{}@client.test>\nSubject: {}\n{}\n",
            self.recipients[0],
            self.subject.len(),
            self.subject,
            self.head,
        );
        let mut text = head.replace('\n', line_end).into_bytes();
        for line in &self.lines {
            text.extend_from_slice(line);
            text.extend_from_slice(line_end.as_bytes());
        }
        text
    }
}

/// Returns mails with content that MTAs tend to change.
fn mails(with_smtputf8: bool) -> Vec<Mail> {
    let text = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n";
    let lines = |lines: &[&str]| lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    let mut mails = vec![
        Mail {
            recipients: vec!["t@ours.test", "u@ours.test", "v@ours.test"],
            subject: "dots and spaces",
            head: text,
            lines: lines(&[
                ".",
                "..",
                ".dot",
                "From the start of a line",
                "spaces at the end  ",
                "a tab at the end\t",
                "Zwölf Boxkämpfer, 用户",
                "",
                "",
                ".",
                "MAIL FROM:<evil@client.test>",
            ]),
        },
        Mail {
            recipients: vec!["u@ours.test"],
            subject: "an attachment of 200 KB",
            head: "MIME-Version: 1.0\nContent-Type: application/octet-stream; name=a.bin\n\
                   Content-Disposition: attachment; filename=a.bin\nContent-Transfer-Encoding: base64\n",
            lines: vec!["QUJD".repeat(19).into_bytes(); 200_000 / 57],
        },
        Mail {
            recipients: vec!["u@ours.test"],
            subject: "raw octets in long lines",
            head: text,
            lines: vec![
                b"x".repeat(998),
                b".".repeat(5_000),
                b"\xff\xfe\x80 is no UTF-8, \x01\x0b\x7f".to_vec(),
                vec![b'\xe4'; 2_000],
            ],
        },
    ];
    if with_smtputf8 {
        mails.push(Mail {
            recipients: vec!["用户@ours.test"],
            subject: "Grüße",
            head: text,
            lines: lines(&["Zwölf Boxkämpfer"]),
        });
    }
    mails
}

/// Starts a server that logs each command.
fn server(in_tls: bool) -> Server {
    let mut settings = vec![
        ("GSMTP_VERBOSE", "Y"),
        ("GSMTP_MAX_SIZE", "400000"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
    ];
    let folder = TempDir::new().expect("a temporary folder");
    if in_tls {
        Pair::make(folder.path(), "mx", KeyKind::EcdsaP256, 90);
        settings.push(("GSMTP_PUB_KEY", "mx.cert.pem"));
        settings.push(("GSMTP_PRV_KEY", "mx.key.pem"));
    }
    Server::start_in(folder, &settings)
}

fn start<M: Mta>(server: &Server, in_tls: bool) -> M {
    let root = MtaRoot::with(M::PACKAGE);
    M::start(root, server.address.port(), in_tls)
}

fn rows(server: &Server) -> Vec<StoredMail> {
    mails_after(&server.path("goguerrilla.db"), 0)
}

/// Returns the commands received so far.
fn client_lines(server: &Server) -> Vec<String> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(" smtp_in "));
    lines.filter_map(|line| value(line, "line")).collect()
}

/// Asserts that `mails` mails were received and that every session used this TLS version.
fn assert_sessions(server: &Server, mails: usize, version: &str) {
    let log = wait_for("all sessions to end", || {
        let log = server.log();
        let ended = log.lines().filter_map(|line| value(line, "mail"));
        let ended: usize = ended.filter_map(|count| count.parse::<usize>().ok()).sum();
        (ended >= mails).then_some(log)
    });
    for line in log.lines().filter(|line| line.contains(" disconnected ")) {
        assert_eq!(value(line, "tls").as_deref(), Some(version), "{line}");
    }
}

/// Asserts that the row contains the queued content, preceded only by fields that MTAs add.
fn assert_content(row: &StoredMail, mail: &[u8]) {
    let stored = without_trace(&row.mail);
    let added = stored.len().saturating_sub(mail.len());
    let (added, content) = stored.split_at(added);
    clients::assert_octets_equal(content, mail);
    let added = String::from_utf8_lossy(added);
    assert!(added.ends_with("\r\n"), "{added}");
    for line in added.lines() {
        let is_known = line.starts_with("Received: ")
            || line.starts_with([' ', '\t'])
            // OpenSMTPD's sendmail adds this field for long lines.
            || line == "Content-Disposition: inline";
        assert!(is_known, "{line}");
    }
}

fn wait_a_second_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started_at = std::time::Instant::now();
    while started_at.elapsed() < Duration::from_secs(1) {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

const SENDER: &str = "a@client.test";
