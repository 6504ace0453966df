//! Renders a section of a Markdown page as part of a man page.

use std::mem;

use clap_mangen::roff::{Inline, Roff, bold, roman};
use pulldown_cmark::{Event, HeadingLevel, LinkType, Options, Parser, Tag, TagEnd};

/// Appends to `roff` the content of the section of `page` that has this heading of the second level.
pub fn append_section(page: &str, heading: &str, roff: &mut Roff) {
    let mut section = Section {
        roff,
        line: Vec::new(),
        columns: Vec::new(),
        cells: Vec::new(),
        link_target: String::new(),
        in_code_block: false,
    };
    let mut title = None::<String>;
    let mut is_wanted = false;
    for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
        match (event, &mut title) {
            (Event::Start(Tag::Heading { level, .. }), _) if level <= HeadingLevel::H2 => {
                title = Some(String::new());
            }
            (Event::End(TagEnd::Heading(_)), Some(found)) => {
                is_wanted = found == heading;
                title = None;
            }
            (Event::Text(text), Some(title)) => title.push_str(&text),
            (event, _) if is_wanted => section.append(event),
            _ => {}
        }
    }
}

struct Section<'a> {
    roff: &'a mut Roff,
    /// The inline elements since the last end of a line, a paragraph or a cell.
    line: Vec<Inline>,
    /// The headings of the current table.
    columns: Vec<String>,
    /// The cells of the current row.
    cells: Vec<Vec<Inline>>,
    link_target: String,
    in_code_block: bool,
}

impl Section<'_> {
    fn append(&mut self, event: Event) {
        match event {
            Event::Text(text) if self.in_code_block => self.append_lines_of_code(&text),
            Event::Text(text) => self.line.push(roman(text.as_ref())),
            Event::Code(text) => self.line.push(bold(text.as_ref())),
            Event::SoftBreak | Event::HardBreak => self.end_line(),
            Event::Start(Tag::Link {
                link_type: LinkType::Inline,
                dest_url,
                ..
            }) => {
                self.link_target = dest_url.into_string();
            }
            Event::End(TagEnd::Link) => self.append_page_of_link(),
            Event::Start(Tag::Paragraph) => drop(self.roff.control("PP", [])),
            Event::End(TagEnd::Paragraph) => self.end_line(),
            Event::Start(Tag::Item) => drop(self.roff.control("IP", ["\\(bu", "2"])),
            Event::End(TagEnd::Item) => self.end_line(),
            Event::Start(Tag::CodeBlock(_)) => {
                self.in_code_block = true;
                self.roff.control("PP", []).control("RS", ["4"]);
                self.roff.control("nf", []);
            }
            Event::End(TagEnd::CodeBlock) => {
                self.in_code_block = false;
                self.roff.control("fi", []).control("RE", []);
            }
            Event::End(TagEnd::TableCell) => self.cells.push(mem::take(&mut self.line)),
            Event::End(TagEnd::TableHead) => {
                let cells = mem::take(&mut self.cells);
                self.columns = cells.iter().map(|cell| plain_text(cell)).collect();
            }
            Event::End(TagEnd::TableRow) => self.append_row(),
            _ => {}
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(mem::take(&mut self.line));
        }
    }

    fn append_lines_of_code(&mut self, text: &str) {
        for line in text.lines() {
            self.roff.text([roman(line)]);
        }
    }

    /// Appends the file name of a link to another page.
    fn append_page_of_link(&mut self) {
        let target = mem::take(&mut self.link_target);
        let file = target.split('#').next().unwrap_or_default();
        if file.ends_with(".md") {
            self.line.push(roman(format!(" (docs/{file})")));
        }
    }

    /// Appends a row of a table as a paragraph with the first cell as its tag. Each cell follows its heading, unless that says
    /// only that the cell is a key or a description.
    fn append_row(&mut self) {
        let mut cells = mem::take(&mut self.cells).into_iter();
        let mut columns = self.columns.iter();
        let (Some(term), Some(column)) = (cells.next(), columns.next()) else {
            return;
        };
        let mut tag = plain_text(&term);
        if column != "key" {
            tag.insert_str(0, &format!("{column}: "));
        }
        self.roff.control("TP", []);
        self.roff.text([bold(tag)]);
        for (at, (column, mut cell)) in columns.zip(cells).enumerate() {
            if at > 0 {
                self.roff.control("br", []);
            }
            if column != "meaning" {
                cell.insert(0, roman(format!("{column}: ")));
            }
            self.roff.text(cell);
        }
    }
}

fn plain_text(line: &[Inline]) -> String {
    let texts = line.iter().map(|inline| match inline {
        Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
        Inline::LineBreak => " ",
    });
    texts.collect()
}
