//! A series of measurements as a picture: one panel for each drawn column, one below the other, over the first column.

use super::picture::{HEAD_HEIGHT, MARGIN, WIDTH, frame, text};
use super::{NO_FIGURE, Table, number};

impl Table {
    /// Returns the SVG. Each panel starts at zero and ends at the largest number of its column.
    pub(super) fn picture_of_series(&self) -> String {
        let mut lines = String::new();
        let mut top = HEAD_HEIGHT - 20;
        for name in &self.drawn {
            let column = self.columns.iter().position(|column| column == name);
            let column = column.expect("a drawn column is one of the columns");
            lines += &self.panel(column, top);
            top += PANEL_HEIGHT + GAP;
        }
        let ends = [
            (LEFT, "start", self.rows.first()),
            (RIGHT, "end", self.rows.last()),
        ];
        for (x, anchor, row) in ends {
            let cell = row.map_or(NO_FIGURE, |row| row[0].as_str());
            let label = format!("{cell} {}", self.columns[0]);
            lines += &text(x, top + 6, "", anchor, &label);
        }
        frame(self, top + 6 + MARGIN, &lines)
    }

    /// Returns the rows that stand for a series in a page: the median of each column for each tenth of the rows.
    pub(super) fn tenths(&self) -> Vec<Vec<String>> {
        let count = self.rows.len();
        let tenth = |tenth: usize| {
            let rows = &self.rows[count * tenth / 10..count * (tenth + 1) / 10];
            let last = rows.last().into_iter().map(|row| row[0].clone());
            let medians = (1..self.columns.len()).map(|column| {
                let mut cells: Vec<&str> = rows.iter().map(|row| row[column].as_str()).collect();
                cells.sort_by(|a, b| {
                    let value = |cell| number(cell).unwrap_or_default();
                    value(a).total_cmp(&value(b))
                });
                cells[cells.len() / 2].to_owned()
            });
            last.chain(medians).collect()
        };
        (0..10)
            .filter(|tenth| count * tenth / 10 < count * (tenth + 1) / 10)
            .map(tenth)
            .collect()
    }

    /// Returns the line of one column, with its name and its largest cell.
    fn panel(&self, column: usize, top: u32) -> String {
        let cells = self.rows.iter().map(|row| row[column].as_str());
        let numbers = cells.map(|cell| (number(cell).unwrap_or_default(), cell));
        let numbers: Vec<(f64, &str)> = numbers.collect();
        let (largest, largest_cell) = (numbers.iter().copied())
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .unwrap_or((0.0, NO_FIGURE));
        let bottom = top + PANEL_HEIGHT;
        let step = f64::from(RIGHT - LEFT) / (numbers.len().max(2) - 1) as f64;
        let height = f64::from(PANEL_HEIGHT - TOP_SPACE) / largest.max(f64::MIN_POSITIVE);
        let points = (0..).zip(&numbers).map(|(place, (number, _))| {
            let x = f64::from(LEFT) + step * f64::from(place);
            format!("{x:.1},{:.1}", f64::from(bottom) - number * height)
        });
        let points: Vec<String> = points.collect();
        let points = points.join(" ");
        text(MARGIN, top + 14, "head", "start", &self.columns[column])
            + &text(LEFT - 6, top + TOP_SPACE + 4, "", "end", largest_cell)
            + &text(LEFT - 6, bottom, "", "end", "0")
            + &format!(
                "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{RIGHT}\" y2=\"{bottom}\"/>\n\
                 <polyline class=\"series\" points=\"{points}\"/>\n"
            )
    }
}

/// Where the lines begin and end.
const LEFT: u32 = 230;
const RIGHT: u32 = WIDTH - MARGIN;
const PANEL_HEIGHT: u32 = 84;
/// Space above the largest number of a panel.
const TOP_SPACE: u32 = 10;
const GAP: u32 = 16;
