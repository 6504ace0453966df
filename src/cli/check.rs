//! `goguerrilla check`: every diagnosis, one line each.

use super::{Failure, print};
use crate::check;
use crate::config::{Config, StoreKind};
use crate::server;
use crate::store::Diagnostic;

/// Prints what would keep the server from starting or from saving mail, and what deserves a warning. `notes` are warnings
/// about the configuration.
///
/// # Errors
/// [`Failure`] with status 1 if a finding is an error.
pub fn check(config: &Config, notes: &[String], read: server::ConfigSource) -> Result<(), Failure> {
    let mut findings: Vec<Diagnostic> = notes.iter().cloned().map(Diagnostic::warning).collect();
    findings.extend(server::preflight(config, read));
    match config.store {
        StoreKind::Discard => findings.push(Diagnostic::warning(
            "GM_STORE: discard thanks for every mail and drops it; set \"sqlite\" to keep mail"
                .to_owned(),
        )),
        StoreKind::Sqlite => {
            let table = server::table_name(config);
            findings.extend(check::sqlite(&config.sqlite_file, &table));
        }
        StoreKind::MySql => {
            let connector = server::mysql_connector(config);
            findings.extend(check::database::check(
                &connector,
                config.max_content_octets,
                &server::trial_addresses(config),
            ));
            if let Some(redis) = server::redis_settings(config) {
                findings.extend(check::redis::check(&redis));
            }
        }
    }
    let lines: String = findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    print(lines.as_bytes())?;
    if findings.iter().any(Diagnostic::is_error) {
        return Err(Failure {
            text: String::new(),
            status: 1,
        });
    }
    Ok(())
}
