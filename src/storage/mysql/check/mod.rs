//! What would keep mail from being saved, or weakens what a 250 means, each with its cure.

use mysql::prelude::Queryable;

use super::error::Meaning;
use super::facts::Facts;
use super::hanging;
use super::link::Link;
use super::mail_ids::explain;
use super::member::HostState;
use super::pool::Connector;
use super::table_warnings::of_columns;
use crate::storage::finding::Finding;
use crate::storage::redis::cluster::ClusterReader;
use crate::storage::redis::{RedisPool, RedisReader, RedisSettings};
use crate::storage::{TableName, TableShape};

/// Looks at the database as the server would, and tries to save a row that is rolled back.
pub fn database(connector: &Connector, max_content_octets: usize) -> Vec<Finding> {
    let mut findings = of_nodes(connector);
    findings.extend(hanging::findings(connector));
    let mut link = match connector.connect_any() {
        Ok(link) => link,
        Err(error) => {
            return vec![Finding::error(format!(
                "MYSQL_HOST: the database cannot be reached: {error}; start it, or mend MYSQL_HOST, MYSQL_USER, \
                 MYSQL_PASS and MYSQL_DB"
            ))];
        }
    };
    let table = connector.table();
    findings.extend(of_facts(&link.facts, table, max_content_octets));
    let has_transactions = link.facts.engine.eq_ignore_ascii_case("InnoDB");
    if findings.iter().any(Finding::is_error) || !has_transactions {
        return findings;
    }
    if let Err(error) = try_insert(&mut link, table) {
        if Meaning::of(&error) == Meaning::IdsUsedUp {
            let ids = link.facts.mail_ids.as_ref();
            findings.push(Finding::error(explain(&error, table, ids)));
            return findings;
        }
        findings.push(Finding::error(format!(
            "GM_MAIL_TABLE: a row cannot be inserted into {table} now: {error}; grant INSERT and SELECT on it to \
             MYSQL_USER, on a server that is not read-only"
        )));
    } else if let Err(error) = try_look_up(&mut link, table) {
        findings.push(Finding::warning(format!(
            "GM_MAIL_TABLE: rows of {table} cannot be looked up under a lock: {error}; when a connection breaks during \
             COMMIT, its mails are told 451 and may come twice; grant SELECT and UPDATE on it to MYSQL_USER"
        )));
    }
    findings
}

/// The hosts that are not well, where there are several; what else there is to see is looked at on one that is.
fn of_nodes(connector: &Connector) -> Vec<Finding> {
    let nodes = connector.nodes();
    if nodes.count() == 1 {
        return Vec::new();
    }
    let look = |node| {
        let looked = connector.connect_to_look(node);
        let looked =
            looked.and_then(|mut connection| HostState::read(&mut connection, connector.table()));
        match looked.unwrap_or_else(|error| HostState::Unhealthy(error.to_string())) {
            HostState::Healthy => None,
            HostState::Standby(reason) => {
                nodes.stand_by(node, &reason);
                None
            }
            HostState::Unhealthy(reason) => Some(reason),
        }
    };
    let unwell = (0..nodes.count()).filter_map(|node| Some((node, look(node)?)));
    let finding = |(node, reason): (usize, String)| {
        nodes.leave(node, &reason);
        let name = nodes.name(node);
        Finding::warning(format!(
            "MYSQL_HOST: node {name} is not well: {reason}; those that are serve meanwhile; mend it, or take it out of \
             MYSQL_HOST"
        ))
    };
    unwell.map(finding).collect()
}

/// What the facts of a connection mean; the server says so in its log as well.
pub fn of_facts(facts: &Facts, table: &TableName, max_content_octets: usize) -> Vec<Finding> {
    let Some(shape) = &facts.shape else {
        let create = table
            .mysql_schema()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        return vec![Finding::error(format!(
            "GM_MAIL_TABLE: there is no table {table}, or MYSQL_USER may not see it; run what `goguerrilla schema` \
             prints: {create}"
        ))];
    };
    let mut findings = Vec::new();
    for column in &facts.missing_columns {
        findings.push(Finding::error(format!(
            "GM_MAIL_TABLE: {table} has no column `{column}`; add it as `goguerrilla schema` prints it, with \
             ALTER TABLE {table} ADD COLUMN"
        )));
    }
    for column in &facts.unfilled_columns {
        findings.push(Finding::error(format!(
            "GM_MAIL_TABLE: column `{column}` of {table} is NOT NULL without a default, so no row can be inserted; \
             run: ALTER TABLE {table} ALTER COLUMN `{column}` SET DEFAULT ''"
        )));
    }
    if shape.ip_addr.width.max() < LONGEST_IPV6 {
        findings.push(Finding::warning(format!(
            "GM_MAIL_TABLE: column `ip_addr` of {table} is too narrow for IPv6 addresses, which are left empty; run: \
             ALTER TABLE {table} MODIFY `ip_addr` varchar({}) NOT NULL",
            TableShape::PRINTED.ip_addr.width.max()
        )));
    }
    findings.extend(of_columns(facts, shape, table));
    if !facts.engine.is_empty() && !facts.engine.eq_ignore_ascii_case("InnoDB") {
        findings.push(Finding::warning(format!(
            "GM_MAIL_TABLE: {table} is {} and has no transactions, so a 250 is a weaker promise and half a batch may \
             be kept; run: ALTER TABLE {table} ENGINE=InnoDB",
            facts.engine
        )));
    }
    if !facts.commits_are_synced {
        findings.push(Finding::warning(
            "MYSQL_HOST: innodb_flush_log_at_trx_commit is not 1, so mail acknowledged in the last second is lost when \
             the database's machine fails; run: SET GLOBAL innodb_flush_log_at_trx_commit = 1"
                .to_owned(),
        ));
    }
    let fits = facts.max_content_octets();
    if fits < max_content_octets {
        let (what, cure) = if facts.max_body_octets < facts.max_packet_octets {
            let what = format!(
                "column `mail` of {table} ({} octets)",
                facts.max_body_octets
            );
            (
                what,
                format!("ALTER TABLE {table} MODIFY `mail` longblob NOT NULL"),
            )
        } else {
            let enough = (max_content_octets * 2).next_power_of_two().max(16 << 20);
            let what = format!(
                "max_allowed_packet of the database ({})",
                facts.max_packet_octets
            );
            (what, format!("SET GLOBAL max_allowed_packet = {enough}"))
        };
        findings.push(Finding::warning(format!(
            "GSMTP_MAX_SIZE: {what} cannot hold {max_content_octets} octets, so SIZE {fits} is advertised and enforced; \
             run: {cure}"
        )));
    }
    findings
}

/// Looks at Redis as the server would.
pub fn redis(settings: &RedisSettings) -> Vec<Finding> {
    match settings.urls.as_slice() {
        [url] => of_redis(url, settings.expire_seconds),
        _ => of_cluster(settings),
    }
}

/// Whatever is wrong with any node.
fn of_cluster(settings: &RedisSettings) -> Vec<Finding> {
    let mut cluster = match ClusterReader::open(settings) {
        Ok(cluster) => cluster,
        Err(error) => {
            return vec![Finding::warning(format!(
                "{error}; bodies go into column `mail` meanwhile; start the nodes of the Redis Cluster, or set \
                 REDIS_INTERFACE to \"\""
            ))];
        }
    };
    let addresses = cluster.addresses();
    let mut findings = Vec::new();
    for address in &addresses {
        let key = cluster.key_at(address, CHECK_KEY);
        match cluster.node(address) {
            Ok(node) => findings.extend(of_node(node, Some(address), key.as_deref())),
            Err(error) => findings.push(Finding::warning(format!(
                "{error}; its bodies go into column `mail` meanwhile; start it"
            ))),
        }
    }
    // One that has no slots, or goes by another name among those that have: it need only be there.
    for address in settings.addresses().filter(|one| !addresses.contains(one)) {
        if let Err(error) = cluster.node(&address) {
            findings.push(Finding::warning(format!(
                "{error}; it has no slots now; start it, or take it out of REDIS_INTERFACE"
            )));
        }
    }
    findings
}

fn of_redis(url: &str, expire_seconds: usize) -> Vec<Finding> {
    if let Err(error) = RedisPool::new(url, expire_seconds, 1) {
        return vec![Finding::error(error)];
    }
    match RedisReader::open(url) {
        Ok(mut redis) => of_node(&mut redis, None, Some(CHECK_KEY)),
        Err(error) => vec![Finding::warning(format!(
            "{error}; bodies go into column `mail` meanwhile; start Redis, or set REDIS_INTERFACE to \"\""
        ))],
    }
}

/// What is wrong with one Redis, which is a node of a cluster if it has an address; one without a key has no slots.
fn of_node(redis: &mut RedisReader, address: Option<&str>, key: Option<&str>) -> Vec<Finding> {
    let (name, cli) = match address {
        None => ("Redis".to_owned(), "redis-cli".to_owned()),
        Some(address) => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
            let host = host.trim_matches(['[', ']']);
            (
                format!("node {address}"),
                format!("redis-cli -h {host} -p {port}"),
            )
        }
    };
    let mut findings = Vec::new();
    let mut warn = |text: String| {
        findings.push(Finding::warning(format!("REDIS_INTERFACE: {text}")));
    };
    if let Some(key) = key
        && let Err(error) = redis.try_write(key)
    {
        warn(format!(
            "{name} does not take bodies: {error}; they go into column `mail` meanwhile"
        ));
    }
    if let Some(policy) = redis
        .info("memory", "maxmemory_policy")
        .filter(|policy| policy != "noeviction")
    {
        warn(format!(
            "maxmemory-policy of {name} is {policy}, which may drop bodies before their time; run: {cli} CONFIG SET \
             maxmemory-policy noeviction"
        ));
    }
    if redis.info("persistence", "aof_enabled").as_deref() == Some("0") {
        warn(format!(
            "{name} keeps no append-only file, so a body acknowledged there can be lost when it dies; run: {cli} CONFIG \
             SET appendonly yes, or set REDIS_INTERFACE to \"\" to keep bodies in MySQL"
        ));
    }
    if address.is_some() && redis.setting("cluster-require-full-coverage").as_deref() == Some("yes")
    {
        warn(format!(
            "{name} takes nothing while another node is missing (cluster-require-full-coverage); run: {cli} CONFIG SET \
             cluster-require-full-coverage no"
        ));
    }
    findings
}

fn try_insert(link: &mut Link, table: &TableName) -> mysql::Result<()> {
    let sql = format!(
        "INSERT INTO {table} (`date`,`from`,`to`,`subject`,`body`,`charset`,`mail`,`spam_score`,`hash`,`content_type`,\
         `recipient`,`has_attach`,`ip_addr`,`delivered`,`attach_info`,`dkim_valid`)
         VALUES (NOW(),'','','','','','',0,'','','',0,'',0,'',NULL)"
    );
    try_in_transaction(link, &sql)
}

/// What is asked after a COMMIT whose outcome is unknown.
fn try_look_up(link: &mut Link, table: &TableName) -> mysql::Result<()> {
    let sql = format!("SELECT `hash` FROM {table} WHERE `hash` IN ('') FOR UPDATE");
    try_in_transaction(link, &sql)
}

fn try_in_transaction(link: &mut Link, sql: &str) -> mysql::Result<()> {
    link.call(|connection| {
        connection.query_drop("START TRANSACTION")?;
        let tried = connection.query_drop(sql);
        connection.query_drop("ROLLBACK")?;
        tried
    })
}

/// Characters of an IPv6 address written out.
const LONGEST_IPV6: usize = 39;
/// What `check` writes and takes back; in a cluster a number stands behind it.
const CHECK_KEY: &str = "goguerrilla:check";
