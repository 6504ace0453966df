//! Tables as Markdown, and their place in a page.

use super::{NO_FIGURE, Table, number};

impl Table {
    /// Returns the table as Markdown; columns of numbers are aligned to the right.
    pub fn markdown(&self) -> String {
        let tenths = if self.is_series {
            self.tenths()
        } else {
            Vec::new()
        };
        let shown = if self.is_series { &tenths } else { &self.rows };
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let is_numeric = |column: usize| {
            let mut cells = shown.iter().map(|row| row[column].as_str());
            (column > 0 || self.is_series)
                && cells.all(|cell| cell == NO_FIGURE || number(cell).is_some())
        };
        let rules = (0..self.columns.len()).map(|column| match is_numeric(column) {
            true => "---:",
            false => "---",
        });
        let rule = format!("|{}|\n", rules.collect::<Vec<_>>().join("|"));
        let rows = shown.iter().map(|row| line(row));
        line(&self.columns) + &rule + &rows.collect::<String>()
    }

    /// Returns the text of a page about this table: how it was measured, the picture, the table and the notes.
    pub fn section(&self) -> String {
        let Table {
            name,
            title,
            measured,
            command,
            ..
        } = self;
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("- {note}\n"))
            .collect();
        let gap = if notes.is_empty() { "" } else { "\n" };
        format!(
            "`{command}`, {measured}.\n\n![{title}](img/{name}.svg)\n\n{}{gap}{notes}",
            self.markdown()
        )
    }
}

/// Returns the page with the text of this table between its two marks, which are appended if they are missing.
pub fn replace(page: &str, table: &Table) -> String {
    let (start, end) = marks(table);
    let section = format!("{start}\n{}{end}", table.section());
    let found = page
        .split_once(&start)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match found {
        Some((before, after)) => format!("{before}{section}{after}"),
        None => format!("{page}\n### {}\n\n{section}\n", table.title),
    }
}

/// Returns the comments around the text of a table.
fn marks(table: &Table) -> (String, String) {
    let name = &table.name;
    let writer = if table.is_series {
        "endurance"
    } else {
        "bench"
    };
    (
        format!("<!-- {name}: written by `make {writer}` -->"),
        format!("<!-- end of {name} -->"),
    )
}
