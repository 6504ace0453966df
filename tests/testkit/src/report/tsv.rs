//! Tables as tab-separated values: lines `# KEY: VALUE`, the names of the columns, then one line for each row.

use super::Table;

impl Table {
    /// Returns the text of the file.
    pub fn to_tsv(&self) -> String {
        let mut lines = vec![
            format!("# name: {}", self.name),
            format!("# title: {}", self.title),
            format!("# measured: {}", self.measured),
            format!("# command: {}", self.command),
        ];
        lines.extend(self.notes.iter().map(|note| format!("# note: {note}")));
        if self.is_series {
            lines.push("# form: series".to_owned());
        }
        lines.extend(self.drawn.iter().map(|column| format!("# drawn: {column}")));
        lines.push(self.columns.join("\t"));
        lines.extend(self.rows.iter().map(|row| row.join("\t")));
        lines.join("\n") + "\n"
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// Returns what is wrong and in which line.
    pub fn from_tsv(text: &str) -> Result<Table, String> {
        let mut table = Table::default();
        for (index, line) in text.lines().enumerate() {
            let fault = |what: &str| format!("line {}: {what}", index + 1);
            if let Some(comment) = line.strip_prefix("# ") {
                let (key, value) = comment
                    .split_once(": ")
                    .ok_or(fault("expected KEY: VALUE"))?;
                let value = value.to_owned();
                match key {
                    "name" => table.name = value,
                    "title" => table.title = value,
                    "measured" => table.measured = value,
                    "command" => table.command = value,
                    "note" => table.notes.push(value),
                    "form" => table.is_series = value == "series",
                    "drawn" => table.drawn.push(value),
                    _ => return Err(fault("unknown key")),
                }
                continue;
            }
            let cells: Vec<String> = line.split('\t').map(str::to_owned).collect();
            if table.columns.is_empty() {
                table.columns = cells;
            } else if cells.len() == table.columns.len() {
                table.rows.push(cells);
            } else {
                return Err(fault("expected one cell for each column"));
            }
        }
        let is_column = |name: &String| table.columns.contains(name);
        match table.drawn.iter().find(|name| !is_column(name)) {
            Some(name) => Err(format!("no column {name} to draw")),
            None => Ok(table),
        }
    }
}
