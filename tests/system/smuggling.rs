//! SMTP smuggling: the 13 end-of-data forms of "Email Spoofing with SMTP Smuggling" (USENIX Security 2025, table 1), sent
//! to the server directly and through Postfix, Exim, OpenSMTPD and nullmailer.
//!
//! A content with one of the forms, followed by the commands of a second mail, must be stored as the one mail that the
//! client or the MTA sent. `docs/testing.md` has the table of what arrived; `-- --nocapture` prints it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::{fs, str};

use testkit::ports::free_port;
use testkit::root::{Daemon, MtaRoot};
use testkit::smuggling::{FIRST, FORMS, content};
use testkit::store::{StoredMail, mails_after};
use testkit::{Server, TEST_TIMEOUT, test, wait_for, without_trace};

#[test]
fn every_mail_that_postfix_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<Postfix>();
}

#[test]
fn every_mail_that_exim_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<Exim>();
}

#[test]
fn every_mail_that_opensmtpd_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<OpenSmtpd>();
}

#[test]
fn every_mail_that_nullmailer_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<Nullmailer>();
}

/// Asserts that the server stores as many mails as the MTA has queued, for each form injected by a local program and
/// received by SMTP.
fn assert_one_mail_for_each_queued<M: Mta>() {
    let server = Server::start(&[("GM_ALLOWED_HOSTS", "ours.test"), ("GSMTP_VERBOSE", "Y")]);
    let root = MtaRoot::with(M::PACKAGE);
    let port = free_port();
    let mta = M::start(root, server.address.port(), port);
    let mut last_mail_id = 0;
    for form in [NO_FORM].into_iter().chain(FORMS) {
        for by_smtp in [false, true] {
            if by_smtp && !M::LISTENS {
                continue;
            }
            let replies = match by_smtp {
                true => send(port, &content(form, "\r\n")),
                false => {
                    mta.root().run(M::INJECT, &content(form, "\n"));
                    vec![250]
                }
            };
            // The client gets 250 for each content and for commands; no content follows another reply than 354.
            let queued = replies.iter().filter(|reply| **reply == 250).count();
            let rows = wait_for("all queued mails to be stored", || {
                let rows = mails_after(&server.path("goguerrilla.db"), last_mail_id);
                (rows.len() >= queued && mta.waiting() == 0).then_some(rows)
            });
            last_mail_id = rows.last().map_or(last_mail_id, |row| row.mail_id);
            let is_form = form != NO_FORM;
            let form = form.escape_ascii();
            let case = format!(
                "{} {form} by_smtp={by_smtp} {replies:?}: {}",
                M::PACKAGE,
                arrived(&rows)
            );
            testkit::note!("{case}");
            assert_eq!(rows.len(), queued, "{case}");
            assert!(queued == 1 || is_form, "{case}");
            if let [row] = rows.as_slice() {
                let envelope = (row.from.as_str(), row.recipient.as_str());
                assert_eq!(envelope, ("a@client.test", "u@ours.test"), "{case}");
            }
        }
    }
}

/// Sends a content to an MTA and returns the replies to its end of data and to the end of data of each mail after it.
fn send(port: u16, content: &[u8]) -> Vec<u16> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the MTA listens");
    let timeout = socket.set_read_timeout(Some(TEST_TIMEOUT));
    timeout.expect("an open socket");
    let mut replies = BufReader::new(socket.try_clone().expect("a descriptor"));
    let commands = [
        ("EHLO client.test", 250),
        ("MAIL FROM:<a@client.test>", 250),
        ("RCPT TO:<u@ours.test>", 250),
        ("DATA", 354),
    ];
    assert_eq!(read_reply(&mut replies), Some(220));
    for (command, code) in commands {
        let sent = (&socket).write_all(format!("{command}\r\n").as_bytes());
        sent.expect("an open socket");
        assert_eq!(read_reply(&mut replies), Some(code), "{command}");
    }
    let sent = (&socket).write_all(&[content, b"\r\n.\r\n"].concat());
    sent.expect("an open socket");
    let mut to_contents: Vec<u16> = read_reply(&mut replies).into_iter().collect();
    // OpenSMTPD rejects a mail if another command follows in the same packet.
    let _ = (&socket).write_all(b"QUIT\r\n");
    let mut is_content = false;
    while let Some(code) = read_reply(&mut replies) {
        to_contents.extend(is_content.then_some(code));
        is_content = code == 354;
    }
    to_contents
}

/// Returns the code of the next reply; `None` at the end of the connection.
fn read_reply(replies: &mut impl BufRead) -> Option<u16> {
    loop {
        let mut line = Vec::new();
        // An MTA that closes the connection before it has read everything resets it.
        replies
            .read_until(b'\n', &mut line)
            .ok()
            .filter(|count| *count > 0)?;
        if line.get(3) != Some(&b'-') {
            return str::from_utf8(line.get(..3)?).ok()?.parse().ok();
        }
    }
}

/// Returns for each row what is stored after the first words of its body, up to the commands of the second mail.
fn arrived(rows: &[StoredMail]) -> String {
    let texts = rows.iter().map(|row| {
        let mail = without_trace(&row.mail).escape_ascii().to_string();
        let Some((_, after)) = mail.split_once(FIRST) else {
            return format!("a mail to {}", row.recipient);
        };
        match after.split_once("MAIL FROM") {
            Some((form, _)) => format!("`{form}` and the commands"),
            None => format!("`{after}`"),
        }
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// An MTA that relays to the server.
trait Mta: Sized {
    const PACKAGE: &str;
    /// The command that queues the mail on its standard input.
    const INJECT: &[&str] = &["sendmail", "-i", "-f", "a@client.test", "u@ours.test"];
    /// Whether the MTA also receives mail by SMTP.
    const LISTENS: bool = true;
    /// Configures and starts the MTA in a fresh chroot.
    fn start(root: MtaRoot, smarthost: u16, port: u16) -> Self;
    fn root(&self) -> &MtaRoot;
    /// Returns the number of mails in the queue.
    fn waiting(&self) -> usize;
}

struct Postfix {
    _master: Daemon,
    root: MtaRoot,
}

impl Mta for Postfix {
    const PACKAGE: &str = "postfix";

    fn start(root: MtaRoot, smarthost: u16, port: u16) -> Postfix {
        let queues = "active bounce corrupt defer deferred flush hold incoming private saved trace";
        for name in queues.split(' ') {
            root.make_folder(&format!("var/spool/postfix/{name}"), 61003, 0, 0o700);
        }
        root.make_folder("var/spool/postfix/maildrop", 61003, 61006, 0o730);
        root.make_folder("var/spool/postfix/public", 61003, 61006, 0o710);
        root.make_folder("var/spool/postfix/pid", 0, 0, 0o755);
        root.make_folder("var/lib/postfix", 61003, 61003, 0o755);
        let config = format!(
            "compatibility_level = 3.6\nmyhostname = client.test\ninet_protocols = ipv4\nmydestination =\n\
             mynetworks = 127.0.0.0/8\nrelayhost = [127.0.0.1]:{smarthost}\nmaillog_file = /var/log/mail\n\
             alias_maps =\nlocal_recipient_maps =\n"
        );
        root.write("etc/postfix/main.cf", config);
        let services = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\npickup unix n - n 60 1 pickup\n\
             cleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\n\
             bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
             smtp unix - - n - - smtp\nshowq unix n - n - - showq\nerror unix - - n - - error\n\
             retry unix - - n - - error\nanvil unix - - n - 1 anvil\npostlog unix-dgram n - n - 1 postlogd\n"
        );
        root.write("etc/postfix/master.cf", services);
        let master = root.start(&["/usr/lib/postfix/sbin/master", "-d"]);
        wait_for("Postfix to start", || {
            let showq = fs::exists(root.path("var/spool/postfix/public/showq")).ok()?;
            (showq && listens(port)).then_some(())
        });
        Postfix {
            _master: master,
            root,
        }
    }

    fn root(&self) -> &MtaRoot {
        &self.root
    }

    fn waiting(&self) -> usize {
        self.root.run(&["postqueue", "-j"], b"").lines().count()
    }
}

struct Exim {
    _daemon: Daemon,
    root: MtaRoot,
}

impl Mta for Exim {
    const PACKAGE: &str = "exim4-daemon-light";

    /// Exim sends with DATA: a chunk of BDAT has a size, so that no form ends it.
    fn start(root: MtaRoot, smarthost: u16, port: u16) -> Exim {
        root.make_folder("var/spool/exim4", 61002, 61002, 0o750);
        let config = format!(
            "primary_hostname = client.test\nlog_file_path = /var/spool/exim4/%slog\nkeep_environment =\n\
             disable_ipv6\nlocal_interfaces = 127.0.0.1\ndaemon_smtp_ports = {port}\nsmtp_enforce_sync = false\n\
             acl_smtp_rcpt = accept\nacl_smtp_data = accept\nbegin routers\nsmarthost:\n  driver = manualroute\n\
             \x20 route_list = * 127.0.0.1 byname\n  self = send\n  transport = smarthost\nbegin transports\n\
             smarthost:\n  driver = smtp\n  port = {smarthost}\n  allow_localhost\n  hosts_try_chunking =\n\
             begin retry\n* * F,1h,1s\n"
        );
        root.write("etc/exim4/exim4.conf", config);
        let daemon = root.start(&["exim4", "-bdf"]);
        wait_for("Exim to start", || listens(port).then_some(()));
        Exim {
            _daemon: daemon,
            root,
        }
    }

    fn root(&self) -> &MtaRoot {
        &self.root
    }

    fn waiting(&self) -> usize {
        let count = self.root.run(&["exim4", "-bpc"], b"");
        count.trim().parse().expect("a figure")
    }
}

struct OpenSmtpd {
    _smtpd: Daemon,
    root: MtaRoot,
}

impl Mta for OpenSmtpd {
    const PACKAGE: &str = "opensmtpd";

    fn start(root: MtaRoot, smarthost: u16, port: u16) -> OpenSmtpd {
        root.make_folder("var/spool/smtpd", 0, 0, 0o711);
        for name in ["corrupt", "incoming", "purge", "queue", "temporary"] {
            root.make_folder(&format!("var/spool/smtpd/{name}"), 61005, 0, 0o700);
        }
        root.make_folder("var/spool/smtpd/offline", 0, 61005, 0o770);
        root.make_folder("var/run", 0, 0, 0o755);
        let config = format!(
            "listen on socket\nlisten on 127.0.0.1 port {port}\n\
             action there relay host smtp://127.0.0.1:{smarthost} helo client.test\n\
             match from any for any action there\n"
        );
        root.write("etc/smtpd.conf", config);
        let smtpd = root.start(&["smtpd", "-d"]);
        wait_for("OpenSMTPD to start", || {
            let socket = fs::exists(root.path("var/run/smtpd.sock")).ok()?;
            (socket && listens(port)).then_some(())
        });
        OpenSmtpd {
            _smtpd: smtpd,
            root,
        }
    }

    fn root(&self) -> &MtaRoot {
        &self.root
    }

    fn waiting(&self) -> usize {
        self.root
            .run(&["smtpctl", "show", "queue"], b"")
            .lines()
            .count()
    }
}

struct Nullmailer {
    _send: Daemon,
    root: MtaRoot,
}

impl Mta for Nullmailer {
    const PACKAGE: &str = "nullmailer";
    const INJECT: &[&str] = &["nullmailer-inject", "-f", "a@client.test", "u@ours.test"];
    const LISTENS: bool = false;

    fn start(root: MtaRoot, smarthost: u16, _port: u16) -> Nullmailer {
        let remote = format!("127.0.0.1 smtp --port={smarthost}\n");
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

    fn root(&self) -> &MtaRoot {
        &self.root
    }

    fn waiting(&self) -> usize {
        let queue = fs::read_dir(self.root.path("var/spool/nullmailer/queue"));
        queue.expect("the queue folder").count()
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A line end, so that the content is an ordinary mail: each MTA must accept and relay it.
const NO_FORM: &[u8] = b"\r\n";
