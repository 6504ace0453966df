//! `goguerrilla check`: prints each finding on one line.

use super::{Failure, print_stdout};
use crate::check;
use crate::config::{Config, StoreKind};
use crate::daemon;
use crate::server;
use crate::store::Diagnostic;

/// Prints everything that would prevent the server from starting or from saving mail, and prints warnings.
/// `reload_config` reads the configuration again, as SIGHUP does.
///
/// # Errors
/// [`Failure`] with status 1 if a finding is an error.
pub fn check(config: &Config, reload_config: daemon::ConfigLoader) -> Result<(), Failure> {
    let mut findings: Vec<Diagnostic> = config
        .warnings()
        .iter()
        .cloned()
        .map(Diagnostic::warning)
        .collect();
    findings.extend(daemon::preflight(config, reload_config));
    match config.store {
        StoreKind::Discard => findings.push(Diagnostic::warning(
            "GM_STORE: discard accepts every mail and stores none; set \"sqlite\" to keep mail"
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
    print_stdout(lines.as_bytes())?;
    if findings.iter().any(Diagnostic::is_error) {
        return Err(Failure {
            text: String::new(),
            status: 1,
        });
    }
    Ok(())
}
