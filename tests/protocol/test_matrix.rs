//! `tests/README.md` names only existing tests, dialogues, configurations and mails, and each fuzz target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::test;

#[test]
fn every_test_named_in_the_readme_exists() {
    let tests = testkit::root_folder().join("tests");
    let table = fs::read_to_string(tests.join("README.md")).expect("the table");
    let names: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
    let missing: Vec<&&str> = names
        .iter()
        .filter(|name| !named_item_exists(&tests, name))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let dialogues = names.iter().filter(|name| name.ends_with(".dialog"));
    assert!(
        names.len() > 150 && dialogues.count() > 30,
        "{}",
        names.len()
    );
}

#[test]
fn every_fuzz_target_is_built_described_and_has_a_corpus() {
    let root = testkit::root_folder();
    let names_in = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root.join(folder)).expect("a folder");
        let name = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
        entries
            .filter_map(|entry| name(entry.ok()?.path()))
            .collect()
    };
    let targets = names_in("fuzz/fuzz_targets");
    assert!(targets.len() > 10, "{targets:?}");
    assert_eq!(names_in("fuzz/corpus"), targets);
    assert!(names_in("fuzz/dictionaries").is_subset(&targets));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("the manifest");
    let readme = fs::read_to_string(root.join("tests/README.md")).expect("the table");
    let (_, section) = readme.split_once("\n## Fuzz targets\n").expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    for target in &targets {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"\n")),
            "{target}"
        );
        assert!(section.contains(&format!("\n| `{target}` |")), "{target}");
    }
    assert_eq!(section.matches("\n| `").count(), targets.len());
    assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    let page = fs::read_to_string(root.join("docs/security.md")).expect("a page");
    assert!(page.contains(&format!("runs {} targets", targets.len())));
}

/// Returns whether the test, dialogue, configuration or mail with this name exists; true for commands, for functions of
/// testkit, for placeholders such as `configs/NAME`, and for other words.
fn named_item_exists(tests: &Path, name: &str) -> bool {
    if name.contains(char::is_whitespace) || name.contains("NAME") || name.starts_with("testkit::")
    {
        return true;
    }
    if let Some((file, test)) = name.rsplit_once("::") {
        let files = match file.starts_with("src/") {
            true => vec![tests.join("..").join(file)],
            false => ["protocol", "stores", "system", "soak", "compat", ""]
                .map(|tier| tests.join(tier).join(file).with_extension("rs"))
                .to_vec(),
        };
        let call = format!("fn {test}(");
        let mut texts = files
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok());
        return texts.any(|text| text.contains(&call));
    }
    if name.ends_with(".dialog") {
        let (beginning, end) = name.split_once('*').unwrap_or((name, ""));
        let entries = fs::read_dir(tests.join("dialogs")).expect("the folder of dialogues");
        let mut files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        return files.any(|file| match end {
            "" => file == beginning,
            _ => file.starts_with(beginning) && file.ends_with(end),
        });
    }
    if (name.starts_with("configs/") && name != "configs/") || name.ends_with(".eml") {
        let folder = if name.ends_with(".eml") { "corpus" } else { "" };
        return tests.join(folder).join(name).exists();
    }
    true
}
