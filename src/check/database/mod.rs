//! Checks of the database: faults that prevent mail from being saved or make a 250 less reliable, each with its fix.
//!
//! Nothing is changed: a trial row is inserted only into a table with transactions, and is rolled back. For a view or a table
//! without transactions, the INSERT is only prepared, which checks names and rights and executes nothing.

mod definition;
mod fix_table;
mod fixes;
mod hosts;
mod query;
mod recipients;
mod retention;
mod table;
mod trial_row;
mod triggers;

pub use self::recipients::check_recipient_query;
pub use self::retention::check_retention;
pub use self::table::check_table;
pub use self::trial_row::TrialMailDomains;
use super::driver_panic::run_check_catching_panic;
use crate::store::Diagnostic;
use crate::store::mysql::pool::Connector;
use crate::store::mysql::{group_replication, hanging};

/// Checks the hosts and the table, and inserts a trial row that is rolled back.
pub fn check_mysql_hosts_and_table(
    connector: &Connector,
    max_content_octets: usize,
    addresses: &TrialMailDomains,
) -> Vec<Diagnostic> {
    run_check_catching_panic("MYSQL_HOST", || {
        check_database(connector, max_content_octets, addresses)
    })
}

fn check_database(
    connector: &Connector,
    max_content_octets: usize,
    addresses: &TrialMailDomains,
) -> Vec<Diagnostic> {
    let (mut connection, mut findings) = match hosts::connect(connector) {
        Ok(connected) => connected,
        Err(findings) => return findings,
    };
    findings.extend(hanging::hanging_commit_findings(connector));
    findings.extend(group_replication::unreadable_members_finding(
        &mut connection,
        connector.mysql_user_name(),
    ));
    let table = connector.table();
    findings.extend(check_table(
        &connection.table_info,
        table,
        max_content_octets,
    ));
    findings.extend(definition::check_unique_indexes(&mut connection, table));
    if findings.iter().any(Diagnostic::is_error) {
        return findings;
    }
    if !table::supports_transactions(&connection.table_info.engine) {
        findings.extend(definition::check_table_and_rights(&mut connection, table));
    } else {
        let triggers = triggers::check_triggers(&mut connection, table);
        if triggers.is_empty() {
            findings.extend(trial_row::check_trial_row(
                &mut connection,
                table,
                addresses,
            ));
        } else {
            findings.extend(triggers);
            findings.extend(definition::check_rights(&mut connection, table));
        }
    }
    findings
}
