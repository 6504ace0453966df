//! `goguerrilla check`: prints each finding on one line.

use super::{CommandFailure, print_stdout};
use crate::config::Config;
use crate::daemon;
use crate::server;
use crate::store::Diagnostic;

/// Prints everything that would prevent the server from starting or from saving mail, and prints warnings.
/// `reload_config` reads the configuration again, as SIGHUP does.
///
/// # Errors
/// [`CommandFailure`] with status 1 if a finding is an error.
pub fn check(config: &Config, reload_config: daemon::ConfigLoader) -> Result<(), CommandFailure> {
    let mut findings: Vec<Diagnostic> = config
        .warnings()
        .iter()
        .cloned()
        .map(Diagnostic::warning)
        .collect();
    findings.extend(daemon::check_all_but_store(config, reload_config));
    findings.extend(match server::selectable_store(config.store) {
        Ok(store) => store.check(config),
        Err(error) => vec![Diagnostic::error(error.to_string())],
    });
    let lines: String = findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    print_stdout(lines.as_bytes())?;
    if findings.iter().any(Diagnostic::is_error) {
        return Err(CommandFailure {
            text: String::new(),
            status: 1,
        });
    }
    Ok(())
}
