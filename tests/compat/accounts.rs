//! Accounts of MySQL: logging in with caching_sha2_password, whose first login differs from later ones.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tempfile::TempDir;

use testkit::certificates::Authority;
use testkit::mariadb::{EXISTING_TABLE, MariaDb, PASSWORD, USER};
use testkit::server_programs::is_mysql;
use testkit::{Server, needs, short_mail, test, wait_for};

/// How an account proved that it knows the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// The server has the password's hash in its cache, and the client sent a digest.
    FromCache,
    /// The server asked for the password itself, encrypted with its RSA key.
    WithPassword,
}

/// A TCP proxy that records how clients log in. It runs until the test process ends.
struct LoginRecorder {
    address: SocketAddr,
    records: Arc<LoginRecords>,
}

#[derive(Default)]
struct LoginRecords {
    logins: Mutex<Vec<Login>>,
    /// What clients sent after the server had asked for the password.
    after_request: Mutex<Vec<u8>>,
}

impl LoginRecorder {
    fn start(upstream: SocketAddr) -> LoginRecorder {
        LoginRecorder::start_on(Ipv4Addr::LOCALHOST.into(), upstream)
    }

    /// Starts a proxy on one address of this machine. It serves only clients of the same address.
    fn start_on(own: IpAddr, upstream: SocketAddr) -> LoginRecorder {
        let listener = TcpListener::bind((own, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let records = Arc::new(LoginRecords::default());
        let recorded = Arc::clone(&records);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if client.peer_addr().is_ok_and(|peer| peer.ip() == own) {
                    let recorded = Arc::clone(&recorded);
                    // A client may disconnect at any time.
                    thread::spawn(move || forward(&client, upstream, &recorded));
                }
            }
        });
        LoginRecorder { address, records }
    }

    /// Returns the logins since the last call.
    fn take(&self) -> Vec<Login> {
        std::mem::take(&mut lock(&self.records.logins))
    }

    /// Returns what clients sent after the server had asked for the password, since the last call.
    fn take_answers(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.records.after_request))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forward(
    client: &TcpStream,
    upstream: SocketAddr,
    records: &Arc<LoginRecords>,
) -> io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    let is_asked = Arc::new(AtomicBool::new(false));
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let (recorded, asked) = (Arc::clone(records), Arc::clone(&is_asked));
    thread::spawn(move || {
        let _ = copy(&from_client, &to_server, |octets| {
            if asked.load(Ordering::SeqCst) {
                lock(&recorded.after_request).extend_from_slice(octets);
            }
        });
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let mut is_logged_in = false;
    let copied = copy(&server, client, |octets| {
        // The packet with more authentication data, of two octets.
        for packet in octets.windows(6).filter(|_| !is_logged_in) {
            let login = match packet {
                [2, 0, 0, _, 1, 3] => Login::FromCache,
                [2, 0, 0, _, 1, 4] => Login::WithPassword,
                _ => continue,
            };
            is_logged_in = true;
            is_asked.store(login == Login::WithPassword, Ordering::SeqCst);
            lock(&records.logins).push(login);
            break;
        }
    });
    let _ = client.shutdown(Shutdown::Both);
    copied
}

/// Copies octets until one side ends; `look` sees each piece before it is written.
fn copy(mut from: &TcpStream, mut to: &TcpStream, mut look: impl FnMut(&[u8])) -> io::Result<()> {
    let mut octets = [0; 65_536];
    loop {
        let count = from.read(&mut octets)?;
        if count == 0 {
            return Ok(());
        }
        look(&octets[..count]);
        to.write_all(&octets[..count])?;
    }
}

/// Returns an address of this machine that is not loopback. No packet leaves the machine.
fn own_network_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

/// Starts MySQL with an account that has the server's default plugin. MariaDB has no caching_sha2_password before 12.1.
fn mysql_with_caching_sha2_account() -> MariaDb {
    needs("MySQL", is_mysql());
    let database = MariaDb::start();
    let plugin: Vec<String> = database.rows(&format!(
        "SELECT plugin FROM mysql.user WHERE user = '{USER}'"
    ));
    assert_eq!(plugin, ["caching_sha2_password"]);
    database
}

fn assert_saves(server: &Server) {
    wait_for("a mail to be saved", || {
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("any"));
        (reply.code == 250).then_some(())
    });
}

fn assert_check_succeeds(server: &Server) {
    let (is_well, output_text) = server.check();
    assert!(is_well, "{output_text}");
}

#[test]
fn caching_sha2_password_account_logs_in_over_tcp_with_an_empty_and_a_filled_cache() {
    let database = mysql_with_caching_sha2_account();
    let recorder = LoginRecorder::start(database.address());
    // The cache is empty, because nobody has used the account.
    let server = database.server_at(&recorder.address.to_string(), &[]);
    assert_saves(&server);
    assert_eq!(recorder.take().first(), Some(&Login::WithPassword));

    assert_check_succeeds(&server);
    let logins = recorder.take();
    assert!(
        !logins.is_empty() && logins.iter().all(|login| *login == Login::FromCache),
        "{logins:?}"
    );

    // This statement empties the cache.
    database.sql("FLUSH PRIVILEGES");
    assert_check_succeeds(&server);
    assert_eq!(recorder.take().first(), Some(&Login::WithPassword));
}

#[test]
fn caching_sha2_password_account_logs_in_over_a_unix_socket_with_an_empty_and_a_filled_cache() {
    let database = mysql_with_caching_sha2_account();
    let server = database.server_at(&database.socket(), &[]);
    assert_saves(&server);
    assert_check_succeeds(&server);
    database.sql("FLUSH PRIVILEGES");
    assert_check_succeeds(&server);
}

#[test]
fn caching_sha2_password_account_with_a_wrong_password_is_an_error_without_the_password() {
    let database = mysql_with_caching_sha2_account();
    for host in [database.address().to_string(), database.socket()] {
        let server = database.server_at(&host, &[("MYSQL_PASS", "another-s3cret")]);
        let (is_well, output_text) = server.check();
        assert!(
            !is_well && output_text.contains("correct MYSQL_USER and MYSQL_PASS"),
            "{output_text}"
        );
        assert!(
            !output_text.contains("another-s3cret") && !output_text.contains(PASSWORD),
            "{output_text}"
        );
    }
}

#[test]
fn password_is_not_sent_to_another_machine_in_a_recoverable_form_without_tls() {
    let own = own_network_address();
    needs("a network interface other than loopback", own.is_some());
    let database = mysql_with_caching_sha2_account();
    let recorder = LoginRecorder::start_on(own.expect("an address"), database.address());
    let host = recorder.address.to_string();
    // The cache is empty, so the server asks for the password.
    let server = database.server_at(&host, &[]);
    let (is_well, output_text) = server.check();
    assert!(!is_well, "{output_text}");
    for part in [
        "error: MYSQL_TLS: ",
        &host,
        "a listener on the network could recover",
        "set MYSQL_TLS to Y",
        "MYSQL_TLS to insecure",
    ] {
        assert!(output_text.contains(part), "{part}: {output_text}");
    }
    let reply = (server.client()).deliver("a@client.test", "u@ours.test", &short_mail("any"));
    assert_eq!(reply.code, 451);
    assert_eq!(recorder.take().first(), Some(&Login::WithPassword));
    // Each connection sent only COM_QUIT: no request for the server's RSA key, and nothing encrypted with it.
    let answers = recorder.take_answers();
    let are_quits = (answers.chunks(5)).all(|packet| packet == [1, 0, 0, 0, 1]);
    assert!(are_quits, "{answers:?}");
    assert!(!(server.output() + &output_text).contains(PASSWORD));

    let insecure = database.server_at(&host, &[("MYSQL_TLS", "insecure")]);
    assert_saves(&insecure);
    // An RSA key of 2,048 bits encrypts to 256 octets.
    assert!(recorder.take_answers().len() > 256);
    // The account is in the server's cache now.
    assert_saves(&server);
    assert_check_succeeds(&server);
}

#[test]
fn caching_sha2_password_account_logs_in_over_verified_tls_with_an_empty_and_a_filled_cache() {
    needs("MySQL", is_mysql());
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let pair = authority.issue("server", &["localhost"], 1);
    let database = MariaDb::start_with(&[
        &format!("--ssl-cert={}", pair.chain.display()),
        &format!("--ssl-key={}", pair.key.display()),
    ]);
    database.sql(EXISTING_TABLE);
    database.sql(&format!("ALTER USER {USER}@'%' REQUIRE SSL"));
    let host = format!("localhost:{}", database.address().port());
    let ca = authority.file.display().to_string();
    let server = database.server_at(&host, &[("MYSQL_TLS", "Y"), ("MYSQL_CA", &ca)]);
    assert_saves(&server);
    assert_check_succeeds(&server);
    database.sql("FLUSH PRIVILEGES");
    assert_check_succeeds(&server);
}

/// Asserts that `check` fails with one error that contains all of `parts`.
fn assert_check_fails(server: &Server, parts: &[&str]) {
    let (is_well, output_text) = server.check();
    assert!(!is_well, "{output_text}");
    for part in parts {
        assert!(output_text.contains(part), "{part}: {output_text}");
    }
}

#[test]
fn certificate_that_mysql_makes_by_itself_is_refused_with_what_to_do_and_accepted_if_unverified() {
    let database = mysql_with_caching_sha2_account();
    let host = format!("localhost:{}", database.address().port());
    let server = database.server_at(&host, &[("MYSQL_TLS", "Y")]);
    let by_itself = "make a certificate by themselves";
    assert_check_fails(&server, &[by_itself, "set MYSQL_TLS to unverified"]);
    let ca = database.socket().replace("/socket", "/data/ca.pem");
    let server = database.server_at(&host, &[("MYSQL_TLS", "Y"), ("MYSQL_CA", &ca)]);
    assert_check_fails(&server, &["names no host", "set MYSQL_TLS to unverified"]);
    let server = database.server_at(&host, &[("MYSQL_TLS", "unverified")]);
    assert_saves(&server);
    assert_check_succeeds(&server);
}

#[test]
fn certificate_that_mariadb_makes_by_itself_is_refused_with_what_to_do_and_accepted_if_unverified()
{
    needs("MariaDB", !is_mysql());
    let database = MariaDb::start();
    let have_ssl: Vec<(String, String)> = database.rows("SHOW VARIABLES LIKE 'have_ssl'");
    needs(
        "MariaDB 11.4 or newer",
        have_ssl.iter().any(|(_, value)| value == "YES"),
    );
    let host = format!("localhost:{}", database.address().port());
    let server = database.server_at(&host, &[("MYSQL_TLS", "Y")]);
    let by_itself = "make a certificate by themselves";
    assert_check_fails(&server, &[by_itself, "set MYSQL_TLS to unverified"]);
    let server = database.server_at(&host, &[("MYSQL_TLS", "unverified")]);
    assert_saves(&server);
    assert_check_succeeds(&server);
}
