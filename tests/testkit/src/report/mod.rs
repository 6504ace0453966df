//! Tables of figures that a benchmark writes: a file of tab-separated values, and the Markdown table and the SVG picture that
//! are made from it.
//!
//! `FOLDER/img/NAME.tsv` is the result of one group of measurements. Its text and picture never contain a figure that is not in
//! this file, so a test can make them again and compare.

mod markdown;
mod picture;
mod series;
mod tsv;

use std::fs;
use std::io;
use std::path::Path;

/// The figures of one group of measurements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The name of the group and of its files.
    pub name: String,
    pub title: String,
    /// The date and the machine.
    pub measured: String,
    pub command: String,
    /// Notes below the table, such as what a 250 means or which server is missing.
    pub notes: Vec<String>,
    /// Whether the rows are one series, of which the picture shows each column as a line over the first one, and the text the
    /// medians of tenths.
    pub is_series: bool,
    /// The columns that the picture shows.
    pub drawn: Vec<String>,
    /// The first column is the case, the second one what is measured in it; in a series the first one is what passes.
    pub columns: Vec<String>,
    /// The cells of each row, as they are printed.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table without figures.
    pub fn new(name: &str, title: &str, columns: &[&str], drawn: &[&str]) -> Table {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Table {
            name: name.to_owned(),
            title: title.to_owned(),
            columns: owned(columns),
            drawn: owned(drawn),
            ..Table::default()
        }
    }

    /// Appends a row.
    ///
    /// # Panics
    /// Panics if the number of cells is not that of the columns.
    pub fn push(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "{cells:?}");
        self.rows.push(cells);
    }

    /// Appends a note.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Writes the values and the picture to `folder/img`, and the text into `folder/benchmarks.md`: in place of the text of
    /// this name, or at the end.
    pub fn publish(&self, folder: &Path) -> io::Result<()> {
        let images = folder.join("img");
        fs::create_dir_all(&images)?;
        fs::write(images.join(format!("{}.tsv", self.name)), self.to_tsv())?;
        self.publish_text(folder)
    }

    /// Writes the picture and the text only.
    pub fn publish_text(&self, folder: &Path) -> io::Result<()> {
        let picture = folder.join("img").join(format!("{}.svg", self.name));
        fs::write(picture, self.picture())?;
        let page = folder.join("benchmarks.md");
        let before = fs::read_to_string(&page).unwrap_or_default();
        fs::write(page, markdown::replace(&before, self))
    }
}

/// Reads all tables in `folder/img`, in the order of their names.
pub fn read_all(folder: &Path) -> Vec<Table> {
    let files = fs::read_dir(folder.join("img"))
        .into_iter()
        .flatten()
        .flatten();
    let mut paths: Vec<_> = files.map(|file| file.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "tsv"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).expect("a readable file");
        let table = Table::from_tsv(&text);
        table.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The cell of a figure that does not exist.
pub const NO_FIGURE: &str = "–";

/// Returns the cell of a whole number, with commas between groups of three digits.
pub fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut cell = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            cell.push(',');
        }
        cell.push(digit);
    }
    cell
}

/// Returns the number in a cell, which may have commas between groups of digits.
fn number(cell: &str) -> Option<f64> {
    let number: f64 = cell.replace(',', "").parse().ok()?;
    number.is_finite().then_some(number)
}
