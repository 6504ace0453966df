//! Reads mails back from the table and from Redis, for `list` and `show`.

use std::time::Duration;

use mysql::Value;
use mysql::prelude::Queryable;

use super::connection::MySqlConnection;
use super::error_text::mysql_read_error_text_and_fix;
use super::pool::Connector;
use crate::mail::inflate;
use crate::store::TableName;
use crate::store::reader::{
    ListedMail, ListedMailSize, MAX_SHOWN_OCTETS, StoreReadError, StoredMailReader,
};
use crate::store::redis::cluster::RedisClusterReader;
use crate::store::redis::{RedisReadConnection, RedisSettings};
use crate::store::stored_text::column_octets_to_text;

/// Reads rows, and bodies from column `mail` or from Redis.
pub struct MySqlReader {
    connection: MySqlConnection,
    table: TableName,
    redis: Option<RedisSettings>,
    open_redis: Option<RedisBodyReader>,
    /// Error of the first failed read from Redis; Redis is then not read again. Not set by an open Redis Cluster.
    redis_failed: Option<StoreReadError>,
    /// Why some mails of the last listing have no size.
    unknown_sizes: Option<StoreReadError>,
    time_limit: Option<Duration>,
}

enum RedisBodyReader {
    One(RedisReadConnection),
    Cluster(RedisClusterReader),
}

impl RedisBodyReader {
    fn open(settings: &RedisSettings) -> Result<RedisBodyReader, StoreReadError> {
        match settings.urls.as_slice() {
            [url] => RedisReadConnection::open(settings, url).map(RedisBodyReader::One),
            _ => RedisClusterReader::open(settings).map(RedisBodyReader::Cluster),
        }
    }
}

impl MySqlReader {
    /// Connects to the first host that answers.
    ///
    /// # Errors
    /// No host can be reached, or the table's properties cannot be read.
    pub fn open(
        connector: &Connector,
        redis: Option<RedisSettings>,
    ) -> Result<MySqlReader, StoreReadError> {
        let table = connector.table().clone();
        let connection = connector.connect_any();
        let connection = connection
            .map_err(|error| StoreReadError(mysql_read_error_text_and_fix(&error, &table)))?;
        Ok(MySqlReader {
            connection,
            table,
            redis,
            open_redis: None,
            redis_failed: None,
            unknown_sizes: None,
            time_limit: None,
        })
    }

    /// Limits the time of each later query; `None` if a query may take long.
    pub fn set_time_limit(&mut self, limit: Option<Duration>) {
        self.time_limit = limit;
    }

    /// Runs a query and passes its rows to `take` one by one, so that at most one body is in memory.
    fn for_each_row(
        &mut self,
        sql: &str,
        parameters: Vec<Value>,
        mut take: impl FnMut(Vec<Value>),
    ) -> Result<(), StoreReadError> {
        let outcome = self.connection.call_driver(self.time_limit, |conn| {
            for row in conn.exec_iter(sql, parameters)? {
                let values = row?.unwrap_raw().into_iter();
                take(values.map(|value| value.unwrap_or(Value::NULL)).collect());
            }
            Ok(())
        });
        outcome.map_err(|error| StoreReadError(mysql_read_error_text_and_fix(&error, &self.table)))
    }

    /// Returns the mails that a query selects. `rest` follows the name of the table in it.
    ///
    /// # Errors
    /// [`StoreReadError`]: the table cannot be read.
    pub fn select_mails(
        &mut self,
        rest: &str,
        parameters: Vec<Value>,
    ) -> Result<Vec<ListedMail>, StoreReadError> {
        // The server converts text columns to UTF-8; `mysql_value_to_text` converts columns of other types.
        let sql = format!(
            "SELECT `hash`, COALESCE(DATE_FORMAT(`date`, '%Y-%m-%d %H:%i:%s'), CAST(`date` AS CHAR)), `from`, `to`,
                    `recipient`, `subject`, `body`, `mail`
             FROM {} {rest}",
            self.table
        );
        let (mut mails, mut in_redis) = (Vec::new(), Vec::new());
        self.for_each_row(&sql, parameters, |row| {
            let mut values = row.into_iter();
            let mut next_value = || values.next().unwrap_or(Value::NULL);
            let mut mail = ListedMail {
                hash: mysql_value_to_text(next_value()).unwrap_or_default(),
                date: mysql_value_to_text(next_value()),
                from: mysql_value_to_text(next_value()),
                to: mysql_value_to_text(next_value()),
                recipient: mysql_value_to_text(next_value()),
                subject: mysql_value_to_text(next_value()),
                size: ListedMailSize::Expired,
            };
            if mysql_value_to_text(next_value()).as_deref() == Some("redis") {
                in_redis.push(mails.len());
            } else if let Some(stream) = octets_of_mysql_value(next_value()) {
                mail.size = ListedMailSize::of(&stream);
            }
            mails.push(mail);
        })?;
        // Redis is read after the query has ended, because a slow Redis would keep the query and the table busy.
        let (mut redis_error, mut unknown) = (None, 0);
        for index in in_redis {
            let Some(mail) = mails.get_mut(index) else {
                continue;
            };
            mail.size = match self.read_body_from_redis(&mail.hash) {
                Ok(Some(stream)) => ListedMailSize::of(&stream),
                Ok(None) => ListedMailSize::Expired,
                Err(error) => {
                    // If REDIS_INTERFACE is empty, Redis is no longer used. The listing then does not warn that bodies stored
                    // there earlier cannot be read.
                    redis_error = Some(error).filter(|_| self.redis.is_some());
                    unknown += 1;
                    ListedMailSize::Unknown
                }
            };
        }
        self.unknown_sizes = redis_error.map(|StoreReadError(error)| {
            StoreReadError(format!(
                "{error}; so {unknown} of these mails have no size; {REDIS_FIX}"
            ))
        });
        Ok(mails)
    }

    /// Returns the first column of each row, which is a `mail_id`; rows with another value are left out.
    ///
    /// # Errors
    /// [`StoreReadError`]: the table cannot be read.
    pub fn select_ids(
        &mut self,
        sql: &str,
        parameters: Vec<Value>,
    ) -> Result<Vec<u64>, StoreReadError> {
        let mut ids = Vec::new();
        self.for_each_row(sql, parameters, |row| {
            let id = row.into_iter().next().and_then(mysql_value_to_text);
            ids.extend(id.and_then(|id| id.parse::<u64>().ok()));
        })?;
        Ok(ids)
    }

    /// Returns the condition that selects the rows of one recipient, with its parameters.
    ///
    /// # Errors
    /// [`StoreReadError`]: the columns of the table cannot be read.
    pub fn recipient_filter(&mut self, to: &str) -> Result<(String, Vec<Value>), StoreReadError> {
        let condition = recipient_condition(to, &self.read_table_columns()?);
        let parameters = vec![Value::from(to); condition.matches('?').count()];
        Ok((condition, parameters))
    }

    /// Returns the name of the table.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// Closes the connections to Redis. The next body is read over a new one, also after an error.
    pub fn close_redis(&mut self) {
        self.open_redis = None;
        self.redis_failed = None;
    }

    /// Returns why some sizes of the last [`select_mails`](MySqlReader::select_mails) are unknown.
    pub fn unknown_sizes(&self) -> Option<StoreReadError> {
        self.unknown_sizes.clone()
    }

    /// Returns the table's columns with their collations; empty if the table does not exist or is not visible.
    fn read_table_columns(&mut self) -> Result<Vec<(String, String)>, StoreReadError> {
        let sql = "SELECT COLUMN_NAME, COLLATION_NAME FROM information_schema.COLUMNS
                   WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?";
        let name = vec![
            self.table.database_in_table_name().into(),
            self.table.table_part().into(),
        ];
        let mut columns = Vec::new();
        self.for_each_row(sql, name, |row| {
            let mut texts = row
                .into_iter()
                .map(|value| mysql_value_to_text(value).unwrap_or_default());
            columns.extend(texts.next().zip(texts.next()));
        })?;
        Ok(columns)
    }

    fn read_body_from_redis(&mut self, hash: &str) -> Result<Option<Vec<u8>>, StoreReadError> {
        if let Some(error) = &self.redis_failed {
            return Err(error.clone());
        }
        let body = self
            .get_or_open_redis_reader()
            .and_then(|redis| match redis {
                RedisBodyReader::One(redis) => redis.body(hash),
                RedisBodyReader::Cluster(redis) => redis.body(hash),
            });
        // The error is kept because otherwise each row would wait for a timeout. `RedisClusterReader` itself skips failed
        // nodes.
        if !matches!(self.open_redis, Some(RedisBodyReader::Cluster(_))) {
            self.redis_failed = body.as_ref().err().cloned();
        }
        body
    }

    fn get_or_open_redis_reader(&mut self) -> Result<&mut RedisBodyReader, StoreReadError> {
        match &mut self.open_redis {
            Some(redis) => Ok(redis),
            closed => {
                let settings = self.redis.as_ref().ok_or_else(|| {
                    StoreReadError("REDIS_INTERFACE: empty, but bodies are in Redis".to_owned())
                })?;
                Ok(closed.insert(RedisBodyReader::open(settings)?))
            }
        }
    }
}

impl StoredMailReader for MySqlReader {
    fn list_newest_mails(
        &mut self,
        to: Option<&str>,
        limit: u32,
    ) -> Result<Vec<ListedMail>, StoreReadError> {
        let columns = self.read_table_columns()?;
        let is_named = |name: &str| {
            columns
                .iter()
                .any(|(column, _)| column.eq_ignore_ascii_case(name))
        };
        let order = match is_named("date") && !is_named("mail_id") {
            true => "date",
            false => "mail_id",
        };
        let filter = to
            .map(|to| format!("WHERE {}", recipient_condition(to, &columns)))
            .unwrap_or_default();
        let rest = format!("{filter} ORDER BY `{order}` DESC LIMIT {limit}");
        let parameters = vec![Value::from(to); filter.matches('?').count()];
        self.select_mails(&rest, parameters)
    }

    fn warning(&self) -> Option<StoreReadError> {
        self.unknown_sizes.clone()
    }

    fn read_mail_by_hash(&mut self, hash: &str) -> Result<Option<Vec<u8>>, StoreReadError> {
        let sql = format!(
            "SELECT `body`, `mail` FROM {} WHERE `hash` = ? LIMIT 1",
            self.table
        );
        let mut found = None;
        self.for_each_row(&sql, vec![hash.into()], |row| {
            let mut values = row.into_iter();
            let mut next_value = || values.next().unwrap_or(Value::NULL);
            found = Some((
                mysql_value_to_text(next_value()),
                octets_of_mysql_value(next_value()),
            ));
        })?;
        let Some((body, stream)) = found else {
            return Ok(None);
        };
        let is_in_redis = body.as_deref() == Some("redis");
        let stream = match is_in_redis {
            true => self
                .read_body_from_redis(hash)
                .map_err(|StoreReadError(error)| {
                    StoreReadError(format!(
                        "{error}; the body of {hash} is kept there; {REDIS_FIX}"
                    ))
                })?,
            false => stream,
        };
        let stream = stream.ok_or_else(|| match is_in_redis {
            true => StoreReadError(format!(
                "{hash}: its body has expired in Redis (REDIS_EXPIRE_SECONDS) or was dropped there"
            )),
            false => StoreReadError(format!("{hash}: column `mail` is NULL, so it has no body")),
        })?;
        let mail = inflate(&stream, MAX_SHOWN_OCTETS);
        mail.map(Some).map_err(|error| {
            StoreReadError(match body.as_deref() {
                Some("redis") => format!("{hash}: its body in Redis: {error}"),
                Some("gzencode") => format!("{hash}: column `mail`: {error}"),
                other => format!(
                    "{hash}: column `mail`: {error}; column `body` is {}, expected `redis` or `gzencode`",
                    other.map_or("NULL".to_owned(), |body| format!("{body:?}"))
                ),
            })
        })
    }
}

/// Returns the condition for one recipient. The comparison ignores case but distinguishes accents, although common
/// collations treat `jose` and `josé` as equal. CONVERT prevents "Illegal mix of collations" for a column in any character set.
///
/// No index supports this comparison. Therefore a plain comparison is added if the column's collation ignores case and `to` is
/// ASCII. An index can serve the plain comparison, and it matches the same rows and possibly more.
fn recipient_condition(to: &str, columns: &[(String, String)]) -> String {
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
    format!("{} OR {}", condition("to"), condition("recipient"))
}

/// Returns a column's value as text; `None` for NULL.
fn mysql_value_to_text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(octets) => Some(column_octets_to_text(octets)),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Double(number) => Some(number.to_string()),
        // Only dates and times are left; `as_sql` puts them in quotes.
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

fn octets_of_mysql_value(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(octets) => Some(octets),
        _ => None,
    }
}

/// The fix for a Redis that cannot be reached.
const REDIS_FIX: &str = "start it, or correct REDIS_INTERFACE";
