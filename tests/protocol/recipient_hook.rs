//! The recipient hook of an embedding program, over real connections.

use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use goguerrilla::internals::smtp::RecipientCheck;
use goguerrilla::internals::store::MemoryStore;
use goguerrilla::{Config, Server, ServerHandle};

use testkit::{Client, TEST_TIMEOUT, let_time_pass, short_mail, test};

#[test]
fn hook_decides_which_recipients_get_a_mail() {
    let server = HookServer::start(TEST_TIMEOUT, |address| match address {
        "known@ours.test" | "other@ours.test" => RecipientCheck::Accept,
        "later@ours.test" => RecipientCheck::Defer,
        _ => RecipientCheck::Reject,
    });
    let mut client = server.client();
    client.command("MAIL FROM:<a@client.test>", "250");
    for (recipient, want) in [
        ("<known@ours.test>", "250 2.1.5 OK"),
        (
            "<nobody@ours.test>",
            "550 5.1.1 Recipient address rejected: User unknown",
        ),
        (
            "<later@ours.test>",
            "451 4.3.0 Recipient address: temporary lookup failure",
        ),
        ("<@route.test:known@OURS.test>", "250 2.1.5 OK"),
        ("<nobody@foreign.test>", "550 5.7.1 Relay access denied"),
        ("<other@ours.test>", "250 2.1.5 OK"),
    ] {
        client.command(&format!("RCPT TO:{recipient}"), want);
    }
    client.command("DATA", "354");
    client.send([&short_mail("hook")[..], b"\r\n.\r\n"].concat());
    client.expect("250 ");
    client.command("MAIL FROM:<>", "250");
    client.command("RCPT TO:<nobody@ours.test>", "550 5.1.1 ");
    client.command("DATA", "503 5.5.1 ");
    client.command("QUIT", "221");
    let bodies = server.stop();
    let delivered: Vec<&str> = bodies
        .iter()
        .map(|body| {
            let line = body.lines().find(|line| line.starts_with("Delivered-To: "));
            line.expect("a trace field")
        })
        .collect();
    assert_eq!(
        delivered,
        ["Delivered-To: known@mx.test", "Delivered-To: other@mx.test"]
    );
}

#[test]
fn hook_panic_defers_the_recipient_and_the_connection_goes_on() {
    let server = HookServer::start(TEST_TIMEOUT, |address| {
        assert!(!address.starts_with("poison@"), "an intended panic");
        RecipientCheck::Accept
    });
    let mut client = server.client();
    client.command("MAIL FROM:<a@client.test>", "250");
    for _ in 0..3 {
        client.command("RCPT TO:<poison@ours.test>", "451 4.3.0 ");
    }
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("DATA", "354");
    client.send([&short_mail("hook")[..], b"\r\n.\r\n"].concat());
    client.expect("250 ");
    client.command("QUIT", "221");
    let handle = server.handle.clone();
    assert_eq!(server.stop().len(), 1);
    let page = handle.metrics_text();
    let counted = "goguerrilla_panics_total{component=\"recipient_hook\"} 3\n";
    assert!(page.contains(counted), "{page}");
}

#[test]
fn time_of_the_hook_does_not_count_against_the_client() {
    let wait = Duration::from_millis(1_500);
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let server = HookServer::start(Duration::from_secs(1), move |address| {
        let_time_pass(wait, "a hook that is slower than the timeout of the client");
        if address.starts_with("v@") {
            let _ = released.lock().expect("no panic").recv();
        }
        RecipientCheck::Accept
    });
    let mut client = server.client();
    client.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nRCPT TO:<v@ours.test>\r\n");
    client.expect("250 ");
    // The first reply does not wait for the second call of the hook.
    client.expect("250 ");
    drop(release);
    client.expect("250 ");
    let_time_pass(
        Duration::from_millis(500),
        "a part of the timeout of the client",
    );
    client.command("QUIT", "221");
    assert!(server.stop().is_empty());
}

/// A server on a free port with a recipient hook and a store in memory.
struct HookServer {
    address: SocketAddr,
    handle: ServerHandle,
    thread: JoinHandle<()>,
    store: MemoryStore,
}

impl HookServer {
    fn start(
        client_timeout: Duration,
        hook: impl Fn(&str) -> RecipientCheck + Send + Sync + 'static,
    ) -> HookServer {
        let config = Config::builder()
            .listen("127.0.0.1:0".parse().expect("an address"))
            .host_name("mx.test")
            .allowed_hosts(["ours.test"])
            .client_timeout(client_timeout)
            .build();
        let store = MemoryStore::default();
        let open_store = {
            let store = store.clone();
            move || Ok(store.clone())
        };
        let server = Server::builder(config.expect("a configuration"))
            .store(open_store)
            .recipients(hook)
            .bind()
            .expect("a server");
        HookServer {
            address: server.local_addrs()[0],
            handle: server.handle(),
            thread: thread::spawn(|| server.run().expect("threads")),
            store,
        }
    }

    /// Connects a client that has sent EHLO.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.expect("220 ");
        client.command("EHLO client.test", "250");
        client
    }

    /// Stops the server; returns the trace fields and content of each stored row.
    fn stop(self) -> Vec<String> {
        self.handle.shutdown();
        self.thread.join().expect("no panic");
        let bodies = self.store.saved_mail_contents().into_iter();
        bodies
            .map(|body| String::from_utf8(body).expect("ASCII"))
            .collect()
    }
}
