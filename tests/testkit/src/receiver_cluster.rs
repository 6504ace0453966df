//! A cluster of HAProxy, two receivers, three Galera nodes and three Redis Cluster nodes, whose members are killed under load.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::feed_ledger::FeedLedger;
use crate::galera::Galera;
use crate::galera_faults::{
    RECOVERY_LIMIT, assert_fast_failover, assert_no_acknowledged_mail_lost, mails_in,
    stored_markers, summary,
};
use crate::load::{Load, PlainClient, content_of};
use crate::mariadb::{program, with_hosts};
use crate::old_rows::{KEEP_DAYS, OldRows, Removal};
use crate::ports::free_address;
use crate::project_files::{dist_file, with};
use crate::proxies::ProxyProcess;
use crate::redis::RedisCluster;
use crate::soak_settings::{DurableCluster, STREAM};
use crate::store::inflate;
use crate::throughput::Rate;
use crate::{Server, wait_for, wait_for_within, without_trace};

/// Number of concurrent sessions in the soak tests.
const SESSIONS: usize = 50;

/// The longest wait for the end of a round of retention: ten times the minute after which a receiver begins.
const REMOVAL_LIMIT: Duration = Duration::from_secs(600);

/// The marker of the mail whose content is being sent when its receiver gets SIGTERM.
const IN_PROGRESS: &str = "under way";

/// Runs fifty sessions for at least a minute while each process is killed and restarted, twice, and until the receivers have
/// removed old rows.
pub fn soak_without_loss(mut cluster: Cluster, mut redis: Option<&mut RedisCluster>) {
    let mut removal = Removal::default();
    removal.begin_round(&cluster.galera);
    cluster.receive_all_from_smtp_source(redis.as_deref_mut());

    let started_at = Instant::now();
    let load = Load::start(cluster.balancer, SESSIONS, "soak");
    load.wait_for_more_within(SESSIONS * 5, RECOVERY_LIMIT);
    let mut healed = RecoveryTimes::default();
    for round in 0..2 {
        let before = Rate::measure(&load);
        let lost_at = Instant::now();
        cluster.galera.kill(round);
        if round == 0 {
            // Both receivers write to node 0.
            let host = cluster.galera.host(0);
            cluster
                .receivers
                .iter()
                .for_each(|receiver| assert_fast_failover(receiver, &host, lost_at));
        }
        healed.wait("node killed", before, &load, lost_at);
        cluster.galera.run(round);
        healed.wait("restarted", before, &load, Instant::now());

        if let Some(redis) = &mut redis {
            let before = Rate::measure(&load);
            redis.nodes[round].kill();
            healed.wait("Redis killed", before, &load, Instant::now());
            redis.nodes[round].run();
            healed.wait("restarted", before, &load, Instant::now());
        }

        let before = Rate::measure(&load);
        cluster.receivers[round].kill();
        healed.wait("receiver killed", before, &load, Instant::now());
        cluster.restart_receiver(round);
        healed.wait("restarted", before, &load, Instant::now());
    }
    // The soak lasts at least a minute.
    while started_at.elapsed() < Duration::from_secs(60) {
        load.wait_for_more_within(SESSIONS, RECOVERY_LIMIT);
    }
    wait_for_within("the old rows to be removed", REMOVAL_LIMIT, || {
        (cluster.galera.rows_older_than(KEEP_DAYS) == 0).then_some(())
    });
    let took = started_at.elapsed();
    let (account, stored) = (load.stop(), stored_markers(&cluster.galera));
    assert_no_acknowledged_mail_lost(&account, &stored);
    crate::note!(
        "cluster {} Redis, {SESSIONS} sessions for {} s: {}; half of the rate was back after {}",
        if redis.is_some() { "with" } else { "without" },
        took.as_secs(),
        summary(&account, &stored),
        healed.0.join(", ")
    );
    removal.assert_only_too_old_rows_are_gone(&cluster.galera);
    // Each receiver writes its last entries before it ends.
    for receiver in &mut cluster.receivers {
        assert!(receiver.stop().success());
    }
    let mails = mails_in(&cluster.galera);
    cluster.feed.finish_readers();
    cluster.feed.assert_each_has_a_row(&mails);
    if let Some(redis) = redis {
        redis.wait_until_all_slots_are_served();
        assert_bodies_are_whole(&cluster.galera, redis);
        let slot: usize = redis.nodes[0].command(&["CLUSTER", "KEYSLOT", STREAM]);
        let owner = &redis.nodes[RedisCluster::initial_owner(slot)];
        FeedLedger::of_stream(owner, STREAM).assert_each_has_a_row(&mails);
    }
}

/// The time until half of the former rate was reached again, for each event.
#[derive(Default)]
struct RecoveryTimes(Vec<String>);

impl RecoveryTimes {
    fn wait(&mut self, what: &str, before: Rate, load: &Load, lost_at: Instant) {
        let took = before.recovery_time(load, lost_at, RECOVERY_LIMIT);
        let seconds = took.as_secs_f64();
        crate::note!("{what}: {before}, half of it back after {seconds:.1} s");
        self.0.push(format!("{seconds:.1} s ({what})"));
        assert!(took < RECOVERY_LIMIT, "{what}: {took:?}");
    }
}

/// Asserts that Redis has every body that a row refers to, octet for octet.
fn assert_bodies_are_whole(galera: &Galera, redis: &RedisCluster) {
    let rows =
        "SELECT subject, hash FROM new_mail WHERE body = 'redis' AND `from` = 'a@client.test'";
    let rows: Vec<(String, String)> = galera.connection(0).query(rows).expect("rows");
    let mut reader = redis.reader();
    for (marker, hash) in &rows {
        let stream = reader.body(hash);
        let stream = stream.unwrap_or_else(|| panic!("the body of {marker}, {hash}, is missing"));
        let mail = inflate(&stream);
        assert_eq!(without_trace(&mail), content_of(marker).as_bytes());
    }
    crate::note!("{} bodies are in Redis and unchanged", rows.len());
    assert!(!rows.is_empty());
}

pub fn assert_no_loss_when_members_are_killed(
    mut cluster: Cluster,
    mut redis: Option<&mut RedisCluster>,
) {
    let uses_redis = redis.is_some();
    let load = Load::start(cluster.balancer, 8, "cluster");
    load.wait_for_more_within(50, RECOVERY_LIMIT);

    cluster.galera.kill(0);
    assert_mail_flows_again(&load, "a Galera node");
    cluster.galera.run(0);
    load.wait_for_more_within(50, RECOVERY_LIMIT);

    if let Some(redis) = &mut redis {
        redis.nodes[0].kill();
        assert_mail_flows_again(&load, "a Redis node");
        redis.nodes[0].run();
        load.wait_for_more_within(50, RECOVERY_LIMIT);
    }

    cluster.receivers[0].kill();
    assert_mail_flows_again(&load, "a receiver");
    cluster.restart_receiver(0);
    load.wait_for_more_within(50, RECOVERY_LIMIT);

    drain(&mut cluster, 1);
    assert_mail_flows_again(&load, "a receiver that drained");

    let mut account = load.stop();
    account.sent.push(IN_PROGRESS.to_owned());
    account.acknowledged.push(IN_PROGRESS.to_owned());
    let stored = stored_markers(&cluster.galera);
    assert_no_acknowledged_mail_lost(&account, &stored);
    crate::note!("{}", summary(&account, &stored));
    let in_redis = "SELECT COUNT(*) FROM new_mail WHERE body = 'redis'";
    let in_redis: Option<u64> = cluster
        .galera
        .connection(0)
        .query_first(in_redis)
        .expect("rows");
    assert_eq!(in_redis > Some(0), uses_redis, "{in_redis:?}");
    if let Some(redis) = redis {
        // `list` shows a size for every mail only when all Redis nodes answer.
        redis.wait_until_all_slots_are_served();
    }
    assert_mail_ids_are_unique_and_listed(&cluster);
}

/// Asserts that every hash is unique across both receivers and works with `list` and `show` on each of them. Also
/// asserts that mail_id has gaps, as always in a Galera cluster.
fn assert_mail_ids_are_unique_and_listed(cluster: &Cluster) {
    let rows = "SELECT hash, subject, body, mail_id FROM new_mail";
    let rows: Vec<(String, String, String, u64)> =
        cluster.galera.connection(0).query(rows).expect("rows");
    let hashes: BTreeSet<&str> = rows.iter().map(|(hash, ..)| hash.as_str()).collect();
    assert_eq!(hashes.len(), rows.len(), "a duplicate hash");
    let numbers = rows.iter().map(|(.., number)| *number);
    let (first, last) = (numbers.clone().min(), numbers.max());
    let between = last.expect("rows") - first.expect("rows") + 1;
    assert!(
        between > rows.len() as u64,
        "mail_id has no gaps, unlike in a Galera cluster"
    );
    for receiver in &cluster.receivers {
        let listed = receiver.list();
        let listed = listed.iter().map(|mail| mail["hash"].as_str());
        let listed: BTreeSet<&str> = listed.map(|hash| hash.expect("a hash")).collect();
        assert_eq!(listed, hashes);
        let (hash, marker, ..) = rows
            .iter()
            .find(|(_, _, body, _)| body == "gzencode")
            .expect("some are in the table");
        let shown = receiver.show(hash);
        assert_eq!(without_trace(&shown), content_of(marker).as_bytes());
    }
}

/// Asserts that a draining receiver gets no new connections and finishes the mail in progress.
fn drain(cluster: &mut Cluster, receiver: usize) {
    let mut busy = PlainClient::connect(cluster.single[receiver]).expect("HAProxy");
    // This session keeps the receiver draining until it ends.
    for (line, code) in [
        ("EHLO client.test\r\n", 250),
        ("MAIL FROM:<a@client.test>\r\n", 250),
        ("RCPT TO:<u@ours.test>\r\n", 250),
        ("DATA\r\n", 354),
    ] {
        busy.command(line, code).expect("a reply");
    }
    let said_before = cluster.haproxy.log().len();
    cluster.receivers[receiver].signal(Signal::SIGTERM);
    wait_for("HAProxy to mark the receiver down", || {
        let name = format!("Server smtp/mx{} is DOWN", receiver + 1);
        cluster.haproxy.log()[said_before..]
            .contains(&name)
            .then_some(())
    });
    for _ in 0..10 {
        let mut client = PlainClient::connect(cluster.balancer).expect("a greeting");
        client.command("QUIT\r\n", 221).expect("a reply to QUIT");
    }
    let content = content_of(IN_PROGRESS) + ".\r\n";
    busy.send(content.as_bytes()).expect("sent");
    assert_eq!(busy.read_code().expect("a reply"), 250);
    drop(busy);
    assert!(cluster.receivers[receiver].wait().success());
}

/// Waits until 100 more mails are acknowledged, which is more than were in progress.
fn assert_mail_flows_again(load: &Load, lost: &str) {
    let lost_at = Instant::now();
    load.wait_for_more_within(100, RECOVERY_LIMIT);
    let took = lost_at.elapsed();
    crate::note!("{lost} lost: 100 mails more after {took:?}");
    assert!(took < RECOVERY_LIMIT, "{lost}: {took:?}");
}

pub struct Cluster {
    galera: Galera,
    receivers: Vec<Server>,
    /// The settings of each receiver. The addresses stay the same after a restart, because HAProxy's configuration
    /// contains them.
    settings: Vec<Vec<(String, String)>>,
    haproxy: ProxyProcess,
    balancer: SocketAddr,
    /// The HAProxy port that leads to one receiver only.
    single: Vec<SocketAddr>,
    /// The entries of `/feed` of all receivers, if the feed is on.
    feed: FeedLedger,
}

impl Cluster {
    /// Starts the cluster with dist/haproxy-receivers.cfg.
    pub fn start(redis: &str) -> Cluster {
        let redis = vec![("REDIS_INTERFACE", redis.to_owned())];
        Cluster::start_at(Galera::start(), &redis)
    }

    /// Starts the cluster with hold, feed, retention and TLS to the databases.
    pub fn start_with_soak_settings(redis: Option<&DurableCluster>) -> Cluster {
        let redis = redis.map_or_else(Vec::new, DurableCluster::settings);
        let mut cluster = Cluster::start_at(Galera::start_with_soak_settings(), &redis);
        for receiver in &cluster.receivers {
            cluster.feed.read_from(receiver);
        }
        cluster
    }

    fn start_at(galera: Galera, redis: &[(&'static str, String)]) -> Cluster {
        let settings: Vec<_> = (0..2).map(|_| settings_of(&galera, redis)).collect();
        let receivers: Vec<Server> = settings.iter().map(|one| start_receiver(one)).collect();
        let address = || free_address(Ipv4Addr::LOCALHOST.into());
        let balancer = address();
        let single = vec![address(), address()];
        let status = |receiver: usize| value_of(&settings[receiver], "GM_STATUS_INTERFACE");
        let port = |receiver: usize| {
            status(receiver)
                .rsplit(':')
                .next()
                .expect("a port")
                .to_owned()
        };
        let block = with(
            &dist_file("haproxy-receivers.cfg"),
            &[
                (
                    "mode tcp",
                    "mode tcp\n    log global\n    retries 3\n    option redispatch",
                ),
                ("bind :::25 v4v6", &format!("bind {balancer}")),
                ("192.0.2.1:25", &receivers[0].address.to_string()),
                ("192.0.2.2:25", &receivers[1].address.to_string()),
                ("inter 1s", "inter 100ms"),
            ],
        );
        let block = block.replacen("port 9125", &format!("port {}", port(0)), 1);
        let block = block.replacen("port 9125", &format!("port {}", port(1)), 1);
        let mut config = format!("global\n    log stdout format raw local0\n{block}");
        for (receiver, address) in single.iter().enumerate() {
            let to = receivers[receiver].address;
            config += &format!(
                "\nlisten single{receiver}\n    bind {address}\n    server one {to} send-proxy-v2\n"
            );
        }
        let folder = TempDir::new().expect("a temporary folder");
        let haproxy = ProxyProcess::haproxy(folder, &config, &[]);
        wait_for("HAProxy to forward a connection", || {
            let mut client = PlainClient::connect(balancer).ok()?;
            client.command("QUIT\r\n", 221).ok()
        });
        Cluster {
            galera,
            receivers,
            settings,
            haproxy,
            balancer,
            single,
            feed: FeedLedger::default(),
        }
    }

    /// Receives all mails of Postfix's smtp-source, which exits at the first unexpected reply or closed connection. It
    /// therefore does not tolerate the loss of a Galera node or a receiver, but it must not notice the loss of a Redis
    /// node.
    fn receive_all_from_smtp_source(&self, redis: Option<&mut RedisCluster>) {
        const MAILS: u64 = 5_000;
        let (sessions, mails) = (SESSIONS.to_string(), MAILS.to_string());
        crate::needs_program("smtp-source");
        let mut source = Command::new("timeout")
            .args(["120", &program("smtp-source"), "-M", "client.test"])
            .args(["-s", &sessions, "-m", &mails, "-l", "400"])
            .args(["-f", "source@client.test", "-t", "u@ours.test"])
            .arg(self.balancer.to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("smtp-source is installed: tests/install-tools");
        let mut connection = self.galera.connection(0);
        let mut stored = || -> u64 {
            let count = "SELECT COUNT(*) FROM new_mail WHERE `from` = 'source@client.test'";
            let count = connection.query_first(count).expect("rows");
            count.expect("a figure")
        };
        let started_at = Instant::now();
        if let Some(redis) = redis {
            wait_for("the first mails of smtp-source", || {
                (stored() > 500).then_some(())
            });
            redis.nodes[2].kill();
            let is_over = source.try_wait().expect("a child process").is_some();
            assert!(!is_over, "smtp-source ended before a Redis node was killed");
            wait_for("more mails of smtp-source", || {
                (stored() > 2_000).then_some(())
            });
            redis.nodes[2].run();
        }
        assert!(source.wait().expect("a child process").success());
        assert_eq!(stored(), MAILS);
        crate::note!("smtp-source: {MAILS} mails in {:?}", started_at.elapsed());
    }

    fn restart_receiver(&mut self, receiver: usize) {
        // If the receiver restarted before HAProxy noticed its end, HAProxy would never report it as up again.
        wait_for("HAProxy to mark the receiver down", || {
            let log = self.haproxy.log();
            let last =
                |state: &str| log.rfind(&format!("Server smtp/mx{} is {state}", receiver + 1));
            (last("DOWN") > last("UP")).then_some(())
        });
        let said_before = self.haproxy.log().len();
        self.receivers[receiver] = start_receiver(&self.settings[receiver]);
        if self.galera.has_soak_settings() {
            self.feed.read_from(&self.receivers[receiver]);
        }
        wait_for_within("HAProxy to mark the receiver up", RECOVERY_LIMIT, || {
            let name = format!("Server smtp/mx{} is UP", receiver + 1);
            self.haproxy.log()[said_before..]
                .contains(&name)
                .then_some(())
        });
    }
}

fn settings_of(galera: &Galera, redis: &[(&'static str, String)]) -> Vec<(String, String)> {
    let address = || free_address(Ipv4Addr::LOCALHOST.into()).to_string();
    let (hosts, smtp, status) = (galera.hosts(), address(), address());
    let own = [
        ("GSTMP_LISTEN_INTERFACE", smtp.as_str()),
        ("GM_STATUS_INTERFACE", status.as_str()),
        ("GSMTP_PROXY_PROTOCOL", "Y"),
        ("GM_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let redis = redis.iter().map(|(key, value)| (*key, value.as_str()));
    let all = with_hosts(&hosts, &[&galera.settings()[..], &own].concat());
    all.into_iter()
        .chain(redis)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn start_receiver(settings: &[(String, String)]) -> Server {
    let borrowed: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    Server::start(&borrowed)
}

fn value_of<'a>(settings: &'a [(String, String)], key: &str) -> &'a str {
    // A later value replaces an earlier one.
    let found = settings.iter().rfind(|(name, _)| name == key);
    &found.expect("a key that was set").1
}
