//! Columns that the INSERT does not fill, and the ALTER TABLE that gives them a default.

/// A column that the INSERT does not fill although it is NOT NULL and has no default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfilledColumn {
    /// Name of the column.
    pub name: String,
    /// The clause to write after ALTER TABLE. The clause gives the column a default that fits its type, or allows NULL if no
    /// default works on every server. `mail_id` gets AUTO_INCREMENT.
    pub fix: String,
}

impl UnfilledColumn {
    /// Creates the column from its row in `information_schema.COLUMNS`.
    pub fn new(
        name: &str,
        data_type: &str,
        column_type: &str,
        charset: Option<&str>,
    ) -> UnfilledColumn {
        let quoted = name.replace('`', "``");
        let set_default = |value: &str| format!("ALTER COLUMN `{quoted}` SET DEFAULT {value}");
        let fix = match data_type.to_ascii_lowercase().as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint"
                if name.eq_ignore_ascii_case("mail_id") =>
            {
                format!("MODIFY `{quoted}` {column_type} NOT NULL AUTO_INCREMENT")
            }
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "float"
            | "double" | "year" => set_default("0"),
            "bit" => set_default("b'0'"),
            "char" | "varchar" | "binary" | "varbinary" | "set" => set_default("''"),
            "enum" => match first_enum_value(column_type) {
                Some(value) => set_default(&value),
                None => modify_to_nullable_clause(&quoted, column_type, charset),
            },
            "date" => set_default("'1970-01-01'"),
            "time" => set_default("'00:00:00'"),
            "datetime" | "timestamp" => {
                // The default must have the same precision as the column.
                let precision = column_type.find('(').and_then(|at| column_type.get(at..));
                let precision = precision.unwrap_or_default();
                format!(
                    "MODIFY `{quoted}` {column_type} NOT NULL DEFAULT CURRENT_TIMESTAMP{precision}"
                )
            }
            "uuid" => set_default("'00000000-0000-0000-0000-000000000000'"),
            "inet4" => set_default("'0.0.0.0'"),
            "inet6" => set_default("'::'"),
            // Not every server allows a default for BLOB, TEXT, JSON and GEOMETRY, but every server allows NULL.
            _ => modify_to_nullable_clause(&quoted, column_type, charset),
        };
        UnfilledColumn {
            name: name.to_owned(),
            fix,
        }
    }
}

fn modify_to_nullable_clause(quoted: &str, column_type: &str, charset: Option<&str>) -> String {
    let charset = charset.map(|charset| format!(" CHARACTER SET {charset}"));
    let charset = charset
        .filter(|_| !column_type.eq_ignore_ascii_case("json"))
        .unwrap_or_default();
    format!("MODIFY `{quoted}` {column_type}{charset} NULL")
}

/// Returns the first value of `enum('a','b')` with its quotes. A quote inside the value is doubled.
fn first_enum_value(column_type: &str) -> Option<String> {
    let values = column_type.get(5..)?.strip_prefix('\'')?;
    let mut value = String::from("'");
    let mut rest = values.chars().peekable();
    while let Some(c) = rest.next() {
        value.push(c);
        if c == '\'' {
            match rest.next_if_eq(&'\'') {
                Some(second) => value.push(second),
                None => return Some(value),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggested_column_default_matches_the_column_type() {
        for (data_type, column_type, charset, want) in [
            ("int", "int(11)", None, "ALTER COLUMN `x` SET DEFAULT 0"),
            (
                "decimal",
                "decimal(10,2)",
                None,
                "ALTER COLUMN `x` SET DEFAULT 0",
            ),
            ("bit", "bit(1)", None, "ALTER COLUMN `x` SET DEFAULT b'0'"),
            (
                "varchar",
                "varchar(9)",
                Some("utf8mb4"),
                "ALTER COLUMN `x` SET DEFAULT ''",
            ),
            (
                "enum",
                "enum('a''b','c')",
                Some("utf8mb4"),
                "ALTER COLUMN `x` SET DEFAULT 'a''b'",
            ),
            (
                "datetime",
                "datetime(6)",
                None,
                "MODIFY `x` datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)",
            ),
            (
                "timestamp",
                "timestamp",
                None,
                "MODIFY `x` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP",
            ),
            ("blob", "blob", None, "MODIFY `x` blob NULL"),
            (
                "text",
                "text",
                Some("latin1"),
                "MODIFY `x` text CHARACTER SET latin1 NULL",
            ),
            ("json", "json", None, "MODIFY `x` json NULL"),
            ("enum", "enum(", None, "MODIFY `x` enum( NULL"),
        ] {
            let column = UnfilledColumn::new("x", data_type, column_type, charset);
            assert_eq!(column.fix, want, "{data_type}");
        }
        let mail_id = UnfilledColumn::new("mail_id", "bigint", "bigint(20) unsigned", None);
        assert_eq!(
            mail_id.fix,
            "MODIFY `mail_id` bigint(20) unsigned NOT NULL AUTO_INCREMENT"
        );
    }
}
