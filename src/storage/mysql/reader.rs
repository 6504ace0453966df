//! Mail read back from the table and from Redis.

use mysql::prelude::Queryable;

use super::link::Link;
use super::pool::Connector;
use crate::mail::inflate;
use crate::storage::reading::{ListedMail, ListedSize, MAX_MAIL_OCTETS, ReadError, ReadMail};
use crate::storage::redis::cluster::ClusterReader;
use crate::storage::redis::{RedisReader, RedisSettings};

/// Reads rows from the database and bodies from wherever their rows say.
pub struct MySqlReader {
    link: Link,
    table: String,
    redis: Option<RedisSettings>,
    open_redis: Option<OpenRedis>,
    /// Why Redis is not asked any more.
    redis_trouble: Option<ReadError>,
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

/// A row's date, paths, subject, and where its body is.
type ListedRow = (
    String,
    String,
    String,
    String,
    String,
    String,
    String,
    Vec<u8>,
);

impl MySqlReader {
    /// Connects to the first host that answers.
    ///
    /// # Errors
    /// [`ReadError`] that says what the database said.
    pub fn open(
        connector: &Connector,
        redis: Option<RedisSettings>,
    ) -> Result<MySqlReader, ReadError> {
        let link = connector.connect_any().map_err(|error| told(&error))?;
        Ok(MySqlReader {
            link,
            table: connector.table().to_string(),
            redis,
            open_redis: None,
            redis_trouble: None,
            unknown_sizes: None,
        })
    }

    /// The zlib stream of a row; `None` once it has expired in Redis.
    fn stream(
        &mut self,
        hash: &str,
        body: &str,
        mail: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        match body {
            "redis" => self.body_in_redis(hash),
            _ => Ok(Some(mail)),
        }
    }

    fn body_in_redis(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        if let Some(trouble) = &self.redis_trouble {
            return Err(trouble.clone());
        }
        let body = self.open_redis().and_then(|redis| match redis {
            OpenRedis::One(redis) => redis.body(hash),
            OpenRedis::Cluster(redis) => redis.body(hash),
        });
        // Each row would wait for its time-out. A cluster knows itself which of its nodes are lost.
        if !matches!(self.open_redis, Some(OpenRedis::Cluster(_))) {
            self.redis_trouble = body.as_ref().err().cloned();
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

impl ReadMail for MySqlReader {
    fn list(&mut self, to: Option<&str>, limit: u32) -> Result<Vec<ListedMail>, ReadError> {
        // Addresses are compared without case by the columns' own collations as a rule; LOWER makes sure.
        let sql = format!(
            "SELECT `hash`, DATE_FORMAT(`date`, '%Y-%m-%d %H:%i:%s'), CONVERT(`from` USING utf8mb4),
                    CONVERT(`to` USING utf8mb4), CONVERT(`recipient` USING utf8mb4),
                    CONVERT(`subject` USING utf8mb4), CONVERT(`body` USING utf8mb4), `mail`
             FROM {} WHERE ? IS NULL OR LOWER(`to`) = LOWER(?) OR LOWER(`recipient`) = LOWER(?)
             ORDER BY `mail_id` DESC LIMIT ?",
            self.table
        );
        let rows: Vec<ListedRow> = self
            .link
            .call(|connection| connection.exec(sql, (to, to, to, limit)))
            .map_err(|error| told(&error))?;
        let mut mails = Vec::with_capacity(rows.len());
        let (mut trouble, mut unknown) = (None, 0);
        for (hash, date, from, to, recipient, subject, body, mail) in rows {
            let size = match self.stream(&hash, &body, mail) {
                Ok(Some(stream)) => ListedSize::of(&stream),
                Ok(None) => ListedSize::Gone,
                Err(error) => {
                    // One that was given up long ago is missed by nobody who only lists.
                    trouble = Some(error).filter(|_| self.redis.is_some());
                    unknown += 1;
                    ListedSize::Unknown
                }
            };
            mails.push(ListedMail {
                hash,
                date,
                from,
                to,
                recipient,
                size,
                subject,
            });
        }
        self.unknown_sizes = trouble.map(|ReadError(trouble)| {
            ReadError(format!(
                "{trouble}; so {unknown} of these mails have no size; {CURE}"
            ))
        });
        Ok(mails)
    }

    fn trouble(&self) -> Option<ReadError> {
        self.unknown_sizes.clone()
    }

    fn show(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let sql = format!(
            "SELECT CONVERT(`body` USING utf8mb4), `mail` FROM {} WHERE `hash` = ?",
            self.table
        );
        let row: Option<(String, Vec<u8>)> = self
            .link
            .call(|connection| connection.exec_first(sql, (hash,)))
            .map_err(|error| told(&error))?;
        let Some((body, mail)) = row else {
            return Ok(None);
        };
        let stream = self
            .stream(hash, &body, mail)
            .map_err(|ReadError(trouble)| {
                ReadError(format!(
                    "{trouble}; the body of {hash} is kept there; {CURE}"
                ))
            })?;
        let stream = stream.ok_or_else(|| {
            ReadError(format!(
                "{hash}: its body has expired in Redis (REDIS_EXPIRE_SECONDS) or was dropped there"
            ))
        })?;
        let mail = inflate(&stream, MAX_MAIL_OCTETS);
        mail.map(Some)
            .map_err(|error| ReadError(format!("{hash}: {error}")))
    }
}

fn told(error: &mysql::Error) -> ReadError {
    ReadError(format!("MYSQL_HOST: {error}"))
}

/// Of a Redis that is away.
const CURE: &str = "start it, or mend REDIS_INTERFACE";
