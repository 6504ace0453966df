//! What `goguerrilla check` finds before it looks at the store; it changes no file and makes none.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::time::SystemTime;

use super::{ConfigSource, StartError, identity, listeners, tls_files};
use crate::config::Config;
use crate::net::tls::TlsCredentials;
use crate::os::pid_file::PidFile;
use crate::os::privileges;
use crate::os::secure_open;
use crate::store::Diagnostic;

/// What `check` finds before it looks at the store: keys are read and files looked at as who we are, then we become the
/// server's user for good, as the server would.
pub fn preflight(config: &Config, read_again: ConfigSource) -> Vec<Diagnostic> {
    let loaded = tls_files(config)
        .map(|files| TlsCredentials::load(&files))
        .transpose();
    let (tls, mut findings) = match loaded {
        Ok(tls) => (tls, Vec::new()),
        Err(error) => (None, vec![Diagnostic::error(error.to_string())]),
    };
    findings.extend(listeners::unbindable(config).map(|error| match &error {
        // A service manager may give the right to, or the socket itself.
        StartError::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Diagnostic::warning(error.to_string())
        }
        _ => Diagnostic::error(error.to_string()),
    }));
    findings.extend(unwritable_files(config).map(|error| Diagnostic::error(error.to_string())));
    findings.extend(log_pipe(config));
    let became =
        identity(config).and_then(|identity| Ok(identity.map(privileges::drop_to).transpose()?));
    if let Err(error) = became {
        findings.push(Diagnostic::error(error.to_string()));
    }
    if let Some(tls) = &tls {
        let warnings = tls
            .warnings(SystemTime::now())
            .into_iter()
            .chain(tls.unreadable_files());
        findings.extend(warnings.map(Diagnostic::warning));
    }
    if let Err(reason) = read_again() {
        let warning = format!("{reason}; until then SIGHUP changes nothing");
        findings.push(Diagnostic::warning(warning));
    }
    findings
}

/// Log and PID file, if they could not be written at a start.
fn unwritable_files(config: &Config) -> impl Iterator<Item = StartError> {
    let log_file = config.log_file.clone();
    let log = match log_file.to_str() {
        Some("" | "/dev/stdout" | "/dev/stderr") => None,
        _ => secure_open::check_writable(&log_file).map(|source| StartError::Log {
            file: log_file,
            source,
        }),
    };
    let pid = config.pid_file.clone().and_then(|file| {
        let source = PidFile::check_writable(&file)?;
        Some(StartError::Pid { file, source })
    });
    log.into_iter().chain(pid)
}

/// A pipe is not opened: closing it again would end the input of the program that reads from it.
fn log_pipe(config: &Config) -> Option<Diagnostic> {
    let metadata = fs::metadata(&config.log_file).ok()?;
    let is_pipe = metadata.file_type().is_fifo() && !config.log_file.starts_with("/dev");
    is_pipe.then(|| {
        let file = config.log_file.display();
        Diagnostic::warning(format!(
            "GSMTP_LOG_FILE: {file} is a pipe; the server starts only while a program reads from it"
        ))
    })
}
