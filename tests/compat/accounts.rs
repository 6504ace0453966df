//! Accounts of MySQL: logging in with caching_sha2_password, whose first login differs from later ones.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use testkit::mariadb::{MariaDb, PASSWORD, USER};
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
    logins: Arc<Mutex<Vec<Login>>>,
}

impl LoginRecorder {
    fn start(upstream: SocketAddr) -> LoginRecorder {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let logins = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&logins);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let recorded = Arc::clone(&recorded);
                thread::spawn(move || {
                    // A client may disconnect at any time.
                    let _ = forward(&client, upstream, &recorded);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        LoginRecorder { address, logins }
    }

    /// Returns the logins since the last call.
    fn take(&self) -> Vec<Login> {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut logins)
    }
}

fn forward(
    mut client: &TcpStream,
    upstream: SocketAddr,
    logins: &Mutex<Vec<Login>>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let mut octets = [0; 65_536];
    let mut is_logged_in = false;
    loop {
        let count = server.read(&mut octets)?;
        if count == 0 {
            return Ok(());
        }
        // The packet with more authentication data, of two octets.
        for packet in octets[..count].windows(6) {
            let login = match packet {
                [2, 0, 0, _, 1, 3] => Login::FromCache,
                [2, 0, 0, _, 1, 4] => Login::WithPassword,
                _ => continue,
            };
            if !is_logged_in {
                is_logged_in = true;
                let mut logins = logins.lock().unwrap_or_else(PoisonError::into_inner);
                logins.push(login);
            }
        }
        client.write_all(&octets[..count])?;
    }
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
