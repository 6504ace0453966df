//! `goguerrilla check`: prints each finding on one line.

use super::{CommandFailure, print_stdout};
use crate::config::Config;
use crate::daemon;
use crate::server;
use crate::store::Diagnostic;

/// Prints which values are not from the file, everything that would prevent the server from starting or from saving mail, and
/// warnings. `reload_config` reads the configuration again, as SIGHUP does.
///
/// # Errors
/// [`CommandFailure`] with status 1 if a finding is an error.
pub fn print_check_findings(
    config: &mut Config,
    reload_config: daemon::ConfigLoader,
) -> Result<(), CommandFailure> {
    let mut findings: Vec<Diagnostic> = config
        .warnings()
        .iter()
        .cloned()
        .map(Diagnostic::warning)
        .collect();
    // The next call changes to a user that may not be able to read these files.
    let password_fault = server::read_password_files(config).err();
    findings.extend(daemon::check_all_but_store(config, reload_config));
    findings.extend(
        match (password_fault, server::store_factory_of_kind(config.store)) {
            // Without its password, the store would only report that the login failed.
            (Some(error), _) => vec![Diagnostic::error(error.to_string())],
            (None, Ok(store)) => store.find_store_problems(config),
            (None, Err(error)) => vec![Diagnostic::error(error.to_string())],
        },
    );
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
