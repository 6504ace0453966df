//! Mail read back from the table and from Redis.

use mysql::Value;
use mysql::prelude::Queryable;

use super::connection::DbConnection;
use super::error_text::with_key;
use super::pool::Connector;
use crate::mail::inflate;
use crate::store::TableName;
use crate::store::reader::{
    ListingSize, MAX_SHOWN_OCTETS, MailListing, MailReader, ReadError, text,
};
use crate::store::redis::cluster::ClusterReader;
use crate::store::redis::{RedisReader, RedisSettings};

/// Reads rows from the database and bodies from wherever their rows say.
pub struct MySqlReader {
    link: DbConnection,
    table: TableName,
    redis: Option<RedisSettings>,
    open_redis: Option<OpenRedis>,
    /// Why Redis is not asked any more.
    redis_failed: Option<ReadError>,
    /// Of the mails that were listed last.
    unknown_sizes: Option<ReadError>,
}

enum OpenRedis {
    One(RedisReader),
    Cluster(ClusterReader),
}

impl OpenRedis {
    fn open(settings: &RedisSettings) -> Result<OpenRedis, ReadError> {
        match settings.urls.as_slice() {
            [url] => RedisReader::open(url).map(OpenRedis::One),
            _ => ClusterReader::open(settings).map(OpenRedis::Cluster),
        }
    }
}

impl MySqlReader {
    /// Connects to the first host that answers.
    ///
    /// # Errors
    /// [`ReadError`] that says what the database said.
    pub fn open(
        connector: &Connector,
        redis: Option<RedisSettings>,
    ) -> Result<MySqlReader, ReadError> {
        let table = connector.table().clone();
        let link = connector.connect_any();
        let link = link.map_err(|error| ReadError(with_key(&error, &table)))?;
        Ok(MySqlReader {
            link,
            table,
            redis,
            open_redis: None,
            redis_failed: None,
            unknown_sizes: None,
        })
    }

    /// Runs a query and hands its rows on one by one, so that no more than one body is in memory.
    fn each_row(
        &mut self,
        sql: &str,
        parameters: Vec<Value>,
        mut take: impl FnMut(Vec<Value>),
    ) -> Result<(), ReadError> {
        let outcome = self.link.read(|connection| {
            for row in connection.exec_iter(sql, parameters)? {
                let values = row?.unwrap_raw().into_iter();
                take(values.map(|value| value.unwrap_or(Value::NULL)).collect());
            }
            Ok(())
        });
        outcome.map_err(|error| ReadError(with_key(&error, &self.table)))
    }

    /// Returns the table's columns with their collations; none where the table is missing or not visible.
    fn columns(&mut self) -> Result<Vec<(String, String)>, ReadError> {
        let sql = "SELECT COLUMN_NAME, COLLATION_NAME FROM information_schema.COLUMNS
                   WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?";
        let name = vec![self.table.database().into(), self.table.table().into()];
        let mut columns = Vec::new();
        self.each_row(sql, name, |row| {
            let mut texts = row
                .into_iter()
                .map(|value| text_of(value).unwrap_or_default());
            columns.extend(texts.next().zip(texts.next()));
        })?;
        Ok(columns)
    }

    fn body_in_redis(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        if let Some(trouble) = &self.redis_failed {
            return Err(trouble.clone());
        }
        let body = self.open_redis().and_then(|redis| match redis {
            OpenRedis::One(redis) => redis.body(hash),
            OpenRedis::Cluster(redis) => redis.body(hash),
        });
        // Each row would wait for its time-out. A cluster knows itself which of its nodes are lost.
        if !matches!(self.open_redis, Some(OpenRedis::Cluster(_))) {
            self.redis_failed = body.as_ref().err().cloned();
        }
        body
    }

    fn open_redis(&mut self) -> Result<&mut OpenRedis, ReadError> {
        match &mut self.open_redis {
            Some(redis) => Ok(redis),
            none => {
                let settings = self.redis.as_ref().ok_or_else(|| {
                    ReadError("REDIS_INTERFACE: empty, where bodies are in Redis".to_owned())
                })?;
                Ok(none.insert(OpenRedis::open(settings)?))
            }
        }
    }
}

impl MailReader for MySqlReader {
    fn list(&mut self, to: Option<&str>, limit: u32) -> Result<Vec<MailListing>, ReadError> {
        let columns = self.columns()?;
        let is_named = |name: &str| {
            columns
                .iter()
                .any(|(column, _)| column.eq_ignore_ascii_case(name))
        };
        let order = match is_named("date") && !is_named("mail_id") {
            true => "date",
            false => "mail_id",
        };
        let filter = to.map(|to| filter(to, &columns)).unwrap_or_default();
        // Columns come as they are: the server turns texts into UTF-8, and what is no text is turned here.
        let sql = format!(
            "SELECT `hash`, COALESCE(DATE_FORMAT(`date`, '%Y-%m-%d %H:%i:%s'), CAST(`date` AS CHAR)), `from`, `to`,
                    `recipient`, `subject`, `body`, `mail`
             FROM {} {filter} ORDER BY `{order}` DESC LIMIT {limit}",
            self.table
        );
        let parameters = vec![Value::from(to); filter.matches('?').count()];
        let (mut mails, mut in_redis) = (Vec::new(), Vec::new());
        self.each_row(&sql, parameters, |row| {
            let mut values = row.into_iter();
            let mut next = || values.next().unwrap_or(Value::NULL);
            let mut mail = MailListing {
                hash: text_of(next()).unwrap_or_default(),
                date: text_of(next()),
                from: text_of(next()),
                to: text_of(next()),
                recipient: text_of(next()),
                subject: text_of(next()),
                size: ListingSize::Expired,
            };
            if text_of(next()).as_deref() == Some("redis") {
                in_redis.push(mails.len());
            } else if let Some(stream) = octets_of(next()) {
                mail.size = ListingSize::of(&stream);
            }
            mails.push(mail);
        })?;
        // Only now: a Redis that is slow would hold the query up, and the query the table.
        let (mut trouble, mut unknown) = (None, 0);
        for index in in_redis {
            let Some(mail) = mails.get_mut(index) else {
                continue;
            };
            mail.size = match self.body_in_redis(&mail.hash) {
                Ok(Some(stream)) => ListingSize::of(&stream),
                Ok(None) => ListingSize::Expired,
                Err(error) => {
                    // One that was given up long ago is missed by nobody who only lists.
                    trouble = Some(error).filter(|_| self.redis.is_some());
                    unknown += 1;
                    ListingSize::Unknown
                }
            };
        }
        self.unknown_sizes = trouble.map(|ReadError(trouble)| {
            ReadError(format!(
                "{trouble}; so {unknown} of these mails have no size; {CURE}"
            ))
        });
        Ok(mails)
    }

    fn warning(&self) -> Option<ReadError> {
        self.unknown_sizes.clone()
    }

    fn show(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let sql = format!(
            "SELECT `body`, `mail` FROM {} WHERE `hash` = ? LIMIT 1",
            self.table
        );
        let mut found = None;
        self.each_row(&sql, vec![hash.into()], |row| {
            let mut values = row.into_iter();
            let mut next = || values.next().unwrap_or(Value::NULL);
            found = Some((text_of(next()), octets_of(next())));
        })?;
        let Some((body, stream)) = found else {
            return Ok(None);
        };
        let is_in_redis = body.as_deref() == Some("redis");
        let stream = match is_in_redis {
            true => self.body_in_redis(hash).map_err(|ReadError(trouble)| {
                ReadError(format!(
                    "{trouble}; the body of {hash} is kept there; {CURE}"
                ))
            })?,
            false => stream,
        };
        let stream = stream.ok_or_else(|| match is_in_redis {
            true => ReadError(format!(
                "{hash}: its body has expired in Redis (REDIS_EXPIRE_SECONDS) or was dropped there"
            )),
            false => ReadError(format!(
                "{hash}: column `mail` is NULL, so its body is not there"
            )),
        })?;
        let mail = inflate(&stream, MAX_SHOWN_OCTETS);
        mail.map(Some).map_err(|error| {
            ReadError(match body.as_deref() {
                Some("redis") => format!("{hash}: its body in Redis: {error}"),
                Some("gzencode") => format!("{hash}: column `mail`: {error}"),
                other => format!(
                    "{hash}: column `mail`: {error}; column `body` says {}, where `redis` or `gzencode` is expected",
                    other.map_or("NULL".to_owned(), |body| format!("{body:?}"))
                ),
            })
        })
    }
}

/// Returns the condition for one recipient: without case, but with accents, which the collations that are usual today fold
/// (`jose` = `josé`). CONVERT takes any character set of a column, so no address is an illegal mix of collations.
///
/// No index knows that comparison. A column whose own collation ignores case finds the same rows and some more, by its index
/// if both columns have one; without one the rows are read from the newest on until there are enough.
fn filter(to: &str, columns: &[(String, String)]) -> String {
    let condition = |name: &str| {
        let exact = format!(
            "LOWER(CONVERT(`{name}` USING utf8mb4)) COLLATE utf8mb4_bin = LOWER(CONVERT(? USING utf8mb4))"
        );
        let ignores_case = columns.iter().any(|(column, collation)| {
            column.eq_ignore_ascii_case(name) && collation.ends_with("_ci")
        });
        match ignores_case && to.is_ascii() {
            true => format!("(`{name}` = ? AND {exact})"),
            false => exact,
        }
    };
    format!("WHERE {} OR {}", condition("to"), condition("recipient"))
}

/// Returns a column's value as text; `None` for NULL.
fn text_of(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(octets) => Some(text(octets)),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Double(number) => Some(number.to_string()),
        // Dates and times, which are quoted there.
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

fn octets_of(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(octets) => Some(octets),
        _ => None,
    }
}

/// Of a Redis that is away.
const CURE: &str = "start it, or mend REDIS_INTERFACE";
