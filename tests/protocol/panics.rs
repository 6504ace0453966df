//! A panic ends only the connection in which it happens. `writer.rs` has more tests of panics in a store.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use goguerrilla::internals::connection::{self, ConnectionSettings};
use goguerrilla::internals::feed::Feed;
use goguerrilla::internals::mail::Mail;
use goguerrilla::internals::net::accept_pool::{
    AcceptPool, AcceptPoolSettings, CLIENT_STACK_OCTETS, Client, ConnectionHandler,
};
use goguerrilla::internals::net::listener::Listener;
use goguerrilla::internals::net::trusted_proxies::TrustedProxies;
use goguerrilla::internals::smtp::{AcceptedDomains, MemoryBudget, SessionSettings};
use goguerrilla::internals::store::{
    SaveError, SaveMail, SavedId, StoreHealth, StoreOpener, TableColumns, WriterThreads,
};
use log::kv::Key;
use log::{LevelFilter, Log, Metadata, Record};

use testkit::{self, TEST_TIMEOUT, short_mail, test, wait_for};

#[test]
fn panicking_connection_frees_its_slot_and_other_clients_are_served() {
    let serve = |client: &Client| {
        let mut octet = [0];
        (&*client.socket())
            .read_exact(&mut octet)
            .expect("an octet");
        assert_ne!(octet, *b"!", "an intended panic");
        (&*client.socket())
            .write_all(&octet)
            .expect("the client reads");
    };
    let (pool, listener) = open(Box::new(serve));
    let ask = |octet: u8| {
        let mut socket = TcpStream::connect(listener.bound_address()).expect("the pool accepts");
        socket
            .set_read_timeout(Some(TEST_TIMEOUT))
            .expect("a socket");
        socket.write_all(&[octet]).expect("the pool reads");
        socket.shutdown(Shutdown::Write).expect("a socket");
        let mut answer = Vec::new();
        // The connection closes, perhaps with a reset.
        let _ = socket.read_to_end(&mut answer);
        answer
    };
    for _ in 0..20 {
        assert_eq!(ask(b'!'), b"");
        wait_for("its slot to be free", || {
            (pool.taken_connection_slots() == 0).then_some(())
        });
    }
    for _ in 0..20 {
        assert_eq!(ask(b'a'), b"a");
        wait_for("its slot to be free", || {
            (pool.taken_connection_slots() == 0).then_some(())
        });
    }
    listener.close();
    let page = pool.metrics().render();
    for counter in [
        "goguerrilla_panics_total{component=\"connection\"} 20\n",
        "goguerrilla_connections_total{listener=\"smtp\",outcome=\"panicked\"} 20\n",
    ] {
        assert!(page.contains(counter), "{counter}: {page}");
    }
}

#[test]
fn memory_and_slots_are_released_after_a_connection_or_store_panic() {
    log::set_logger(&PanickingLog).expect("no other test sets one");
    log::set_max_level(LevelFilter::Info);
    let open_store: StoreOpener = Arc::new(|| Ok(Box::new(PanickingStore)));
    let (saver, writers) = WriterThreads::start(
        1,
        true,
        StoreHealth::new_of_reached_store(Arc::default()),
        &Feed::new(Arc::default()),
        open_store,
    )
    .expect("a thread");
    let budget = MemoryBudget::new(300_000);
    let session = Arc::new(verbose_session());
    let settings = ConnectionSettings {
        session: Arc::clone(&session),
        configured_session: session,
        store_limits: Arc::default(),
        client_timeout: TEST_TIMEOUT,
        hold_time: std::time::Duration::ZERO,
        budget: budget.clone(),
        saver,
        proxy_protocol: false,
        tls: None,
        accept: Arc::new(pool_settings()),
        feed_clients: Arc::default(),
    };
    let serve = move |client: &Client| connection::serve(client, &settings);
    let (pool, listener) = open(Box::new(serve));
    let client = || {
        let mut client = testkit::Client::connect(listener.bound_address());
        client.expect("220 ");
        client
    };
    let nothing_is_held_by = |places| {
        wait_for("its slot to be free", || {
            (pool.taken_connection_slots() == places).then_some(())
        });
        // The writer releases a batch after it has answered all of its mails.
        wait_for("its memory to be released", || {
            (budget.reserved_octets() == 0).then_some(())
        });
    };
    for _ in 0..5 {
        // The connection panics while it holds 100,000 octets of content.
        let mut holds = client();
        holds.command("EHLO client.test", "250");
        holds.command("MAIL FROM:<a@client.test>", "250");
        holds.command("RCPT TO:<u@ours.test>", "250");
        holds.send([b"BDAT 100000\r\n", &[b'x'; 100_000][..]].concat());
        holds.expect("250 ");
        assert!(
            budget.reserved_octets() >= 100_000,
            "{}",
            budget.reserved_octets()
        );
        holds.send(format!("NOOP {POISON}\r\n"));
        holds.expect_close();
        nothing_is_held_by(0);
        // The store panics while it holds a mail and its compressed form.
        let mut poisons = client();
        let content = [&short_mail(POISON)[..], &testkit::incompressible(100_000)].concat();
        let reply = poisons.deliver("a@client.test", "u@ours.test", &content);
        assert!(reply.text().starts_with("451 4.3.0 "), "{}", reply.text());
        nothing_is_held_by(1);
        let reply = poisons.deliver("a@client.test", "u@ours.test", &short_mail("good"));
        assert_eq!(reply.code, 250);
        poisons.command("QUIT", "221");
        nothing_is_held_by(0);
    }
    listener.close();
    writers.drain_and_join();
}

fn pool_settings() -> AcceptPoolSettings {
    AcceptPoolSettings {
        trusted_proxies: TrustedProxies::default(),
        max_clients: 3,
        max_clients_per_address: 3,
        busy_reply: b"full".to_vec(),
        address_limit_reply: b"too many".to_vec(),
    }
}

/// Opens a pool with three slots and one listener on a free port; `serve` handles each connection.
fn open(serve: ConnectionHandler) -> (Arc<AcceptPool>, Arc<Listener>) {
    let pool = AcceptPool::new(
        Box::new(|| Arc::new(pool_settings())),
        Arc::default(),
        serve,
        CLIENT_STACK_OCTETS,
    );
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), false, false);
    let listener = Arc::new(listener.expect("a free port"));
    pool.start_accepting(std::slice::from_ref(&listener))
        .expect("a thread");
    (pool, listener)
}

/// Returns settings with verbose logging, so that each command is logged.
fn verbose_session() -> SessionSettings {
    SessionSettings {
        host_name: "mx.test".to_owned(),
        primary_mail_host: "mx.test".to_owned(),
        allowed_hosts: AcceptedDomains::accepting_every_domain(),
        max_content_octets: 200_000,
        max_recipients: 10,
        recipient_limits: Arc::new(TableColumns::DEFAULT.columns_limiting_recipients()),
        recipient_hook: None,
        verbose: true,
    }
}

/// A logger that panics when it logs the command with [`POISON`].
struct PanickingLog;

impl Log for PanickingLog {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let line = record.key_values().get(Key::from_str("line"));
        let is_poison = line.is_some_and(|line| line.to_string().contains(POISON));
        assert!(!is_poison, "an intended panic");
    }

    fn flush(&self) {}
}

/// A store that panics when it saves a mail with subject [`POISON`].
struct PanickingStore;

impl SaveMail for PanickingStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        assert!(mail.subject() != POISON, "an intended panic");
        Ok(SavedId::from(mail.recipients()[0].hash))
    }
}

const POISON: &str = "poison";
