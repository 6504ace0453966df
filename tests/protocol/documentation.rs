//! The documentation: links lead to existing files and headings, and shown code compiles.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use goguerrilla::Config;
use testkit::test;

#[test]
fn links_lead_to_existing_files_and_headings() {
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for link in relative_links(&text) {
            links += 1;
            if !link_target_exists(&page, link) {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(links > 50, "{links}");
}

#[test]
fn readme_is_at_most_150_lines_long_and_links_to_every_page() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 150);
    let linked: BTreeSet<&str> = relative_links(&readme).into_iter().collect();
    for page in fs::read_dir(root().join("docs")).expect("the folder of pages") {
        let name = page.expect("a page").file_name();
        let link = format!("docs/{}", name.to_string_lossy());
        assert!(
            !link.ends_with(".md") || linked.contains(&link.as_str()),
            "README.md has no link to {link}"
        );
    }
}

#[test]
fn documentation_shows_the_store_example_that_compiles() {
    let page = read("docs/library.md");
    let shown = page
        .split("```rust\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let shown = shown.expect("a store in docs/library.md");
    assert!(read("examples/folder_store.rs").contains(shown));
}

#[test]
fn configurations_of_the_quick_start_are_valid() {
    let page = read("docs/quick-start.md");
    let blocks: Vec<&str> = page
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let config = Config::from_json(block).expect("a valid configuration");
        assert_eq!(config.warnings(), [""; 0], "{block}");
    }
}

/// Returns every page of the documentation.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = ["", "docs", "tests", "tests/corpus"]
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    pages.sort();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// Returns the targets of Markdown links that are no URLs.
fn relative_links(text: &str) -> Vec<&str> {
    let rest = text.split("](").skip(1);
    rest.filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://"))
        .collect()
}

/// Returns whether the file of a link and, in a Markdown file, the heading after `#` exist.
fn link_target_exists(page: &Path, link: &str) -> bool {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let file = match file {
        "" => page.to_owned(),
        file => page.parent().expect("a folder").join(file),
    };
    if heading.is_empty() {
        return file.exists();
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    headings.any(|line| anchor(line) == heading)
}

/// Returns the anchor that GitHub gives a heading: lower case, `-` instead of spaces, without other punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.replace(' ', "-")
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
        .collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("a file of the project")
}

fn root() -> &'static Path {
    testkit::root_folder()
}
