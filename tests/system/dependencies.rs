//! The crates that each combination of Cargo features compiles, and their documented number.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use testkit::test;

/// Each combination of features, and the beginnings of the names of crates that it must not compile.
const COMBINATIONS: [(&str, &[&str]); 4] = [
    (
        "none",
        &["rusqlite", "libsqlite3-sys", "mysql", "redis", "r2d2"],
    ),
    ("`sqlite`", &["mysql", "redis", "r2d2"]),
    ("`mysql`", &["rusqlite", "libsqlite3-sys"]),
    ("`sqlite`, `mysql`", &[]),
];

#[test]
fn each_feature_compiles_only_the_crates_of_its_store() {
    for (features, excluded) in COMBINATIONS {
        for name in crates(features) {
            let is_excluded = excluded.iter().any(|start| name.starts_with(start));
            assert!(!is_excluded, "features {features}: {name}");
        }
    }
    let all = crates("`sqlite`, `mysql`");
    for name in ["libsqlite3-sys ", "mysql ", "r2d2 ", "redis "] {
        assert!(
            all.iter().any(|crate_name| crate_name.starts_with(name)),
            "{name}"
        );
    }
}

#[test]
fn documentation_gives_the_number_of_crates_of_each_feature() {
    let page = testkit::root_folder().join("docs/library.md");
    let page = fs::read_to_string(page).expect("docs/library.md");
    for (features, _) in COMBINATIONS {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| {features} | `")));
        let row = row.unwrap_or_else(|| panic!("docs/library.md has no row of {features}"));
        let documented = row
            .rsplit('|')
            .nth(1)
            .and_then(|cell| cell.trim().parse().ok());
        assert_eq!(documented, Some(crates(features).len()), "{row}");
    }
}

/// Returns name and version of each crate, except this one, that `cargo build` compiles with these features.
fn crates(features: &str) -> BTreeSet<String> {
    let features = match features {
        "none" => String::new(),
        features => features.replace('`', ""),
    };
    // Cargo sets the variable for the tests that it runs.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges=normal,build",
            "--prefix=none",
        ])
        .args([
            "--format={p}",
            "--no-default-features",
            "--features",
            &features,
        ])
        .output()
        .expect("cargo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let tree = String::from_utf8(output.stdout).expect("names in UTF-8");
    // A crate that occurs again has a mark after its version.
    let names = tree.lines().map(|line| line.trim_end_matches(" (*)"));
    let others = names.filter(|name| !name.starts_with("goguerrilla "));
    others.map(str::to_owned).collect()
}
