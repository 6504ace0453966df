//! The recipient hook of an embedding program, over real connections.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use goguerrilla::connection::{self, ConnectionSettings, SharedSessionSettings};
use goguerrilla::net::accept_pool::Client as AcceptedClient;
use goguerrilla::net::listener::Listener;
use goguerrilla::smtp::{
    AllowedHosts, MemoryBudget, RecipientCheck, RecipientHook, SessionSettings,
};
use goguerrilla::store::{MemoryStore, StoreHealth, StoreOpener, TableColumns, Writers};

use crate::panics;
use crate::support::{Client, TEST_TIMEOUT, short_mail};

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
    assert_eq!(server.stop().len(), 1);
    let page = goguerrilla::metrics::render();
    let counted = "goguerrilla_panics_total{component=\"recipient_hook\"} 3\n";
    assert!(page.contains(counted), "{page}");
}

#[test]
fn time_of_the_hook_does_not_count_against_the_client() {
    let wait = Duration::from_millis(1_500);
    let server = HookServer::start(Duration::from_secs(1), move |_| {
        thread::sleep(wait);
        RecipientCheck::Accept
    });
    let mut client = server.client();
    let started_at = Instant::now();
    client.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nRCPT TO:<v@ours.test>\r\n");
    client.expect("250 ");
    client.expect("250 ");
    assert!(
        started_at.elapsed() < wait * 2,
        "the first reply waited for the second call of the hook"
    );
    client.expect("250 ");
    assert!(started_at.elapsed() >= wait * 2);
    thread::sleep(Duration::from_millis(500));
    client.command("QUIT", "221");
    assert!(server.stop().is_empty());
}

/// An SMTP listener on a free port with a recipient hook and a store in memory.
struct HookServer {
    listener: Arc<Listener>,
    writers: Writers,
    store: MemoryStore,
}

impl HookServer {
    fn start(
        client_timeout: Duration,
        hook: impl Fn(&str) -> RecipientCheck + Send + Sync + 'static,
    ) -> HookServer {
        let store = MemoryStore::default();
        let open_store: StoreOpener = {
            let store = store.clone();
            Arc::new(move || Ok(Box::new(store.clone())))
        };
        let (saver, writers) =
            Writers::start(1, true, StoreHealth::up(), open_store).expect("a thread");
        let session = SessionSettings {
            host_name: "mx.test".to_owned(),
            primary_mail_host: "mx.test".to_owned(),
            allowed_hosts: AllowedHosts::from_host_patterns(["ours.test"]).expect("a domain"),
            max_content_octets: 10_000,
            max_recipients: 10,
            recipient_limits: Arc::new(TableColumns::DEFAULT.recipient_limits()),
            recipient_hook: Some(RecipientHook::new(hook)),
            verbose: false,
        };
        let settings = ConnectionSettings {
            session: Arc::new(SharedSessionSettings::new(session)),
            client_timeout,
            budget: MemoryBudget::new(100_000),
            saver,
            proxy_protocol: false,
            tls: None,
        };
        let serve = move |client: &AcceptedClient| connection::serve(client, &settings);
        let (_, listener) = panics::open(Box::new(serve));
        HookServer {
            listener,
            writers,
            store,
        }
    }

    /// Connects a client that has sent EHLO.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.listener.address());
        client.expect("220 ");
        client.command("EHLO client.test", "250");
        client
    }

    /// Stops the server; returns the trace fields and content of each stored row.
    fn stop(self) -> Vec<String> {
        self.listener.close();
        self.writers.drain_and_join();
        let bodies = self.store.bodies().into_iter();
        bodies
            .map(|body| String::from_utf8(body).expect("ASCII"))
            .collect()
    }
}
