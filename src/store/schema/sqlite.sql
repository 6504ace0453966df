CREATE TABLE IF NOT EXISTS {table} (
  `mail_id` INTEGER PRIMARY KEY AUTOINCREMENT,
  `date` datetime NOT NULL,
  `from` varchar(320) NOT NULL,
  `to` varchar(320) NOT NULL COLLATE NOCASE,
  `subject` varchar(255) NOT NULL,
  `body` text NOT NULL,
  `charset` varchar(32) NOT NULL,
  `mail` longblob NOT NULL,
  `spam_score` float NOT NULL,
  `hash` char(32) NOT NULL,
  `content_type` varchar(64) NOT NULL,
  `recipient` varchar(320) NOT NULL,
  `has_attach` int(11) NOT NULL,
  `ip_addr` varchar(45) NOT NULL,
  `delivered` bit(1) NOT NULL DEFAULT 0,
  `attach_info` text NOT NULL,
  `dkim_valid` tinyint(4) DEFAULT NULL
);
CREATE INDEX IF NOT EXISTS {index_to} ON {bare} (`to`);
CREATE INDEX IF NOT EXISTS {index_hash} ON {bare} (`hash`);
CREATE INDEX IF NOT EXISTS {index_date} ON {bare} (`date`);
