//! The fix for each error that Redis sends.

use crate::check::peer::{DetectedServerProtocol, redis_refusal_on_connect};

/// Returns how to fix the problem that a Redis error reports; `None` if the error is unknown.
pub fn redis_error_fix(error: &str) -> Option<&'static str> {
    let line = FIXES.iter().find(|(part, _)| error.contains(part));
    line.map(|(_, fix)| *fix)
}

/// Returns the cause, with its fix, if another protocol than Redis answers at `address`, or if Redis refused the connection
/// before the first command. Returns `None` for any other cause, and if `error` itself says the cause. `uses_tls` is whether
/// TLS was expected at `address`.
pub fn explain_redis_connection_error(
    uses_tls: bool,
    address: &str,
    error: &str,
) -> Option<String> {
    let connect_errors = [
        "refused",
        "timed out",
        "No such file",
        "unreachable",
        "resolve",
        "lookup",
        "certificate",
    ];
    if redis_error_fix(error).is_some() || connect_errors.iter().any(|word| error.contains(word)) {
        return None;
    }
    match DetectedServerProtocol::detect_server_protocol(address)? {
        DetectedServerProtocol::Tls if uses_tls => None,
        DetectedServerProtocol::Redis if uses_tls => Some(
            "it answers without TLS; name its tls-port in REDIS_INTERFACE, or write redis:// instead of rediss://".to_owned(),
        ),
        DetectedServerProtocol::Redis => {
            let refusal = redis_refusal_on_connect(address)?;
            let fix = redis_error_fix(&refusal).map(|fix| format!("; {fix}"));
            Some(refusal + &fix.unwrap_or_default())
        }
        DetectedServerProtocol::Tls => Some(
            "it answers like TLS; write rediss://host:port in REDIS_INTERFACE, or name its port without TLS"
                .to_owned(),
        ),
        peer => Some(format!(
            "it answers like {peer}; REDIS_INTERFACE must be the address of a Redis, such as 127.0.0.1:6379"
        )),
    }
}

const PASSWORD_FIX: &str = "correct user and password in REDIS_INTERFACE: redis://user:pass@host:port/db, or redis://:pass@host:port/db for \
     the default user";
const DATABASE_FIX: &str = "the number after the last / of REDIS_INTERFACE must be below `databases` of that Redis, which is 16 by default \
     (in a Valkey cluster `cluster-databases`, 1 by default); 0 always exists";
const NO_PASSWORD_FIX: &str =
    "take the password out of REDIS_INTERFACE, or set one in Redis: requirepass, or an ACL user";

/// A part of an error's text, and the fix. The first entry whose part occurs in the text is used.
const FIXES: &[(&str, &str)] = &[
    ("called without any password configured", NO_PASSWORD_FIX),
    ("but no password is set", NO_PASSWORD_FIX),
    ("NOAUTH ", PASSWORD_FIX),
    ("WRONGPASS ", PASSWORD_FIX),
    ("ERR invalid password", PASSWORD_FIX),
    (
        "for 'auth' command",
        "this Redis has no users: write redis://:pass@host:port/db in REDIS_INTERFACE",
    ),
    (
        "NOPERM ",
        "allow SETEX, GET, DEL, INFO and every key to that user: ACL SETUSER ... ~* +setex +get +del +info +ping +select",
    ),
    ("ERR DB index is out of range", DATABASE_FIX),
    ("ERR invalid DB index", DATABASE_FIX),
    (
        "ERR SELECT is not allowed in cluster mode",
        "name no database after the last / of REDIS_INTERFACE: a cluster has only 0",
    ),
    (
        "cluster support disabled",
        "name one host:port in REDIS_INTERFACE: several are the nodes of one Redis Cluster",
    ),
    (
        "MOVED ",
        "it is a node of a Redis Cluster: name several of its nodes in REDIS_INTERFACE, comma separated",
    ),
    ("LOADING ", "wait until Redis has read its data from disk"),
    (
        "MISCONF ",
        "free space where Redis saves its data (CONFIG GET dir, its log says more), or run: redis-cli CONFIG SET stop-writes-on-bgsave-error no",
    ),
    (
        "READONLY ",
        "name the master in REDIS_INTERFACE: this one is a replica",
    ),
    (
        "MASTERDOWN ",
        "name the master in REDIS_INTERFACE: this one is a replica whose master is down",
    ),
    (
        "OOM ",
        "raise maxmemory of Redis, lower REDIS_EXPIRE_SECONDS, or set REDIS_INTERFACE to \"\"",
    ),
    (
        "CLUSTERDOWN ",
        "start the nodes that are missing (redis-cli --cluster check host:port), or run on each: redis-cli CONFIG SET cluster-require-full-coverage no",
    ),
    (
        "NOREPLICAS ",
        "start the replicas that are missing, or lower min-replicas-to-write",
    ),
    (
        "DENIED ",
        "Redis is in protected mode: set a password in Redis and in REDIS_INTERFACE, or bind it to loopback only",
    ),
    (
        "max number of clients reached",
        "raise maxclients of Redis, or close connections that are not needed",
    ),
    (
        "ERR unknown command",
        "allow the commands SETEX, GET and DEL: rename-command or a proxy hides one of them",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_redis_error_answer_has_its_own_fix() {
        for (error, want) in [
            (
                "NOAUTH Authentication required.",
                Some("correct user and password"),
            ),
            (
                "WRONGPASS invalid username-password pair",
                Some("correct user and password"),
            ),
            (
                "ERR AUTH <password> called without any password configured for the default user",
                Some("take the password out"),
            ),
            ("ERR DB index is out of range", Some("`databases`")),
            (
                "READONLY You can't write against a read only replica.",
                Some("name the master"),
            ),
            (
                "DENIED Redis is running in protected mode",
                Some("protected mode"),
            ),
            ("something new", None),
        ] {
            let fix = redis_error_fix(error);
            assert_eq!(fix.is_some(), want.is_some(), "{error}");
            assert!(
                fix.unwrap_or_default().contains(want.unwrap_or_default()),
                "{error}"
            );
        }
    }
}
