//! The configurations that users copy: files of the folder dist and code blocks of docs.

use std::fs;

/// Returns the file `name` of the folder dist, which users copy.
pub fn dist_file(name: &str) -> String {
    let file = crate::root_folder().join("dist").join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns the code block of `page` in the folder docs that contains `text`.
pub fn documented_block(page: &str, text: &str) -> String {
    let file = crate::root_folder().join("docs").join(page);
    let page = fs::read_to_string(&file).expect("a page of docs");
    let blocks = page.split("\n```").skip(1).step_by(2);
    let block = blocks.into_iter().find(|block| block.contains(text));
    let block = block.unwrap_or_else(|| panic!("{} has no block with {text}", file.display()));
    let (_language, block) = block.split_once('\n').expect("lines");
    format!("{block}\n")
}

/// Replaces parts of a configuration. Panics if a part is missing.
pub fn with(config: &str, replacements: &[(&str, &str)]) -> String {
    let mut config = config.to_owned();
    for (old, new) in replacements {
        assert!(config.contains(old), "{old} is not in\n{config}");
        config = config.replace(old, new);
    }
    config
}
