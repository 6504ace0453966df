-- The table of the store: one row per recipient.
CREATE TABLE IF NOT EXISTS new_mail (
    mail_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    date timestamptz NOT NULL DEFAULT now(),
    "from" text NOT NULL,
    "to" text NOT NULL,
    subject text NOT NULL,
    body text NOT NULL DEFAULT 'gzencode',
    charset text NOT NULL,
    mail bytea NOT NULL,
    spam_score real NOT NULL DEFAULT 0,
    hash text NOT NULL UNIQUE,
    content_type text NOT NULL,
    recipient text NOT NULL,
    has_attach integer NOT NULL,
    ip_addr inet NOT NULL,
    delivered boolean NOT NULL DEFAULT false,
    attach_info text NOT NULL,
    dkim_valid boolean
);
CREATE INDEX IF NOT EXISTS new_mail_to ON new_mail ("to");
CREATE INDEX IF NOT EXISTS new_mail_date ON new_mail (date);
-- The content is a zlib stream already; EXTERNAL stores it without another compression.
ALTER TABLE new_mail ALTER mail SET STORAGE EXTERNAL;
