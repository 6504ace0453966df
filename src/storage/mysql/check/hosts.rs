//! Which hosts can be used, and why others cannot.

use mysql::Error;

use super::cures;
use crate::storage::finding::Finding;
use crate::storage::mysql::link::Link;
use crate::storage::mysql::member::why_not_well;
use crate::storage::mysql::pool::Connector;
use crate::storage::peer::Peer;

/// What one host is to the others.
enum HostState {
    Well,
    /// It is healthy and takes no writes: where another host takes them, it stands by as it should.
    ReadOnly,
    NotWell(String),
    NotReached(Error),
}

/// Connects as a writer would, and returns what is wrong with any host beside the connection.
///
/// # Errors
/// What keeps every host from being used.
pub fn connect(connector: &Connector) -> Result<(Link, Vec<Finding>), Vec<Finding>> {
    let nodes = connector.nodes();
    if nodes.count() == 1 {
        let link = connector.connect_any();
        return link
            .map(|link| (link, Vec::new()))
            .map_err(|error| vec![Finding::error(not_reached(connector, 0, &error))]);
    }
    let states: Vec<HostState> = (0..nodes.count())
        .map(|host| look_at(connector, host))
        .collect();
    let any_is_well = states.iter().any(|state| matches!(state, HostState::Well));
    let mut findings = Vec::new();
    for (host, state) in states.iter().enumerate() {
        let name = nodes.name(host);
        let (reason, text) = match state {
            HostState::Well => continue,
            HostState::ReadOnly => {
                let text = format!(
                    "MYSQL_HOST: node {name} is read-only, and no other one is well: make one of them writable \
                     (SET GLOBAL read_only = 0), or add the one that is to MYSQL_HOST"
                );
                (READ_ONLY.to_owned(), Some(text).filter(|_| !any_is_well))
            }
            HostState::NotWell(reason) => {
                let text = format!(
                    "MYSQL_HOST: node {name} is not well: {reason}; those that are serve meanwhile; mend it, or take it \
                     out of MYSQL_HOST"
                );
                (reason.clone(), Some(text))
            }
            HostState::NotReached(error) => {
                let reason = cures::words_of(error);
                (reason, Some(not_reached(connector, host, error)))
            }
        };
        // Writers try such a host last.
        nodes.leave(host, &reason);
        findings.extend(text.map(|text| match any_is_well {
            true => Finding::warning(text),
            false => Finding::error(text),
        }));
    }
    if !any_is_well {
        return Err(findings);
    }
    match connector.connect_any() {
        Ok(link) => Ok((link, findings)),
        Err(error) => {
            findings.push(Finding::error(cures::text_of(
                "MYSQL_HOST",
                "no host takes a writer's connection",
                &error,
                connector.table(),
            )));
            Err(findings)
        }
    }
}

fn look_at(connector: &Connector, host: usize) -> HostState {
    let looked = connector.connect_to_look(host);
    let looked = looked.and_then(|mut connection| why_not_well(&mut connection, connector.table()));
    match looked {
        Ok(None) => HostState::Well,
        Ok(Some(reason)) if reason == READ_ONLY => HostState::ReadOnly,
        Ok(Some(reason)) => HostState::NotWell(reason),
        Err(error) => HostState::NotReached(error),
    }
}

/// Why a host cannot be used. One that answers in another protocol is a wrong address or port.
fn not_reached(connector: &Connector, host: usize, error: &Error) -> String {
    let nodes = connector.nodes();
    let name = nodes.name(host);
    let what = match nodes.count() {
        1 => format!("the database at {name} cannot be reached"),
        _ => format!("node {name} cannot be reached"),
    };
    let may_speak_otherwise = !matches!(
        error,
        Error::MySqlError(_)
            | Error::DriverError(
                mysql::DriverError::UnknownAuthPlugin(_)
                    | mysql::DriverError::CouldNotConnect(_)
                    | mysql::DriverError::ConnectTimeout
            )
    );
    let peer = Some(name)
        .filter(|_| may_speak_otherwise)
        .and_then(Peer::at);
    match peer.filter(|peer| *peer != Peer::MySql) {
        Some(peer) => format!(
            "MYSQL_HOST: {what}: it answers like {peer}; MYSQL_HOST must be the address of a MySQL or MariaDB server, \
             such as 127.0.0.1:3306"
        ),
        None => cures::text_of("MYSQL_HOST", &what, error, connector.table()),
    }
}

/// As [`why_not_well`] words it.
const READ_ONLY: &str = "it is read-only (read_only)";
