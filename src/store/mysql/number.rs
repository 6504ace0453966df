//! The largest whole number that a column of a given type can hold.

/// A column's type as in information_schema.COLUMNS.
#[derive(Clone, Debug, Default)]
pub struct SchemaColumnType {
    /// DATA_TYPE, such as `int`, `decimal` or `varchar`.
    pub data_type: String,
    /// COLUMN_TYPE, such as `int(10) unsigned`.
    pub column_type: String,
    /// NUMERIC_PRECISION: the number of digits, or of bits for `bit`.
    pub precision: Option<u64>,
    /// NUMERIC_SCALE: the number of digits after the decimal point.
    pub scale: Option<u64>,
    /// CHARACTER_MAXIMUM_LENGTH: the maximum number of characters; `None` for numbers.
    pub chars: Option<u64>,
}

impl SchemaColumnType {
    /// Returns the largest whole number that the column holds; `u64::MAX` if the type has no known limit.
    pub fn largest_storable_number(&self) -> u64 {
        if let Some(largest) = self.largest_integer() {
            return largest;
        }
        let digits = match self.data_type.to_ascii_lowercase().as_str() {
            "decimal" | "numeric" | "float" | "double" | "real" => self
                .scale
                .and_then(|scale| Some(self.precision?.saturating_sub(scale))),
            "char" | "varchar" | "binary" | "varbinary" | "tinytext" | "tinyblob" => self.chars,
            "bit" => return max_of_bits(self.precision.unwrap_or(1)),
            _ => None,
        };
        let power = digits.and_then(|digits| 10_u64.checked_pow(u32::try_from(digits).ok()?));
        power.map_or(u64::MAX, |power| power - 1)
    }

    /// Returns the largest value of an integer type; `None` for any other type.
    pub fn largest_integer(&self) -> Option<u64> {
        let bits = match self.data_type.to_ascii_lowercase().as_str() {
            "tinyint" => 8,
            "smallint" => 16,
            "mediumint" => 24,
            "int" | "integer" => 32,
            "bigint" => 64,
            _ => return None,
        };
        let is_unsigned = self.column_type.to_ascii_lowercase().contains("unsigned");
        Some(max_of_bits(bits - u64::from(!is_unsigned)))
    }
}

fn max_of_bits(bits: u64) -> u64 {
    match bits {
        64.. => u64::MAX,
        bits => (1 << bits) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_number_of_each_mysql_column_type_is_known() {
        let none = None;
        for (column_type, precision, scale, chars, want) in [
            ("tinyint(4)", Some(3), Some(0), none, 127),
            ("tinyint(3) unsigned", Some(3), Some(0), none, 255),
            ("smallint", Some(5), Some(0), none, 32_767),
            ("mediumint unsigned", Some(7), Some(0), none, 16_777_215),
            ("int(11)", Some(10), Some(0), none, 2_147_483_647),
            ("INT(10) UNSIGNED ZEROFILL", none, none, none, 4_294_967_295),
            ("bigint", Some(19), Some(0), none, i64::MAX as u64),
            ("bigint unsigned", Some(20), Some(0), none, u64::MAX),
            ("bit(1)", Some(1), none, none, 1),
            ("bit(64)", Some(64), none, none, u64::MAX),
            ("decimal(2,0)", Some(2), Some(0), none, 99),
            ("decimal(2,2)", Some(2), Some(2), none, 0),
            ("decimal(65,0)", Some(65), Some(0), none, u64::MAX),
            ("float", Some(12), none, none, u64::MAX),
            ("float(3,1)", Some(3), Some(1), none, 99),
            ("varchar(2)", none, none, Some(2), 99),
            ("varchar(0)", none, none, Some(0), 0),
            ("text", none, none, Some(65_535), u64::MAX),
            ("json", none, none, none, u64::MAX),
        ] {
            let data_type = column_type.split(['(', ' ']).next().unwrap_or_default();
            let column = SchemaColumnType {
                data_type: data_type.to_owned(),
                column_type: column_type.to_owned(),
                precision,
                scale,
                chars,
            };
            assert_eq!(column.largest_storable_number(), want, "{column_type}");
        }
    }
}
