//! The files of benchmarks: each picture is well-formed and shows the figures of its table, and the committed pictures and
//! tables are those that are made from the committed values.

use std::fs;
use std::path::Path;

use roxmltree::{Document, Node};
use testkit::report::{NO_FIGURE, Table, read_all, whole};
use testkit::{root_folder, test};

#[test]
fn picture_is_well_formed_and_shows_the_figures_of_its_table() {
    let table = sample();
    let picture = table.picture();
    let document = Document::parse(&picture).expect("well-formed XML");
    let texts = texts(&document);
    for row in &table.rows {
        let start = texts
            .iter()
            .position(|text| *text == row[1])
            .expect("its name");
        assert_eq!(texts[start + 1], row[2], "{row:?}");
        assert_eq!(texts[start + 2], row[3], "{row:?}");
    }
    for text in [
        &table.title,
        &table.measured,
        "2 KB & more",
        "10 KB",
        "mails/s",
        "p99 <ms>",
    ] {
        assert!(texts.contains(&text), "{text} is not in {texts:?}");
    }
    assert!(
        !texts.contains(&"not drawn"),
        "a column that is not drawn is not in the picture"
    );
}

#[test]
fn bars_of_a_picture_are_proportional_to_their_figures() {
    let picture = sample().picture();
    let document = Document::parse(&picture).expect("well-formed XML");
    let bars: Vec<f64> = document.descendants().filter_map(bar_width).collect();
    // Row by row, each with one bar for each drawn column.
    let [mails, _, few, milliseconds, none, most] = bars[..] else {
        panic!("expected six bars, but found {bars:?}");
    };
    assert!((mails / few - 1_000.0 / 250.0).abs() < 0.01, "{bars:?}");
    assert!((milliseconds / most - 0.5 / 2.0).abs() < 0.01, "{bars:?}");
    assert_eq!(none, 0.0, "a missing figure has no bar");
    let total = document.root_element().attribute("width").expect("a width");
    let total: f64 = total.parse().expect("a number");
    for node in document.descendants() {
        let right = bar_width(node).map(|width| width + number(node, "x"));
        assert!(
            right.unwrap_or_default() < total,
            "a bar ends outside of the picture"
        );
    }
}

#[test]
fn lines_of_a_series_have_a_point_for_each_row_in_proportion_to_its_figure() {
    let table = series();
    let picture = table.picture();
    let document = Document::parse(&picture).expect("well-formed XML");
    let lines: Vec<Vec<(f64, f64)>> = document.descendants().filter_map(points).collect();
    assert_eq!(lines.len(), table.drawn.len());
    for line in &lines {
        assert_eq!(line.len(), table.rows.len());
        let rises: Vec<f64> = line.windows(2).map(|pair| pair[0].1 - pair[1].1).collect();
        let steps: Vec<f64> = line.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(steps.iter().all(|step| (step - steps[0]).abs() < 0.2));
        // The figures rise by the same amount from row to row and fall by five times as much after the sixth.
        assert!(rises[0] > 1.0, "{rises:?}");
        for (rise, wanted) in rises.iter().zip([1.0, 1.0, 1.0, 1.0, 1.0, -5.0]) {
            assert!((rise - wanted * rises[0]).abs() < 0.5, "{rises:?}");
        }
    }
    let texts = texts(&document);
    for text in [
        "resident <MiB>",
        "6.0",
        "threads",
        "18",
        "100 mails",
        "2,000 mails",
    ] {
        assert!(texts.contains(&text), "{text} is not in {texts:?}");
    }
}

#[test]
fn page_shows_the_median_of_each_tenth_of_a_series() {
    let table = series();
    let section = table.section();
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    assert_eq!(rows.len(), 2 + 10, "{section}");
    assert_eq!(rows[1], "|---:|---:|---:|", "{section}");
    assert_eq!(rows[2], "| 200 | 2.0 | 6 |", "{section}");
    assert_eq!(rows[4], "| 600 | 6.0 | 18 |", "{section}");
    assert_eq!(rows[11], "| 2,000 | 2.0 | 6 |", "{section}");
    assert_eq!(Table::from_tsv(&table.to_tsv()), Ok(table));
}

#[test]
fn picture_has_colors_for_light_and_dark_backgrounds() {
    let picture = sample().picture();
    assert!(picture.contains("prefers-color-scheme:dark"), "{picture}");
    assert!(picture.contains("class=\"back\""), "{picture}");
}

#[test]
fn values_that_are_written_are_read_again() {
    let table = sample();
    assert_eq!(Table::from_tsv(&table.to_tsv()), Ok(table));
}

#[test]
fn whole_numbers_have_commas_between_groups_of_three_digits() {
    for (number, cell) in [
        (0.4, "0"),
        (999.0, "999"),
        (1_000.0, "1,000"),
        (1_234_567.0, "1,234,567"),
    ] {
        assert_eq!(whole(number), cell);
    }
}

#[test]
fn faulty_values_are_rejected_with_their_line() {
    let fault = |text: &str| Table::from_tsv(text).expect_err("a fault");
    assert_eq!(
        fault("a\tb\n1\n"),
        "line 2: expected one cell for each column"
    );
    assert_eq!(fault("# a\n"), "line 1: expected KEY: VALUE");
    assert_eq!(fault("# drawn: c\na\tb\n"), "no column c to draw");
}

#[test]
fn new_figures_replace_the_old_ones_of_their_group_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("benchmarks.md");
    fs::write(&page, "# Benchmarks\n\nBefore.\n").expect("a file is written");
    let mut first = sample();
    let mut second = sample();
    second.name = "second".to_owned();
    first.publish(folder.path()).expect("files are written");
    second.publish(folder.path()).expect("files are written");
    first.rows[0][2] = "1,234".to_owned();
    first.publish(folder.path()).expect("files are written");
    let text = fs::read_to_string(&page).expect("a page");
    assert!(text.starts_with("# Benchmarks\n\nBefore.\n"), "{text}");
    assert_eq!(
        text.matches("| 2 KB & more | goguerrilla, discard |")
            .count(),
        2,
        "{text}"
    );
    assert_eq!(text.matches("1,234").count(), 1, "{text}");
    assert!(text.find("1,234") < text.find("img/second.svg"), "{text}");
    assert_eq!(read_all(folder.path()), [first, second]);
}

#[test]
fn committed_pictures_and_tables_are_made_from_the_committed_values() {
    let docs = root_folder().join("docs");
    let tables = read_all(&docs);
    assert!(!tables.is_empty(), "docs/img has no values");
    let read = |path: &Path| fs::read_to_string(path).expect("a readable file");
    let page = read(&docs.join("benchmarks.md"));
    for table in tables {
        let name = &table.name;
        let cure = "run `make bench ROWS=pages OUT=docs`";
        let picture = read(&docs.join(format!("img/{name}.svg")));
        assert_eq!(picture, table.picture(), "docs/img/{name}.svg: {cure}");
        assert!(
            page.contains(&table.section()),
            "docs/benchmarks.md, {name}: {cure}"
        );
    }
}

/// Returns a table with a missing figure and characters that XML reserves.
fn sample() -> Table {
    let columns = ["case", "server", "mails/s", "p99 <ms>", "note"];
    let mut table = Table::new(
        "first",
        "Mails & servers",
        &columns,
        &["mails/s", "p99 <ms>"],
    );
    table.measured = "2026-11-30, 2 cores".to_owned();
    table.command = "make bench ROWS=first".to_owned();
    table.note("250 of a server: nothing is kept");
    for row in [
        [
            "2 KB & more",
            "goguerrilla, discard",
            "1,000",
            "0.10",
            "not drawn",
        ],
        ["2 KB & more", "other <server>", "250", "0.50", "not drawn"],
        [
            "10 KB",
            "goguerrilla, SQLite",
            NO_FIGURE,
            "2.00",
            "not drawn",
        ],
    ] {
        table.push(row.map(str::to_owned).to_vec());
    }
    table
}

/// Returns a series of 20 rows whose figures rise from 1 to 6 again and again.
fn series() -> Table {
    let drawn = ["resident <MiB>", "threads"];
    let columns = ["mails", drawn[0], drawn[1]];
    let mut table = Table::new("series", "Many mails", &columns, &drawn);
    table.is_series = true;
    for number in 0..20 {
        let figure = number % 6 + 1;
        table.push(vec![
            whole(f64::from(number + 1) * 100.0),
            format!("{figure}.0"),
            (figure * 3).to_string(),
        ]);
    }
    table
}

fn points(node: Node) -> Option<Vec<(f64, f64)>> {
    let points = node.attribute("points")?.split(' ');
    let points = points.map(|point| {
        let (x, y) = point.split_once(',').expect("two numbers");
        (x.parse().expect("a number"), y.parse().expect("a number"))
    });
    Some(points.collect())
}

fn texts<'a>(document: &'a Document) -> Vec<&'a str> {
    let nodes = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")));
    nodes.filter_map(|node| node.text()).collect()
}

fn bar_width(node: Node) -> Option<f64> {
    matches!(node.attribute("class"), Some("own" | "other")).then(|| number(node, "width"))
}

fn number(node: Node, attribute: &str) -> f64 {
    let value = node.attribute(attribute).expect("the attribute");
    value.parse().expect("a number")
}
