//! The table's name and the widths of its columns.

use std::fmt;

use crate::smtp::Column;

/// A table name of `[A-Za-z0-9_]`, optionally `database.table`; nothing else reaches a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    database: Option<String>,
    table: String,
}

/// The columns that a mail's facts are fitted to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the column's name")]
pub struct TableShape {
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
    /// Parses a name; `None` when it holds anything else.
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

    /// The database it names, if it does.
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The table alone.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The statement that makes the table in MySQL or MariaDB.
    pub fn mysql_schema(&self) -> String {
        include_str!("schema/mysql.sql").replace("{table}", &self.to_string())
    }

    /// The statements that make the table and its indices in SQLite.
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

/// `new_mail`, as it always was.
impl Default for TableName {
    fn default() -> TableName {
        TableName {
            database: None,
            table: "new_mail".to_owned(),
        }
    }
}

/// As it stands in a statement, quoted.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = &self.database {
            write!(f, "`{database}`.")?;
        }
        write!(f, "`{}`", self.table)
    }
}

impl TableShape {
    /// The table that `goguerrilla schema` prints.
    pub const PRINTED: TableShape = TableShape {
        from: Column::varchar(128),
        to: Column::varchar(128),
        subject: Column::varchar(255),
        charset: Column::varchar(32),
        content_type: Column::varchar(64),
        recipient: Column::varchar(128),
        attach_info: Column::text(65_535),
        ip_addr: Column::varchar(45),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_become_table_names() {
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
    fn the_schema_names_the_table_everywhere() {
        let schema = TableName::parse("main.post").unwrap().sqlite_schema();
        assert!(schema.contains("EXISTS `main`.`post` ("));
        assert!(schema.contains("EXISTS `main`.`post_hash` ON `post` (`hash`)"));
        assert!(!schema.contains('{'));
    }
}
