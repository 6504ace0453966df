//! Saves mail in PostgreSQL, one row per recipient: `postgres-store [ADDRESS] [CONNECTION]`.
//!
//! CONNECTION has the form of libpq, such as `host=/run/postgresql user=mail dbname=mail`. A mail is as durable as COMMIT makes
//! it, so `synchronous_commit` must not be `off`.

use std::error::Error;
use std::time::Duration;
use std::{env, slice};

use goguerrilla::{Config, Mail, SaveError, SaveMail, SavedId, Server};
use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, NoTls, Statement};

const INSERT: &str = r#"
INSERT INTO new_mail ("from", "to", subject, charset, mail, hash, content_type, recipient, has_attach, ip_addr, attach_info)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"#;

/// The time limit of a connect and of a statement. The server gives up a mail after 62 seconds.
const TIME_LIMIT: Duration = Duration::from_secs(15);

struct PostgresStore {
    database: postgres::Config,
    connection: Option<(Client, Statement)>,
}

impl PostgresStore {
    /// Inserts the rows of all mails in one transaction.
    fn insert(&mut self, mails: &[Mail]) -> Result<(), SaveError> {
        let Some((client, insert)) = &mut self.connection else {
            return Err(SaveError::unavailable("not connected"));
        };
        let mut transaction = client.transaction().map_err(save_error)?;
        for mail in mails {
            for row in mail.recipients() {
                let body = mail.zlib_body(row)?;
                // A NUL would be an error in these texts, but goguerrilla replaces control characters; `mail` is bytea.
                let parameters: [&(dyn ToSql + Sync); 11] = [
                    &mail.reverse_path(),
                    &row.to,
                    &mail.subject(),
                    &mail.charset(),
                    &body.as_slice(),
                    &row.hash.as_str(),
                    &mail.content_type(),
                    &row.recipient,
                    &(mail.attachment_count() as i32),
                    &mail.client_ip(),
                    &mail.attach_info(),
                ];
                transaction
                    .execute(insert, &parameters)
                    .map_err(save_error)?;
            }
        }
        // If the connection breaks now, the rows may exist although the client gets 451 and sends the mail again.
        transaction.commit().map_err(save_error)
    }
}

impl SaveMail for PostgresStore {
    fn prepare_batch(&mut self) -> Result<(), SaveError> {
        if let Some((client, _)) = &mut self.connection
            && client.is_valid(TIME_LIMIT).is_ok()
        {
            return Ok(());
        }
        self.connection = None;
        let mut client = self
            .database
            .connect(NoTls)
            .map_err(SaveError::unavailable)?;
        let insert = client.prepare(INSERT).map_err(SaveError::unavailable)?;
        self.connection = Some((client, insert));
        Ok(())
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        self.insert(slice::from_ref(mail))?;
        Ok(SavedId::from(mail.hash()))
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        match self.insert(batch) {
            Ok(()) => batch
                .iter()
                .map(|mail| Ok(SavedId::from(mail.hash())))
                .collect(),
            // Saves the other mails of the batch.
            Err(SaveError::Refused(_)) if batch.len() > 1 => {
                batch.iter().map(|mail| self.save_mail(mail)).collect()
            }
            Err(error) => vec![Err(error); batch.len()],
        }
    }
}

/// Distinguishes faults of one mail from faults of the database:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn save_error(error: postgres::Error) -> SaveError {
    match error.code() {
        Some(&SqlState::DISK_FULL | &SqlState::OUT_OF_MEMORY) => SaveError::full(error),
        // Data exception, integrity constraint violation, program limit exceeded.
        Some(code) if ["22", "23", "54"].contains(&&code.code()[..2]) => SaveError::refused(error),
        _ => SaveError::unavailable(error),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:2525".to_owned());
    let database = arguments
        .next()
        .unwrap_or("host=/run/postgresql user=mail dbname=mail".to_owned());
    let mut database: postgres::Config = database.parse()?;
    database
        .connect_timeout(TIME_LIMIT)
        .tcp_user_timeout(TIME_LIMIT);
    database.options(&format!("-c statement_timeout={}", TIME_LIMIT.as_millis()));
    database
        .connect(NoTls)?
        .batch_execute(include_str!("../schema.sql"))?;

    let config = Config::builder().listen(address.parse()?).build()?;
    let open = move || {
        Ok(PostgresStore {
            database: database.clone(),
            connection: None,
        })
    };
    let server = Server::builder(config).store(open).writers(2).bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    server.run()?;
    Ok(())
}
