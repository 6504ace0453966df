//! A fleet: two receivers with one configuration behind HAProxy, on three nodes of Galera and three of Redis. Whatever is
//! killed, every 250 is in the cluster once, and mail flows again within ten seconds.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::galera::{assert_promise_kept, stored_markers};
use crate::support::front::{FrontServer, block_of_readme, with};
use crate::support::galera::Galera;
use crate::support::load::{Load, PlainClient, content_of};
use crate::support::mariadb::with_hosts;
use crate::support::ports::free_address;
use crate::support::redis::RedisCluster;
use crate::support::{Server, wait_for, wait_for_within};

/// How soon mail is saved again, whatever was lost. The promise is ten seconds; the rest is for a build without optimisation
/// that shares two cores with all it talks to, and with other tests.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// The marker of a mail that was in the middle when its receiver was told to stop.
const UNDER_WAY: &str = "under way";

#[test]
fn whatever_is_killed_the_fleet_keeps_its_promise() {
    let mut cluster = RedisCluster::start();
    let fleet = Fleet::start(&cluster.addresses());
    keep_the_promise(fleet, Some(&mut cluster));
}

#[test]
fn without_redis_it_keeps_it_as_well() {
    keep_the_promise(Fleet::start(""), None);
}

fn keep_the_promise(mut fleet: Fleet, redis: Option<&mut RedisCluster>) {
    let uses_redis = redis.is_some();
    let load = Load::start(fleet.front, 8, "fleet");
    load.wait_for_more(50);

    fleet.galera.kill(0);
    flows_again(&load, "a node");
    fleet.galera.run(0);
    load.wait_for_more(50);

    if let Some(redis) = redis {
        redis.nodes[0].kill();
        flows_again(&load, "a Redis");
        redis.nodes[0].run();
        load.wait_for_more(50);
    }

    fleet.receivers[0].kill();
    flows_again(&load, "a receiver");
    fleet.start_receiver_again(0);
    load.wait_for_more(50);

    drain(&mut fleet, 1);
    flows_again(&load, "a receiver that drained");

    let mut account = load.stop();
    account.sent.push(UNDER_WAY.to_owned());
    account.acknowledged.push(UNDER_WAY.to_owned());
    assert_promise_kept(&account, &stored_markers(&fleet.galera));
    let in_redis = "SELECT COUNT(*) FROM new_mail WHERE body = 'redis'";
    let in_redis: Option<u64> = fleet
        .galera
        .connection(0)
        .query_first(in_redis)
        .expect("rows");
    assert_eq!(in_redis > Some(0), uses_redis, "{in_redis:?}");
}

/// One that drains gets no new connections, and finishes what it took.
fn drain(fleet: &mut Fleet, receiver: usize) {
    let mut busy = PlainClient::connect(fleet.single[receiver]).expect("HAProxy");
    // It holds the receiver in its draining until it leaves.
    for (line, code) in [
        ("EHLO client.test\r\n", 250),
        ("MAIL FROM:<a@client.test>\r\n", 250),
        ("RCPT TO:<u@ours.test>\r\n", 250),
        ("DATA\r\n", 354),
    ] {
        busy.command(line, code).expect("a reply");
    }
    let said_before = fleet.haproxy.log().len();
    fleet.receivers[receiver].signal(Signal::SIGTERM);
    wait_for("the balancer to notice", || {
        let name = format!("Server smtp/mx{} is DOWN", receiver + 1);
        fleet.haproxy.log()[said_before..]
            .contains(&name)
            .then_some(())
    });
    for _ in 0..10 {
        let mut client = PlainClient::connect(fleet.front).expect("a greeting");
        client.command("QUIT\r\n", 221).expect("a goodbye");
    }
    let content = content_of(UNDER_WAY) + ".\r\n";
    busy.send(content.as_bytes()).expect("sent");
    assert_eq!(busy.read_code().expect("a reply"), 250);
    drop(busy);
    assert!(fleet.receivers[receiver].wait().success());
}

/// The rate is back: more mails in a row than were under way.
fn flows_again(load: &Load, lost: &str) {
    let lost_at = Instant::now();
    load.wait_for_more(100);
    let took = lost_at.elapsed();
    println!("{lost} lost: 100 mails more after {took:?}");
    assert!(took < HEALED_WITHIN, "{lost}: {took:?}");
}

struct Fleet {
    galera: Galera,
    receivers: Vec<Server>,
    /// Their addresses do not change when they start again, for the balancer knows them.
    settings: Vec<Vec<(String, String)>>,
    haproxy: FrontServer,
    front: SocketAddr,
    /// HAProxy's way to each receiver alone.
    single: Vec<SocketAddr>,
}

impl Fleet {
    /// HAProxy as the README says.
    fn start(redis: &str) -> Fleet {
        let galera = Galera::start();
        let settings: Vec<_> = (0..2)
            .map(|_| settings_of(&galera.hosts(), redis))
            .collect();
        let receivers: Vec<Server> = settings.iter().map(|one| start_receiver(one)).collect();
        let address = || free_address(Ipv4Addr::LOCALHOST.into());
        let front = address();
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
            &block_of_readme("option httpchk GET /readyz"),
            &[
                (
                    "mode tcp",
                    "mode tcp\n    log global\n    retries 3\n    option redispatch",
                ),
                ("bind :::25 v4v6", &format!("bind {front}")),
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
        let haproxy = FrontServer::haproxy(folder, &config, &[]);
        wait_for("HAProxy to pass us on", || {
            let mut client = PlainClient::connect(front).ok()?;
            client.command("QUIT\r\n", 221).ok()
        });
        Fleet {
            galera,
            receivers,
            settings,
            haproxy,
            front,
            single,
        }
    }

    fn start_receiver_again(&mut self, receiver: usize) {
        let said_before = self.haproxy.log().len();
        self.receivers[receiver] = start_receiver(&self.settings[receiver]);
        wait_for_within("the receiver to be used again", HEALED_WITHIN, || {
            let name = format!("Server smtp/mx{} is UP", receiver + 1);
            self.haproxy.log()[said_before..]
                .contains(&name)
                .then_some(())
        });
    }
}

fn settings_of(hosts: &str, redis: &str) -> Vec<(String, String)> {
    let address = || free_address(Ipv4Addr::LOCALHOST.into()).to_string();
    let (smtp, status) = (address(), address());
    let own = [
        ("GSTMP_LISTEN_INTERFACE", smtp.as_str()),
        ("GM_STATUS_INTERFACE", status.as_str()),
        ("REDIS_INTERFACE", redis),
        ("GSMTP_PROXY_PROTOCOL", "Y"),
        ("GM_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let all = with_hosts(hosts, &own);
    all.into_iter()
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
    let found = settings.iter().find(|(name, _)| name == key);
    &found.expect("a key that was set").1
}
