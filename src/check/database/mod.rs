//! What keeps mail from being saved, or weakens what a 250 means, each with its cure.
//!
//! Nothing is changed: a trial row goes only into a table with transactions and is rolled back. A view, and a table without
//! transactions, is judged by its definition and by whether the server prepares the INSERT, for which it looks at names and
//! rights and executes nothing.

mod ask;
mod cure_table;
mod cures;
mod definition;
mod hosts;
mod table;
mod trial_row;
mod triggers;

pub use self::table::check_table;
pub use self::trial_row::TrialAddresses;
use super::without_panic;
use crate::metrics::Component;
use crate::store::Diagnostic;
use crate::store::mysql::hanging;
use crate::store::mysql::pool::Connector;

/// Looks at the database as the server would, and tries to save a row that is rolled back.
pub fn check(
    connector: &Connector,
    max_content_octets: usize,
    addresses: &TrialAddresses,
) -> Vec<Diagnostic> {
    without_panic(Component::Database, "MYSQL_HOST", || {
        check_database(connector, max_content_octets, addresses)
    })
}

fn check_database(
    connector: &Connector,
    max_content_octets: usize,
    addresses: &TrialAddresses,
) -> Vec<Diagnostic> {
    let (mut link, mut findings) = match hosts::connect(connector) {
        Ok(connected) => connected,
        Err(findings) => return findings,
    };
    findings.extend(hanging::findings(connector));
    let table = connector.table();
    findings.extend(check_table(&link.facts, table, max_content_octets));
    findings.extend(definition::unique_keys(&mut link, table));
    if findings.iter().any(Diagnostic::is_error) {
        return findings;
    }
    if !table::has_transactions(&link.facts.engine) {
        findings.extend(definition::check(&mut link, table));
    } else {
        let triggers = triggers::without_transactions(&mut link, table);
        if triggers.is_empty() {
            findings.extend(trial_row::check(&mut link, table, addresses));
        } else {
            findings.extend(triggers);
            findings.extend(definition::check_rights(&mut link, table));
        }
    }
    findings
}
