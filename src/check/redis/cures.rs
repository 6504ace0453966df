//! What to do about each error that Redis answers: one line for each.

use crate::check::peer::{Peer, refusal_of_redis};

/// Returns the cure of an error by its words; `None` for one that is not known.
pub fn cure_of(words: &str) -> Option<&'static str> {
    let line = CURES.iter().find(|(known, _)| words.contains(known));
    line.map(|(_, cure)| *cure)
}

/// Returns what answers at a place, in words with a cure, where an answer was none of Redis, or where Redis closed the
/// connection before it could be asked.
pub fn wrong_server(place: &str, words: &str) -> Option<String> {
    let says_nothing = [
        "refused",
        "timed out",
        "No such file",
        "unreachable",
        "resolve",
        "lookup",
    ];
    if cure_of(words).is_some() || says_nothing.iter().any(|word| words.contains(word)) {
        return None;
    }
    match Peer::at(place)? {
        Peer::Redis => {
            let refusal = refusal_of_redis(place)?;
            let cure = cure_of(&refusal).map(|cure| format!("; {cure}"));
            Some(refusal + &cure.unwrap_or_default())
        }
        Peer::Tls => Some(
            "it answers like TLS; name its port without TLS in REDIS_INTERFACE, or begin that with rediss:// if this \
             version knows it"
                .to_owned(),
        ),
        peer => Some(format!(
            "it answers like {peer}; REDIS_INTERFACE must be the address of a Redis, such as 127.0.0.1:6379"
        )),
    }
}

const PASSWORD_CURE: &str = "mend user and password in REDIS_INTERFACE: redis://user:pass@host:port/db, or redis://:pass@host:port/db for \
     the default user";
const DATABASE_CURE: &str = "the number behind the last / of REDIS_INTERFACE must be below `databases` of that Redis, which is 16 by default; \
     0 is always there";
const NO_PASSWORD_CURE: &str =
    "take the password out of REDIS_INTERFACE, or set one there: requirepass, or an ACL user";

/// The beginning of an answer, or words in it, and the cure; the first one that is found counts.
const CURES: &[(&str, &str)] = &[
    ("called without any password configured", NO_PASSWORD_CURE),
    ("but no password is set", NO_PASSWORD_CURE),
    ("NOAUTH ", PASSWORD_CURE),
    ("WRONGPASS ", PASSWORD_CURE),
    ("ERR invalid password", PASSWORD_CURE),
    (
        "for 'auth' command",
        "this Redis knows no users: write redis://:pass@host:port/db in REDIS_INTERFACE",
    ),
    (
        "NOPERM ",
        "allow SETEX, GET, DEL, INFO and every key to that user: ACL SETUSER ... ~* +setex +get +del +info +ping +select",
    ),
    ("ERR DB index is out of range", DATABASE_CURE),
    ("ERR invalid DB index", DATABASE_CURE),
    (
        "ERR SELECT is not allowed in cluster mode",
        "name no database behind the last / of REDIS_INTERFACE: a cluster has only 0",
    ),
    (
        "cluster support disabled",
        "name one host:port in REDIS_INTERFACE: several are the nodes of one Redis Cluster",
    ),
    (
        "MOVED ",
        "it is a node of a Redis Cluster: name several of its nodes in REDIS_INTERFACE, comma separated",
    ),
    (
        "LOADING ",
        "wait until Redis has read its data from disk; nothing else is wrong",
    ),
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
        "name the master in REDIS_INTERFACE: this one is a replica whose master is away",
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
        "Redis is in protected mode: set a password there and in REDIS_INTERFACE, or bind it to loopback only",
    ),
    (
        "max number of clients reached",
        "raise maxclients of Redis, or end connections that nobody needs",
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
        for (words, want) in [
            (
                "NOAUTH Authentication required.",
                Some("mend user and password"),
            ),
            (
                "WRONGPASS invalid username-password pair",
                Some("mend user and password"),
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
            let cure = cure_of(words);
            assert_eq!(cure.is_some(), want.is_some(), "{words}");
            assert!(
                cure.unwrap_or_default().contains(want.unwrap_or_default()),
                "{words}"
            );
        }
    }
}
