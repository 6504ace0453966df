//! The name of the mail table and the widths of its columns.

use std::fmt;

use crate::store::{Column, RecipientAddressColumns};

/// A table name of `[A-Za-z0-9_]`, optionally `database.table`. It is the only part of the configuration that SQL statements
/// contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    database: Option<String>,
    table: String,
}

/// Widths and character sets of the columns that a mail is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the column's name")]
pub struct TableColumns {
    /// The maximum value of column `has_attach`.
    pub has_attach: u64,
    pub from: Column,
    pub to: Column,
    pub subject: Column,
    pub charset: Column,
    pub content_type: Column,
    pub recipient: Column,
    pub attach_info: Column,
    pub ip_addr: Column,
}

impl TableName {
    /// Parses `TABLE` or `DATABASE.TABLE`; `None` if a part is not 1 to 64 ASCII letters, digits and `_`.
    pub fn parse(name: &str) -> Option<TableName> {
        let is_word = |word: &str| {
            (1..=64).contains(&word.len())
                && word
                    .bytes()
                    .all(|octet| octet.is_ascii_alphanumeric() || octet == b'_')
        };
        let (database, table) = match name.split_once('.') {
            Some((database, table)) => (Some(database), table),
            None => (None, name),
        };
        (is_word(table) && database.is_none_or(is_word)).then(|| TableName {
            database: database.map(str::to_owned),
            table: table.to_owned(),
        })
    }

    /// Returns the database part, if the name has one.
    pub fn database_part(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// Returns the table part.
    pub fn table_part(&self) -> &str {
        &self.table
    }

    /// Returns the statement that creates the table in MySQL or MariaDB.
    pub fn mysql_schema(&self) -> String {
        include_str!("schema/mysql.sql").replace("{table}", &self.to_string())
    }

    /// Returns the statements that create the table and its indexes in SQLite.
    pub fn sqlite_schema(&self) -> String {
        let in_database = |name: &str| match &self.database {
            Some(database) => format!("`{database}`.`{name}`"),
            None => format!("`{name}`"),
        };
        let index = |column: &str| in_database(&format!("{}_{column}", self.table));
        include_str!("schema/sqlite.sql")
            .replace("{table}", &self.to_string())
            .replace("{bare}", &format!("`{}`", self.table))
            .replace("{index_to}", &index("to"))
            .replace("{index_hash}", &index("hash"))
            .replace("{index_date}", &index("date"))
    }
}

/// Returns `new_mail`, the table name of go-guerrilla.
impl Default for TableName {
    fn default() -> TableName {
        TableName {
            database: None,
            table: "new_mail".to_owned(),
        }
    }
}

/// Formats the name in backquotes, for use in a statement.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = &self.database {
            write!(f, "`{database}`.")?;
        }
        write!(f, "`{}`", self.table)
    }
}

impl TableColumns {
    /// Returns the columns that decide whether a recipient can be stored.
    pub fn columns_limiting_recipients(&self) -> RecipientAddressColumns {
        RecipientAddressColumns {
            to: self.to,
            recipient: self.recipient,
        }
    }

    /// The columns of the table that `goguerrilla schema` prints.
    pub const DEFAULT: TableColumns = TableColumns {
        has_attach: i32::MAX as u64,
        from: Column::column_of_max_chars(LONGEST_ADDRESS),
        to: Column::column_of_max_chars(LONGEST_ADDRESS),
        subject: Column::column_of_max_chars(255),
        charset: Column::column_of_max_chars(32),
        content_type: Column::column_of_max_chars(64),
        recipient: Column::column_of_max_chars(LONGEST_ADDRESS),
        attach_info: Column::column_of_max_octets(65_535),
        ip_addr: Column::column_of_max_chars(45),
    };
}

/// Octets of the longest address (RFC 5321 §4.5.3.1): a local-part of 64, `@` and a domain of 255. In utf8mb4, which RFC 6531
/// addresses need, the index on column `to` takes 1,280 of the 3,072 bytes that InnoDB allows with ROW_FORMAT=DYNAMIC.
pub const LONGEST_ADDRESS: usize = 64 + 1 + 255;

/// Returns the columns that an INSERT fills as an SQL list, in the order of [`INSERTED_COLUMNS`].
pub fn inserted_column_list() -> String {
    INSERTED_COLUMNS.map(|name| format!("`{name}`")).join(",")
}

/// The columns that an INSERT fills, in the order of its values.
pub const INSERTED_COLUMNS: [&str; 16] = [
    "date",
    "from",
    "to",
    "subject",
    "body",
    "charset",
    "mail",
    "spam_score",
    "hash",
    "content_type",
    "recipient",
    "has_attach",
    "ip_addr",
    "delivered",
    "attach_info",
    "dkim_valid",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_name_with_special_characters_is_rejected() {
        for (name, want) in [
            ("new_mail", Some("`new_mail`")),
            ("mail.new_mail2", Some("`mail`.`new_mail2`")),
            ("x;drop", None),
            ("a`b", None),
            ("", None),
            (".a", None),
            ("a.", None),
            ("a.b.c", None),
        ] {
            let parsed = TableName::parse(name).map(|name| name.to_string());
            assert_eq!(parsed.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn both_printed_schemas_match_the_assumed_column_widths() {
        let table = TableName::default();
        let printed = TableColumns::DEFAULT;
        let columns = [
            ("from", printed.from),
            ("to", printed.to),
            ("subject", printed.subject),
            ("charset", printed.charset),
            ("content_type", printed.content_type),
            ("recipient", printed.recipient),
            ("ip_addr", printed.ip_addr),
        ];
        for schema in [table.mysql_schema(), table.sqlite_schema()] {
            for (name, column) in columns {
                let line = format!("`{name}` varchar({}) NOT NULL", column.width.max_length());
                assert!(schema.contains(&line), "{line} in {schema}");
            }
        }
    }

    #[test]
    fn printed_schema_uses_the_configured_table_name_everywhere() {
        let schema = TableName::parse("main.post").unwrap().sqlite_schema();
        assert!(schema.contains("EXISTS `main`.`post` ("));
        assert!(schema.contains("EXISTS `main`.`post_hash` ON `post` (`hash`)"));
        assert!(!schema.contains('{'));
    }
}
