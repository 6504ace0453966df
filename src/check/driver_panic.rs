//! Converts a panic of a client library into a finding.

use crate::panics;
use crate::store::Diagnostic;

/// Runs `check` and converts a panic, which can only come from a client library, into a finding that names the configuration
/// key `key`.
pub fn run_check_catching_panic(
    key: &str,
    check: impl FnOnce() -> Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    panics::catch_panic(check).unwrap_or_else(|text| {
        vec![Diagnostic::error(format!(
            "{key}: the client library cannot handle an answer of the server: {text}; see whether {key} names the right \
             server"
        ))]
    })
}
