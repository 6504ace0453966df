//! The settings of `make soak`: hold, feed, retention and TLS to the databases, all turned on.

use tempfile::TempDir;

use crate::certificates::{Authority, Pair};
use crate::mariadb::{EXISTING_TABLE, MariaDb};
use crate::redis::RedisCluster;
use crate::redis_tls::{TlsRedis, TlsRedisCluster};
use crate::status::STATUS;

/// The keys that do not depend on the store. A test with a Redis stream sets GM_FEED to [`STREAM`] after them.
pub const SOAK_SETTINGS: &[(&str, &str)] = &[
    ("GM_HOLD_SECONDS", "10"),
    // `old_rows::KEEP_DAYS`.
    ("GM_KEEP_DAYS", "30"),
    STATUS,
    ("GM_FEED", "http"),
    // No entry of a soak is dropped.
    ("GM_FEED_LENGTH", "10000000"),
];

/// The name of the Redis stream.
pub const STREAM: &str = "new_mail";

/// An authority that issues certificates for databases on 127.0.0.1.
pub struct LoopbackAuthority {
    authority: Authority,
    /// The PEM file of its own certificate.
    pub ca: String,
    _folder: TempDir,
}

impl LoopbackAuthority {
    /// Makes the authority.
    pub fn make() -> LoopbackAuthority {
        let folder = TempDir::new().expect("a temporary folder");
        let authority = Authority::make(folder.path(), "authority");
        LoopbackAuthority {
            ca: authority.file.display().to_string(),
            authority,
            _folder: folder,
        }
    }

    /// Issues a certificate.
    pub fn pair(&self, name: &str) -> Pair {
        self.authority.issue(name, &["127.0.0.1"], 90)
    }

    /// Returns the keys for verified TLS to MariaDB.
    pub fn mysql_settings(&self) -> [(&str, &str); 2] {
        [("MYSQL_TLS", "Y"), ("MYSQL_CA", &self.ca)]
    }
}

/// The databases of rounds of kill -9: a Redis that speaks TLS, and the certificate of a MariaDB.
pub struct TlsDatabases {
    authority: LoopbackAuthority,
    pub redis: TlsRedis,
    url: String,
}

impl TlsDatabases {
    /// Starts Redis.
    pub fn start() -> TlsDatabases {
        let authority = LoopbackAuthority::make();
        let redis = TlsRedis::start(&authority.pair("redis"), &[]);
        TlsDatabases {
            url: redis.url("", "127.0.0.1"),
            authority,
            redis,
        }
    }

    /// Starts MariaDB with the table of existing installations.
    pub fn start_mariadb(&self) -> MariaDb {
        let pair = self.authority.pair("mariadb");
        let options = [
            format!("--ssl-cert={}", pair.chain.display()),
            format!("--ssl-key={}", pair.key.display()),
        ];
        let database = MariaDb::start_with(&options.each_ref().map(String::as_str));
        database.sql(EXISTING_TABLE);
        database
    }

    /// Returns the keys of a server with these databases.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        let stream = [
            ("GM_FEED", STREAM),
            ("REDIS_INTERFACE", &self.url),
            ("REDIS_CA", &self.authority.ca),
        ];
        [SOAK_SETTINGS, &stream, &self.authority.mysql_settings()].concat()
    }
}

/// A Redis Cluster that speaks TLS and keeps every body and entry when a node is killed, so that all can be checked at the end.
pub struct DurableCluster {
    authority: LoopbackAuthority,
    tls: TlsRedisCluster,
}

impl DurableCluster {
    /// Starts the nodes.
    pub fn start() -> DurableCluster {
        let authority = LoopbackAuthority::make();
        let pairs = ["node0", "node1", "node2"].map(|name| authority.pair(name));
        let kept = ["--appendonly", "yes", "--appendfsync", "always"];
        let tls = TlsRedisCluster::start(&authority.authority, &pairs, &kept);
        DurableCluster { authority, tls }
    }

    /// Returns the nodes.
    pub fn cluster(&mut self) -> &mut RedisCluster {
        &mut self.tls.cluster
    }

    /// Returns the keys of a server with this cluster.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("GM_FEED", STREAM.to_owned()),
            ("REDIS_INTERFACE", self.tls.urls("127.0.0.1")),
            ("REDIS_CA", self.authority.ca.clone()),
        ]
    }
}
