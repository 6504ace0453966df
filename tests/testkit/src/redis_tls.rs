//! Redis and a Redis Cluster that speak TLS on a port of their own. The other port is for the test itself.

use super::certificates::{Authority, Pair};
use super::ports::free_port;
use super::redis::{Redis, RedisCluster};

/// A Redis with a port for TLS.
pub struct TlsRedis {
    pub redis: Redis,
    pub tls_port: u16,
}

impl TlsRedis {
    /// Starts a server that shows this certificate to clients and requires none of them. `options` come last.
    pub fn start(pair: &Pair, options: &[&str]) -> TlsRedis {
        let tls_port = free_port();
        let own = tls_options(pair, &pair.chain.display().to_string(), tls_port);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        TlsRedis {
            redis: Redis::start_with(&[&own[..], options].concat()),
            tls_port,
        }
    }

    /// Returns the value of REDIS_INTERFACE with this login, such as `user:pass@`, and host.
    pub fn url(&self, login: &str, host: &str) -> String {
        format!("rediss://{login}{host}:{}", self.tls_port)
    }
}

/// A Redis Cluster whose nodes speak TLS with clients and with each other.
pub struct TlsRedisCluster {
    pub cluster: RedisCluster,
    pub tls_ports: Vec<u16>,
}

impl TlsRedisCluster {
    /// Starts a cluster in which each node shows the certificate of its number and has these options too.
    pub fn start(authority: &Authority, pairs: &[Pair; 3], own: &[&str]) -> TlsRedisCluster {
        let tls_ports: Vec<u16> = pairs.iter().map(|_| free_port()).collect();
        let ca = authority.file.display().to_string();
        let options = |node: usize| {
            let mut options = tls_options(&pairs[node], &ca, tls_ports[node]);
            options.extend(["--tls-cluster", "yes"].map(str::to_owned));
            options.extend(own.iter().map(|&option| option.to_owned()));
            options
        };
        let cluster = RedisCluster::start_nodes(options, Some(&tls_ports));
        TlsRedisCluster { cluster, tls_ports }
    }

    /// Returns the value of REDIS_INTERFACE for all nodes, which are reached as `host`.
    pub fn urls(&self, host: &str) -> String {
        let urls: Vec<String> = (self.tls_ports.iter())
            .map(|port| format!("rediss://{host}:{port}"))
            .collect();
        urls.join(",")
    }
}

fn tls_options(pair: &Pair, ca: &str, port: u16) -> Vec<String> {
    let (chain, key) = (pair.chain.display(), pair.key.display());
    let options = format!(
        "--tls-port {port} --tls-cert-file {chain} --tls-key-file {key} --tls-ca-cert-file {ca} --tls-auth-clients no"
    );
    options.split(' ').map(str::to_owned).collect()
}
