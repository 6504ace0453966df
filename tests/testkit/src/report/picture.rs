//! Tables as pictures: horizontal bars in SVG, one panel for each drawn column.
//!
//! The picture has its own background, because the picture cannot detect whether its page is light or dark: the media query
//! follows the browser and not the page.

use super::{Table, number};

impl Table {
    /// Returns the SVG. The bars of a panel start at zero and have the same scale, which is linear.
    pub fn picture(&self) -> String {
        if self.is_series {
            return self.picture_of_series();
        }
        let panels = self.panels();
        let mut lines = String::new();
        let mut y = HEAD_HEIGHT;
        let mut case = None;
        for row in &self.rows {
            if case != Some(&row[0]) {
                case = Some(&row[0]);
                y += CASE_HEIGHT;
                lines += &text(MARGIN, y - 6, "head", "start", &row[0]);
            }
            lines += &text(LABEL_END, y + 13, "", "end", &row[1]);
            for panel in &panels {
                lines += &panel.bar(row, y);
            }
            y += ROW_HEIGHT;
        }
        let mut heads = String::new();
        for panel in &panels {
            heads += &text(panel.left, HEAD_HEIGHT - 4, "head", "start", panel.name);
        }
        frame(self, y + MARGIN, &(heads + &lines))
    }

    fn panels(&self) -> Vec<Panel<'_>> {
        let width = (WIDTH - MARGIN - LABEL_END - GAP) / self.drawn.len().max(1) as u32;
        let drawn = (0..).zip(&self.drawn).filter_map(|(place, name)| {
            let column = self.columns.iter().position(|column| column == name)?;
            let numbers = self.rows.iter().filter_map(|row| number(&row[column]));
            Some(Panel {
                name,
                column,
                left: LABEL_END + GAP + place * width,
                bar_width: width.saturating_sub(FIGURE_WIDTH),
                largest: numbers.fold(0.0, f64::max),
            })
        });
        drawn.collect()
    }
}

/// The place and the scale of a column in the picture.
struct Panel<'a> {
    name: &'a str,
    column: usize,
    left: u32,
    /// The width of the longest bar.
    bar_width: u32,
    largest: f64,
}

impl Panel<'_> {
    /// Returns the bar of a row and, after it, the figure as it is in the table.
    fn bar(&self, row: &[String], y: u32) -> String {
        let cell = &row[self.column];
        let part = number(cell).map_or(0.0, |number| number / self.largest.max(f64::MIN_POSITIVE));
        let width = part * f64::from(self.bar_width);
        let class = match row[1].starts_with(OWN_NAME) {
            true => "own",
            false => "other",
        };
        let (left, top, bottom) = (self.left, y + 3, y + ROW_HEIGHT);
        let (after, base, cell) = (f64::from(left) + width + 5.0, y + 13, escaped(cell));
        format!(
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\"/>\n\
             <text x=\"{after:.1}\" y=\"{base}\">{cell}</text>\n\
             <line class=\"axis\" x1=\"{left}\" y1=\"{y}\" x2=\"{left}\" y2=\"{bottom}\"/>\n"
        )
    }
}

/// Returns the whole picture: the title of the table, how it was measured, and `content` below.
pub(super) fn frame(table: &Table, height: u32, content: &str) -> String {
    let title = escaped(&table.title);
    let measured = text(MARGIN, TITLE_BASE + 18, "", "start", &table.measured);
    let shown_title = text(MARGIN, TITLE_BASE, "title", "start", &table.title);
    let style = match table.is_series {
        true => format!("{STYLE}{STYLE_OF_SERIES}"),
        false => STYLE.to_owned(),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\">\n<title>{title}</title>\n<style>{style}</style>\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n{shown_title}{measured}{content}</svg>\n"
    )
}

pub(super) fn text(x: u32, y: u32, class: &str, anchor: &str, content: &str) -> String {
    let content = escaped(content);
    format!(
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{content}</text>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Rows of which the name begins with it are drawn in the color of this program.
const OWN_NAME: &str = "goguerrilla";
pub(super) const WIDTH: u32 = 900;
pub(super) const MARGIN: u32 = 14;
const TITLE_BASE: u32 = 26;
pub(super) const HEAD_HEIGHT: u32 = 72;
const CASE_HEIGHT: u32 = 26;
const ROW_HEIGHT: u32 = 19;
const BAR_HEIGHT: u32 = 12;
/// Where the names of the rows end.
const LABEL_END: u32 = 230;
const GAP: u32 = 10;
/// Room for a figure after the longest bar.
const FIGURE_WIDTH: u32 = 75;
/// The colors of both schemes have a contrast of at least 4.5 (text) and 3 (bars) to their background.
const STYLE: &str = "
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.head{font-weight:600}
.back{fill:#ffffff}.own{fill:#0969da}.other{fill:#8b949e}.axis{stroke:#afb8c1}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.back{fill:#0d1117}.own{fill:#4493f8}.other{fill:#768390}.axis{stroke:#484f58}
}
";
/// The lines of a series have the color of this program's bars.
const STYLE_OF_SERIES: &str = "\
.series{fill:none;stroke:#0969da;stroke-width:1.5}
@media (prefers-color-scheme:dark){.series{stroke:#4493f8}}
";
