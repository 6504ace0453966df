//! Which hosts can be used, and why others cannot.

use mysql::Error;

use super::cures;
use crate::check::peer::ServerProtocol;
use crate::store::Diagnostic;
use crate::store::mysql::connection::DbConnection;
use crate::store::mysql::galera::HostState;
use crate::store::mysql::pool::Connector;

/// Connects as a writer would, and returns what is wrong with any host beside the connection.
///
/// # Errors
/// What keeps every host from being used.
pub fn connect(connector: &Connector) -> Result<(DbConnection, Vec<Diagnostic>), Vec<Diagnostic>> {
    let nodes = connector.hosts();
    if nodes.count() == 1 {
        let link = connector.connect_any();
        return link
            .map(|link| (link, Vec::new()))
            .map_err(|error| vec![Diagnostic::error(not_reached(connector, 0, &error))]);
    }
    let states: Vec<mysql::Result<HostState>> = (0..nodes.count())
        .map(|host| {
            let mut connection = connector.connect_for_probe(host)?;
            HostState::read(&mut connection, connector.table())
        })
        .collect();
    let any_is_well = (states.iter()).any(|state| matches!(state, Ok(HostState::Healthy)));
    let mut findings = Vec::new();
    for (host, state) in states.iter().enumerate() {
        let name = nodes.name(host);
        let (reason, text) = match state {
            Ok(HostState::Healthy) => continue,
            Ok(HostState::Standby(reason)) => {
                nodes.mark_standby(host, reason);
                if !any_is_well {
                    findings.push(Diagnostic::error(format!(
                        "MYSQL_HOST: node {name} is read-only, and no other one is well: make one of them writable \
                         (SET GLOBAL read_only = 0), or add the one that is to MYSQL_HOST"
                    )));
                }
                continue;
            }
            Ok(HostState::Unhealthy(reason)) => {
                let text = format!(
                    "MYSQL_HOST: node {name} is not well: {reason}; those that are serve meanwhile; mend it, or take it \
                     out of MYSQL_HOST"
                );
                (reason.clone(), text)
            }
            Err(error) => {
                let reason = cures::error_words(error);
                (reason, not_reached(connector, host, error))
            }
        };
        // Writers try such a host last.
        nodes.mark_down(host, &reason);
        findings.push(match any_is_well {
            true => Diagnostic::warning(text),
            false => Diagnostic::error(text),
        });
    }
    if !any_is_well {
        return Err(findings);
    }
    match connector.connect_any() {
        Ok(link) => Ok((link, findings)),
        Err(error) => {
            findings.push(Diagnostic::error(cures::finding_text(
                "MYSQL_HOST",
                "no host takes a writer's connection",
                &error,
                connector.table(),
            )));
            Err(findings)
        }
    }
}

/// Why a host cannot be used. One that answers in another protocol is a wrong address or port.
fn not_reached(connector: &Connector, host: usize, error: &Error) -> String {
    let nodes = connector.hosts();
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
        .and_then(ServerProtocol::detect);
    match peer.filter(|peer| *peer != ServerProtocol::MySql) {
        Some(peer) => format!(
            "MYSQL_HOST: {what}: it answers like {peer}; MYSQL_HOST must be the address of a MySQL or MariaDB server, \
             such as 127.0.0.1:3306"
        ),
        None => cures::finding_text("MYSQL_HOST", &what, error, connector.table()),
    }
}
