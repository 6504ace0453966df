//! Checks of the hosts of MYSQL_HOST.

use mysql::Error;

use super::fixes;
use crate::check::peer::DetectedServerProtocol;
use crate::store::Diagnostic;
use crate::store::mysql::connect_failure::MySqlConnectFailure;
use crate::store::mysql::connection::MySqlConnection;
use crate::store::mysql::host_state::MySqlHostState;
use crate::store::mysql::pool::Connector;

/// Connects in the way a writer does; returns the connection and the findings about all hosts.
///
/// # Errors
/// No host can be used; the findings say why.
pub fn connect(
    connector: &Connector,
) -> Result<(MySqlConnection, Vec<Diagnostic>), Vec<Diagnostic>> {
    let hosts = connector.hosts();
    // All hosts would fail for this reason.
    if let Err(failure) = connector.tls().check_ca_file() {
        return Err(vec![Diagnostic::error(failure.to_string())]);
    }
    if hosts.host_count() == 1 {
        let connection = connector.connect_any();
        return connection
            .map(|connection| (connection, Vec::new()))
            .map_err(|error| vec![Diagnostic::error(unreachable_text(connector, 0, &error))]);
    }
    let states: Vec<mysql::Result<MySqlHostState>> = (0..hosts.host_count())
        .map(|host| {
            let mut connection = connector.connect_with_short_timeouts(host, None)?;
            MySqlHostState::read(
                &mut connection,
                connector.table(),
                connector.health().metrics(),
            )
        })
        .collect();
    let any_is_healthy = (states.iter()).any(|state| matches!(state, Ok(MySqlHostState::Healthy)));
    let mut findings = Vec::new();
    for (host, state) in states.iter().enumerate() {
        let name = hosts.host_as_configured(host);
        let (reason, text) = match state {
            Ok(MySqlHostState::Healthy) => continue,
            Ok(MySqlHostState::Standby(reason)) => {
                hosts.mark_standby(host, reason);
                if !any_is_healthy {
                    findings.push(Diagnostic::error(format!(
                        "MYSQL_HOST: node {name} is read-only, and no other node is healthy: make one of them writable \
                         (SET GLOBAL read_only = 0), or add the writable one to MYSQL_HOST"
                    )));
                }
                continue;
            }
            Ok(MySqlHostState::Unhealthy(reason)) => {
                let text = format!(
                    "MYSQL_HOST: node {name} is not healthy: {reason}; the healthy nodes are used; repair it, or remove it \
                     from MYSQL_HOST"
                );
                (reason.clone(), text)
            }
            Err(error) => {
                let reason = fixes::error_words(error);
                (reason, unreachable_text(connector, host, error))
            }
        };
        // `connect_any` then tries this host last.
        hosts.mark_down(host, &reason);
        findings.push(match any_is_healthy {
            true => Diagnostic::warning(text),
            false => Diagnostic::error(text),
        });
    }
    if !any_is_healthy {
        return Err(findings);
    }
    match connector.connect_any() {
        Ok(connection) => Ok((connection, findings)),
        Err(error) => {
            findings.push(Diagnostic::error(fixes::mysql_error_finding_text(
                "MYSQL_HOST",
                "no host takes a writer's connection",
                &error,
                connector.table(),
            )));
            Err(findings)
        }
    }
}

/// Returns why a host cannot be used. If a server of another protocol answers there, the text names that protocol.
fn unreachable_text(connector: &Connector, host: usize, error: &Error) -> String {
    let hosts = connector.hosts();
    let name = hosts.host_as_configured(host);
    let what = match hosts.host_count() {
        1 => format!("the database at {name} cannot be reached"),
        _ => format!("node {name} cannot be reached"),
    };
    let may_be_other_protocol = !matches!(
        error,
        Error::MySqlError(_)
            | Error::DriverError(
                mysql::DriverError::UnknownAuthPlugin(_)
                    | mysql::DriverError::CouldNotConnect(_)
                    | mysql::DriverError::ConnectTimeout
            )
    ) && MySqlConnectFailure::in_error(error).is_none();
    let peer = Some(name)
        .filter(|_| may_be_other_protocol)
        .and_then(DetectedServerProtocol::detect_server_protocol);
    match peer.filter(|peer| *peer != DetectedServerProtocol::MySql) {
        Some(peer) => format!(
            "MYSQL_HOST: {what}: it answers like {peer}; MYSQL_HOST must be the address of a MySQL or MariaDB server, \
             such as 127.0.0.1:3306"
        ),
        None => fixes::mysql_error_finding_text("MYSQL_HOST", &what, error, connector.table()),
    }
}
