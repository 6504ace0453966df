//! The trial row: it is inserted by the same code that a writer uses, looked up and rolled back.

use std::collections::HashSet;

use super::{fixes, query};
use crate::mail::Mail;
use crate::smtp::parse_rcpt_address;
use crate::store::Diagnostic;
use crate::store::TableName;
use crate::store::mysql::auto_increment::auto_increment_error_text;
use crate::store::mysql::connection::MySqlConnection;
use crate::store::mysql::error::MySqlErrorClass;
use crate::store::mysql::insert::insert_rows;
use crate::store::mysql::unknown_commit::select_stored_hashes_for_update;
use crate::store::redis::BodiesInRedis;

/// The addresses of the trial row. A trigger or a foreign key may depend on them.
pub struct TrialMailDomains {
    /// A domain of GM_ALLOWED_HOSTS, or any domain if all are allowed.
    pub recipient_domain: String,
    /// GM_PRIMARY_MAIL_HOST.
    pub primary_mail_host: String,
}

/// Inserts a row, looks it up in the way a writer does after a COMMIT without an answer, and rolls it back.
pub fn check_trial_row(
    connection: &mut MySqlConnection,
    table: &TableName,
    addresses: &TrialMailDomains,
) -> Vec<Diagnostic> {
    let mail = match trial_mail(addresses) {
        Ok(mail) => mail,
        Err(error) => {
            return vec![Diagnostic::error(format!(
                "GM_MAIL_TABLE: no trial row could be made: {error}"
            ))];
        }
    };
    let mut tries = 0;
    let outcome = loop {
        let outcome = insert_and_look_up_trial_row(connection, table, &mail);
        tries += 1;
        match &outcome {
            // A deadlock with a running goguerrilla server does not show a fault of the table, so the insert is tried again.
            TrialRowOutcome::NotInserted(error)
                if tries < MAX_TRIES
                    && !is_lock_wait_timeout(error)
                    && is_retryable_mysql_error(error) => {}
            _ => break outcome,
        }
    };
    let mut findings = Vec::new();
    match outcome {
        TrialRowOutcome::Passed => {}
        TrialRowOutcome::NotInserted(error) if MySqlErrorClass::classify_mysql_error(&error) == MySqlErrorClass::IdsUsedUp => {
            let ids = connection.table_info.auto_increment.as_ref();
            findings.push(Diagnostic::error(auto_increment_error_text(&error, table, ids)));
        }
        TrialRowOutcome::NotInserted(error) => {
            let what = format!("a row cannot be inserted into {table} now");
            findings.push(Diagnostic::error(fixes::mysql_error_finding_text(
                "GM_MAIL_TABLE",
                &what,
                &error,
                table,
            )));
        }
        TrialRowOutcome::NotLookedUp(error) => findings.push(for_update_lookup_warning(table, &error)),
        TrialRowOutcome::NotFound => findings.push(Diagnostic::warning(format!(
            "GM_MAIL_TABLE: a row of {table} is not found under the hash that it was inserted with; when a connection breaks \
             during COMMIT, its mail may be stored twice, and `goguerrilla show` does not find it; look for a trigger that \
             changes column `hash`"
        ))),
    }
    if is_rollback_incomplete(connection) {
        findings.push(Diagnostic::warning(format!(
            "GM_MAIL_TABLE: a trigger of {table} writes into a table without transactions, where a row of this check remains, \
             as do rows of batches that are rolled back; run: ALTER TABLE ... ENGINE=InnoDB for that table"
        )));
    }
    findings
}

/// Returns the warning for rows that cannot be looked up with FOR UPDATE.
pub fn for_update_lookup_warning(table: &TableName, error: &mysql::Error) -> Diagnostic {
    Diagnostic::warning(format!(
        "GM_MAIL_TABLE: rows of {table} cannot be looked up under a lock: {}; when a connection breaks during COMMIT, its \
         mails get 451 and may be stored twice; grant SELECT and UPDATE on it to MYSQL_USER",
        fixes::error_words(error)
    ))
}

enum TrialRowOutcome {
    Passed,
    NotInserted(mysql::Error),
    NotLookedUp(mysql::Error),
    NotFound,
}

/// Inserts a row and looks it up, with the statements and session settings of a writer.
fn insert_and_look_up_trial_row(
    connection: &mut MySqlConnection,
    table: &TableName,
    mail: &Mail,
) -> TrialRowOutcome {
    let mails = std::slice::from_ref(mail);
    let inserted = connection
        .enable_implicit_begin()
        .and_then(|()| connection.begin())
        .and_then(|()| {
            insert_rows(
                connection,
                table,
                mails,
                &BodiesInRedis::NotConfigured,
                &HashSet::new(),
            )
        });
    let outcome = match inserted {
        Err(error) => TrialRowOutcome::NotInserted(error),
        Ok(()) => match select_stored_hashes_for_update(connection, table, mails) {
            Ok(found) if found.contains(mail.hash().as_str()) => TrialRowOutcome::Passed,
            Ok(_) => TrialRowOutcome::NotFound,
            Err(error) => TrialRowOutcome::NotLookedUp(error),
        },
    };
    // If the ROLLBACK fails, the connection is broken, and the server rolls back when the connection ends.
    connection.roll_back();
    outcome
}

/// Returns whether the ROLLBACK could not undo everything (1196, ER_WARNING_NOT_COMPLETE_ROLLBACK).
fn is_rollback_incomplete(connection: &mut MySqlConnection) -> bool {
    if connection.broken {
        return false;
    }
    let warnings: Vec<(String, u64, String)> =
        query::query_rows_or_empty(connection, "SHOW WARNINGS", ());
    warnings.iter().any(|(_, code, _)| *code == 1196)
}

fn is_retryable_mysql_error(error: &mysql::Error) -> bool {
    matches!(
        MySqlErrorClass::classify_mysql_error(error),
        MySqlErrorClass::Retry
    )
}

fn is_lock_wait_timeout(error: &mysql::Error) -> bool {
    matches!(error, mysql::Error::MySqlError(error) if error.code == 1205)
}

/// Returns the mail of the trial row. It has an attachment, non-ASCII words, and a compressed body that is not valid UTF-8, so
/// that a text column rejects it.
fn trial_mail(addresses: &TrialMailDomains) -> Result<Mail, String> {
    let recipient = format!("postmaster@{}", addresses.recipient_domain);
    let recipient = match parse_rcpt_address(&recipient) {
        Some(_) => recipient,
        None => "postmaster@example.com".to_owned(),
    };
    for _ in 0..MAX_TRIES {
        let host = &addresses.primary_mail_host;
        let mail = Mail::builder()
            .sender("check@example.com")
            .recipient(&recipient)
            .content(CONTENT)
            .client_ip([192, 0, 2, 1])
            .helo_name("client.example.com")
            .host_name(host)
            .build()
            .map_err(|error| error.to_string())?;
        let body = mail.recipients().first().map(|one| mail.zlib_body(one));
        // The trial body must be invalid UTF-8, like most compressed bodies; a text column would accept a valid one.
        if matches!(body, Some(Ok(body)) if str::from_utf8(&body).is_err()) {
            return Ok(mail);
        }
    }
    Err("no memory".to_owned())
}

/// Maximum number of attempts to insert the trial row, and to build a trial mail whose compressed body is invalid UTF-8.
const MAX_TRIES: usize = 3;
const CONTENT: &[u8] = "From: Pr\u{fc}fung <check@example.com>\r\n\
    To: postmaster@example.com\r\n\
    Subject: =?utf-8?q?goguerrilla_check=3A_Pr=C3=BCfung?=\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: multipart/mixed; boundary=b\r\n\
    \r\n\
    --b\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    \r\n\
    Gr\u{fc}\u{df}e\r\n\
    --b\r\n\
    Content-Type: application/octet-stream; name=\"trial.bin\"\r\n\
    Content-Disposition: attachment; filename=\"trial.bin\"\r\n\
    Content-Transfer-Encoding: base64\r\n\
    \r\n\
    AAECAwQFBgcICQ==\r\n\
    --b--\r\n"
    .as_bytes();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Row, TableColumns};

    #[test]
    fn trial_row_has_a_value_for_every_column() {
        let addresses = TrialMailDomains {
            recipient_domain: "ours.test".to_owned(),
            primary_mail_host: "mx.test".to_owned(),
        };
        let mail = trial_mail(&addresses).unwrap();
        let row = Row::new(&mail, &TableColumns::DEFAULT);
        assert_eq!(row.subject, "goguerrilla check: Pr\u{fc}fung");
        assert_eq!(row.content_type, "multipart/mixed");
        assert_eq!((row.has_attach, row.ip_addr.as_str()), (1, "192.0.2.1"));
        assert!(row.attach_info.contains("trial.bin"), "{}", row.attach_info);
        let delivery = &mail.recipients()[0];
        assert_eq!(delivery.recipient, "postmaster@ours.test");
        assert_eq!(delivery.to, "postmaster@mx.test");
        assert!(str::from_utf8(&mail.zlib_body(delivery).unwrap()).is_err());
        let odd = TrialMailDomains {
            recipient_domain: "no domain".to_owned(),
            primary_mail_host: "mx.test".to_owned(),
        };
        let mail = trial_mail(&odd).unwrap();
        assert_eq!(mail.recipients()[0].recipient, "postmaster@example.com");
    }
}
