//! `goguerrilla check`: prints each finding on one line.

use super::{CommandFailure, print_stdout};
use crate::config::Config;
use crate::daemon;
use crate::server;
use crate::store::Diagnostic;

/// Prints which values are not from the file, everything that would prevent the server from starting or from saving mail, and
/// warnings.
/// `reload_config` reads the configuration again, as SIGHUP does.
///
/// # Errors
/// [`CommandFailure`] with status 1 if a finding is an error.
pub fn print_check_findings(
    config: &Config,
    reload_config: daemon::ConfigLoader,
) -> Result<(), CommandFailure> {
    let mut findings: Vec<Diagnostic> = config
        .warnings()
        .iter()
        .cloned()
        .map(Diagnostic::warning)
        .collect();
    findings.extend(daemon::check_all_but_store(config, reload_config));
    findings.extend(match server::store_factory_of_kind(config.store) {
        Ok(store) => store.find_store_problems(config),
        Err(error) => vec![Diagnostic::error(error.to_string())],
    });
    let sources = config.value_sources.iter();
    let lines: String = sources
        .map(|(key, source)| format!("note: {key}: from the {source}\n"))
        .chain(findings.iter().map(|finding| format!("{finding}\n")))
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
