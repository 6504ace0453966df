//! Third-party clients each deliver a mail; the mail is stored octet for octet.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use goguerrilla::internals::store::sqlite::SqliteMailReader;
use goguerrilla::internals::store::{StoredMailReader, TableName};
use lettre::address::{Address, Envelope};
use lettre::transport::smtp::extension::ClientId;
use lettre::{SmtpTransport, Transport};

use testkit::tls::TlsServer;
use testkit::{Server, test, wait_for, without_trace};

#[test]
fn curl_delivers_to_two_recipients() {
    let server = Server::start(&[]);
    fs::write(server.path("mail"), mail("\r\n")).expect("a file is written");
    let url = format!("smtp://{}/client.test", server.address);
    run(
        &server,
        &["curl", "-q", "-sS", "--noproxy", "*", "--max-time", "30"],
        &[
            &url,
            "--mail-from",
            "a@client.test",
            "--mail-rcpt",
            "u@ours.test",
            "--mail-rcpt",
            "v@ours.test",
            "-T",
            "mail",
        ],
    );
    assert_stored(&server, &["u@ours.test", "v@ours.test"], &mail("\r\n"));
}

#[test]
fn swaks_delivers() {
    let server = Server::start(&[]);
    swaks(&server, &["--to", "u@ours.test"]);
    assert_stored(&server, &["u@ours.test"], &mail_with_final_empty_line());
}

#[test]
fn swaks_pipelines_to_several_recipients() {
    let server = Server::start(&[]);
    let recipients = ["t@ours.test", "u@ours.test", "v@ours.test"];
    swaks(&server, &["--pipeline", "--to", &recipients.join(",")]);
    assert_stored(&server, &recipients, &mail_with_final_empty_line());
}

#[test]
fn msmtp_delivers() {
    let server = Server::start(&[]);
    fs::write(server.path("mail"), mail("\n")).expect("a file is written");
    let (host, port) = host_and_port(&server);
    testkit::needs_program("msmtp");
    // Needs a shell because msmtp reads the mail from standard input only.
    let script = "exec msmtp --file=/dev/null --host=$0 --port=$1 --tls=off --auth=off --domain=client.test \
                  --from=a@client.test u@ours.test < mail";
    run(&server, &["sh", "-c", script], &[&host, &port]);
    assert_stored(&server, &["u@ours.test"], &mail("\r\n"));
}

#[test]
fn smtplib_delivers_raw_octets() {
    let server = Server::start(&[]);
    fs::write(server.path("mail"), mail("\r\n")).expect("a file is written");
    python(
        &server,
        r#"
with smtplib.SMTP(host, port, "client.test", timeout=30) as client:
    refused = client.sendmail("a@client.test", ["u@ours.test", "v@ours.test"], open("mail", "rb").read())
    assert refused == {}, refused
"#,
    );
    assert_stored(&server, &["u@ours.test", "v@ours.test"], &mail("\r\n"));
}

#[test]
fn smtplib_delivers_between_smtputf8_addresses() {
    let server = Server::start(&[]);
    python(
        &server,
        r#"
import email.message

class Recording(smtplib.SMTP):
    """Keeps the octets into which send_message turns a message."""
    def sendmail(self, sender, recipients, octets, *arguments, **options):
        open("mail", "wb").write(octets)
        return super().sendmail(sender, recipients, octets, *arguments, **options)

message = email.message.EmailMessage()
message["From"] = "Jörg <jörg@client.test>"
message["To"] = "用户@ours.test"
message["Subject"] = "Grüße, 用户"
message.set_content(".Zwölf Boxkämpfer\n..jagen Viktor\n.\n")
with Recording(host, port, "client.test", timeout=30) as client:
    assert client.send_message(message) == {}
"#,
    );
    let sent = fs::read(server.path("mail")).expect("the octets that were sent");
    let mail = &server.list()[0];
    assert_eq!(mail["from"], "jörg@client.test");
    assert_eq!(mail["to"], "用户@primary.test");
    assert_eq!(mail["subject"], "Grüße, 用户");
    assert_stored(&server, &["用户@ours.test"], &sent);
    let shown = server.show(mail["hash"].as_str().expect("a hash"));
    assert!(
        String::from_utf8_lossy(&shown).contains(" with UTF8SMTP id "),
        "the word of RFC 6531"
    );
}

#[test]
fn smtplib_delivers_8_bit_content_with_8bitmime() {
    let server = Server::start(&[]);
    // Every octet except NUL, CR and LF, which 8BITMIME does not allow in text.
    let all: Vec<u8> = (1..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
    let content = [
        b"Subject: eight bits\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
        all.as_slice(),
        b"\r\n",
    ]
    .concat();
    fs::write(server.path("mail"), &content).expect("a file is written");
    python(
        &server,
        r#"
with smtplib.SMTP(host, port, "client.test", timeout=30) as client:
    client.ehlo()
    assert client.has_extn("8bitmime")
    client.sendmail("a@client.test", "u@ours.test", open("mail", "rb").read(), ["BODY=8BITMIME"])
"#,
    );
    assert_stored(&server, &["u@ours.test"], &content);
}

#[test]
fn smtplib_delivers_with_bdat() {
    let server = Server::start(&[]);
    // Content that DATA carries only with dot-stuffing or not at all: lines of a single dot, bare CR and LF, NUL, no CR LF at
    // the end.
    let content = [
        &mail("\r\n")[..],
        b"\r\n.\r\n\0 \r \n.\r\n..\r\nno end of line",
    ]
    .concat();
    fs::write(server.path("mail"), &content).expect("a file is written");
    python(
        &server,
        r#"
octets = open("mail", "rb").read()
with smtplib.SMTP(host, port, "client.test", timeout=30) as client:
    client.ehlo()
    assert client.has_extn("chunking")
    assert client.mail("a@client.test")[0] == 250
    assert client.rcpt("u@ours.test")[0] == 250
    for start in range(0, len(octets), 100):
        chunk = octets[start:start + 100]
        client.send(b"BDAT %d\r\n" % len(chunk) + chunk)
        code, text = client.getreply()
        assert code == 250, text
    code, text = client.docmd("BDAT 0 LAST")
    assert code == 250 and text.startswith(b"2.0.0 OK : queued as "), text
"#,
    );
    assert_stored(&server, &["u@ours.test"], &content);
}

#[test]
fn smtp_source_delivers_500_mails_over_20_sessions() {
    let server = Server::start(&[]);
    smtp_source(&server, &["-s", "20", "-m", "500"]);
    assert_all_stored(&server, 500);
}

#[test]
fn smtp_source_delivers_to_3_recipients_over_persistent_connections() {
    let server = Server::start(&[]);
    smtp_source(&server, &["-d", "-s", "20", "-m", "200", "-r", "3"]);
    assert_all_stored(&server, 600);
}

#[test]
fn lettre_delivers() {
    let server = Server::start(&[]);
    let address = |text: &str| text.parse::<Address>().expect("an address");
    let recipients = ["u@ours.test", "v@ours.test"];
    let envelope = Envelope::new(
        Some(address("a@client.test")),
        recipients.map(address).to_vec(),
    );
    let transport = SmtpTransport::builder_dangerous("127.0.0.1")
        .port(server.address.port())
        .hello_name(ClientId::Domain("client.test".to_owned()))
        .build();
    let reply = transport.send_raw(&envelope.expect("recipients"), &mail("\r\n"));
    let reply = reply.expect("a mail that is accepted");
    assert!(reply.is_positive(), "{reply:?}");
    assert_stored(&server, &recipients, &mail_with_final_empty_line());
}

#[test]
fn nodemailer_delivers_in_plaintext_and_over_tls() {
    testkit::needs_program("node");
    let package = std::path::Path::new("/usr/share/nodejs/nodemailer");
    testkit::needs("nodemailer", package.exists());
    let tls = TlsServer::start(&[]);
    fs::write(tls.server.path("mail"), mail("\r\n")).expect("a file is written");
    let script = r#"
const fs = require("fs");
const [port, portOfTls] = process.argv.slice(2).map(Number);
const trusting = { ca: fs.readFileSync("mx.cert.pem"), servername: "mx.test" };
async function deliver(options, to) {
    const common = { host: "127.0.0.1", name: "client.test", tls: trusting };
    const transport = require("nodemailer").createTransport({ ...common, ...options });
    const envelope = { from: "a@client.test", to };
    const sent = await transport.sendMail({ envelope, raw: fs.readFileSync("mail") });
    if (!sent.response.startsWith("250 2.0.0 ") || sent.rejected.length) {
        throw new Error(JSON.stringify(sent));
    }
}
(async () => {
    await deliver({ port, ignoreTLS: true }, ["1@ours.test", "2@ours.test"]);
    await deliver({ port, requireTLS: true }, ["3@ours.test"]);
    await deliver({ port: portOfTls, secure: true }, ["4@ours.test"]);
    await deliver({ port, requireTLS: true }, ["用户@ours.test"]);
})();
"#;
    fs::write(tls.server.path("script.js"), script).expect("a file is written");
    let port = |address: SocketAddr| address.port().to_string();
    run(
        &tls.server,
        // Debian installs the packages of node there.
        &["env", "NODE_PATH=/usr/share/nodejs", "node", "script.js"],
        &[&port(tls.server.address), &port(tls.implicit_tls_address)],
    );
    let recipients = [
        "1@ours.test",
        "2@ours.test",
        "3@ours.test",
        "4@ours.test",
        "用户@ours.test",
    ];
    assert_stored(&tls.server, &recipients, &mail("\r\n"));
}

#[test]
fn every_mail_acknowledged_to_postal_under_load_is_stored() {
    // Plaintext only: postal's TLS offers no key exchange with forward secrecy that TLS 1.2 still has.
    let server = Server::start(&[]);
    fs::write(server.path("users"), "u@ours.test\nv@ours.test\n").expect("a file is written");
    let (host, port) = host_and_port(&server);
    // postal runs until it is killed and writes the dialogue to files whose names begin with "heard".
    let mut postal = testkit::command("postal")
        .args(["-t", "2", "-c", "3", "-m", "20", "-z", "heard"])
        .args(["-p", &port, "-f", "users", &host, "users"])
        .env("PATH", path_with_sbin())
        .current_dir(server.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("postal is installed");
    wait_for("a hundred mails", || {
        let count = server.log().matches(" saved ").count();
        (count >= 100).then_some(())
    });
    postal.kill().expect("postal runs");
    postal.wait().expect("a child process");
    server.wait_for_log(" disconnected ");
    let heard: String = fs::read_dir(server.folder.path())
        .expect("its folder")
        .map(|entry| entry.expect("a file").path())
        .filter(|file| file.to_string_lossy().contains("/heard"))
        .map(|file| String::from_utf8_lossy(&fs::read(file).expect("a file")).into_owned())
        .collect();
    let stored = server.list();
    let stored: HashSet<&str> = stored
        .iter()
        .map(|mail| mail["hash"].as_str().expect("a hash"))
        .collect();
    let promises = heard.split("queued as ").skip(1);
    let promises: Vec<&str> = promises.filter_map(|text| text.get(..32)).collect();
    assert!(promises.len() > 50, "{} promises", promises.len());
    let lost = promises.iter().find(|hash| !stored.contains(*hash));
    assert_eq!(lost, None);
    let log = server.log();
    let is_refused = |line: &&str| line.contains(" disconnected ") && !line.contains(" faults=0 ");
    assert_eq!(log.lines().find(is_refused), None);
}

fn swaks(server: &Server, arguments: &[&str]) {
    fs::write(server.path("mail"), mail("\n")).expect("a file is written");
    let address = server.address.to_string();
    // --config, which must come first, ignores the user's own swaks configuration.
    let fixed = [
        "swaks",
        "--config",
        "--server",
        &address,
        "--helo",
        "client.test",
    ];
    let envelope = ["--from", "a@client.test", "--data", "@mail"];
    run(server, &fixed, &[&envelope, arguments].concat());
}

fn smtp_source(server: &Server, arguments: &[&str]) {
    fs::write(server.path("mail"), mail("\n")).expect("a file is written");
    let fixed = ["smtp-source", "-C", "20", "-M", "client.test"];
    let envelope = ["-f", "a@client.test", "-t", "u@ours.test", "-F", "mail"];
    let address = server.address.to_string();
    run(
        server,
        &fixed,
        &[&envelope, arguments, &[address.as_str()]].concat(),
    );
}

/// Runs a Python script that has imported `smtplib` and defined `host` and `port`.
pub fn python(server: &Server, script: &str) {
    let script = format!(
        "import smtplib, sys\nhost, port = sys.argv[1], int(sys.argv[2])\n{}",
        script.trim_start()
    );
    fs::write(server.path("script.py"), script).expect("a file is written");
    let (host, port) = host_and_port(server);
    run(
        server,
        &["python3", "-X", "utf8", "script.py"],
        &[&host, &port],
    );
}

/// Runs a program in the server's folder and fails unless it succeeds.
pub fn run(server: &Server, program: &[&str], arguments: &[&str]) {
    // `env` runs another program, which its test names.
    testkit::needs_program(program[0]);
    let mut command = Command::new("timeout");
    command.env("PATH", path_with_sbin());
    let output = command
        .arg("60")
        .args(program)
        .args(arguments)
        .current_dir(server.folder.path())
        .output()
        .expect("timeout of coreutils starts");
    assert!(
        output.status.success(),
        "{} ended with {}\n{}{}",
        program[0],
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Returns PATH with /usr/sbin, where Debian installs Postfix's tools.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin")
}

pub fn host_and_port(server: &Server) -> (String, String) {
    let address = server.address;
    (address.ip().to_string(), address.port().to_string())
}

/// Asserts that the store has exactly one row per recipient, each with this content.
pub fn assert_stored(server: &Server, recipients: &[&str], content: &[u8]) {
    let mails = server.list();
    let mut stored: Vec<&str> = mails
        .iter()
        .map(|mail| mail["recipient"].as_str().expect("a recipient"))
        .collect();
    stored.sort_unstable();
    assert_eq!(stored, recipients);
    for stored in server.contents() {
        assert_octets_equal(&stored, content);
    }
}

/// Asserts that the store has `count` rows, each with the mail of smtp-source. Reads the store directly, because a
/// `show` process per mail would be slow.
fn assert_all_stored(server: &Server, count: usize) {
    let sent = mail_with_final_empty_line();
    let table = TableName::default();
    let mut reader =
        SqliteMailReader::open(&server.path("goguerrilla.db"), &table).expect("a store to read");
    let mails = reader
        .list_newest_mails(None, 1_000_000)
        .expect("the store is read");
    assert_eq!(mails.len(), count);
    for listed in mails {
        let stored = reader
            .read_mail_by_hash(&listed.hash)
            .expect("the store is read");
        let stored = stored.expect("a mail that was listed");
        assert_octets_equal(without_trace(&stored), &sent);
    }
}

/// Asserts that both are equal; the failure shows the first difference.
pub fn assert_octets_equal(stored: &[u8], sent: &[u8]) {
    if stored != sent {
        let same = stored.iter().zip(sent).take_while(|(a, b)| a == b).count();
        let around = |octets: &[u8]| {
            let end = octets.len().min(same + 40);
            octets[same.saturating_sub(40)..end]
                .escape_ascii()
                .to_string()
        };
        panic!(
            "different from octet {same} on, of {} and {}\nstored: {}\nsent:   {}",
            stored.len(),
            sent.len(),
            around(stored),
            around(sent)
        );
    }
}

/// Returns what swaks, smtp-source and lettre send for [`mail`]: they always add CR LF before the final dot.
pub fn mail_with_final_empty_line() -> Vec<u8> {
    [&mail("\r\n")[..], b"\r\n"].concat()
}

/// Returns a mail with lines that clients often change: leading dots, trailing spaces and tabs, long, empty and UTF-8
/// lines.
pub fn mail(line_end: &str) -> Vec<u8> {
    let long = "0123456789".repeat(90);
    let lines = [
        "From: A Sender <a@client.test>",
        "To: u@ours.test",
        "Date: Mon, 01 Jun 2026 12:00:00 +0000",
        "Message-ID: <1@client.test>",
        "Subject: easily",
        "\tchanged ",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        ".",
        "..",
        ".dot",
        "...three",
        "not. at the start",
        "From the start of a line",
        "spaces at the end  ",
        "a tab at the end\t",
        "Zwölf Boxkämpfer, 用户",
        &long,
        "",
        ".",
        // swaks would take a dot in the last line for the end of data.
        "end",
        "",
    ];
    lines
        .iter()
        .flat_map(|line| [line.as_bytes(), line_end.as_bytes()])
        .flatten()
        .copied()
        .collect()
}
