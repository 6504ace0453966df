//! The part of `goguerrilla check` that does not concern the store: keys, addresses, files and privileges.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::time::SystemTime;

use super::identity::user_and_group_to_run_as;
use super::{ConfigLoader, ServerProcessError};
use crate::config::Config;
use crate::net::tls::TlsCredentials;
use crate::os::pid_file::PidFile;
use crate::os::privileges;
use crate::os::secure_open;
use crate::server::{
    LoadedAllowedHosts, StartError, listeners, readable_password_file_warnings, tls_files,
    unreadable_password_file_warnings,
};
use crate::store::Diagnostic;

/// Checks everything except the store and returns the findings.
///
/// Reads the TLS key and tests the files as the user that started `check`. Then changes permanently to the user that the
/// server would run as. Changes no file.
pub fn check_all_but_store(config: &Config, reload_config: ConfigLoader) -> Vec<Diagnostic> {
    let loaded = tls_files(config)
        .map(|files| TlsCredentials::load(&files))
        .transpose();
    let (tls, mut findings) = match loaded {
        Ok(tls) => (tls, Vec::new()),
        Err(error) => (None, vec![Diagnostic::error(error.to_string())]),
    };
    findings.extend(
        readable_password_file_warnings(config)
            .into_iter()
            .map(Diagnostic::warning),
    );
    findings.extend(
        listeners::find_bind_problems(config)
            .into_iter()
            .map(|error| match &error {
                // This is only a warning, because systemd may grant the capability or pass the bound socket to the server.
                StartError::Bind { source, .. }
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Diagnostic::warning(error.error_in_one_line())
                }
                _ => Diagnostic::error(error.error_in_one_line()),
            }),
    );
    findings
        .extend(log_and_pid_file_errors(config).map(|error| Diagnostic::error(error.to_string())));
    findings.extend(named_pipe_log_file_warning(config));
    let changed = user_and_group_to_run_as(config)
        .and_then(|identity| Ok(identity.map(privileges::drop_privileges_to).transpose()?));
    if let Err(error) = changed {
        findings.push(Diagnostic::error(error.to_string()));
    }
    if let Some(tls) = &tls {
        let warnings = tls
            .certificate_warnings(SystemTime::now())
            .into_iter()
            .chain(tls.unreadable_tls_file_warnings());
        findings.extend(warnings.map(Diagnostic::warning));
    }
    let allowed_hosts_fault = LoadedAllowedHosts::load(config).err();
    findings.extend(allowed_hosts_fault.map(|error| Diagnostic::error(error.to_string())));
    findings.extend(
        unreadable_password_file_warnings(config)
            .into_iter()
            .map(Diagnostic::warning),
    );
    if let Err(reason) = reload_config() {
        let warning = format!("{reason}; until this is fixed, SIGHUP changes nothing");
        findings.push(Diagnostic::warning(warning));
    }
    findings
}

/// Checks the log file and the PID file; returns one error for each file that the server could not write.
fn log_and_pid_file_errors(config: &Config) -> impl Iterator<Item = ServerProcessError> {
    let log_file = config.log_file.clone();
    let log = match log_file.to_str() {
        Some("" | "/dev/stdout" | "/dev/stderr") => None,
        _ => secure_open::check_writable(&log_file).map(|source| ServerProcessError::Log {
            file: log_file,
            source,
        }),
    };
    let pid = config.pid_file.clone().and_then(|file| {
        let source = PidFile::check_writable(&file)?;
        Some(ServerProcessError::Pid { file, source })
    });
    log.into_iter().chain(pid)
}

/// Returns a warning if the log file is a named pipe. `check` does not open the pipe, because closing it again would end
/// the input of the program that reads from it.
fn named_pipe_log_file_warning(config: &Config) -> Option<Diagnostic> {
    let metadata = fs::metadata(&config.log_file).ok()?;
    let is_pipe = metadata.file_type().is_fifo() && !config.log_file.starts_with("/dev");
    is_pipe.then(|| {
        let file = config.log_file.display();
        Diagnostic::warning(format!(
            "GSMTP_LOG_FILE: {file} is a pipe; the server starts only while a program reads from it"
        ))
    })
}
