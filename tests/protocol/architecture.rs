//! The structure of src/: imports point down, files are short, and every list of keys is complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use goguerrilla::Config;

use testkit::test;

/// Each part of the library with the parts that it may import, as in the diagram in src/internals.rs.
const PLAN: &[(&str, &[&str])] = &[
    ("smtp", &[]),
    ("sync", &[]),
    ("error_chain", &[]),
    ("os", &[]),
    ("metrics", &[]),
    ("panics", &["metrics"]),
    ("logging", &["os", "metrics", "sync"]),
    ("config", &["smtp", "os"]),
    ("mail", &["smtp", "sync"]),
    ("net", &["metrics", "os", "sync"]),
    (
        "feed",
        &["mail", "smtp", "metrics", "logging", "panics", "sync"],
    ),
    (
        "store",
        &[
            "net",
            "feed",
            "mail",
            "smtp",
            "metrics",
            "os",
            "panics",
            "sync",
            "error_chain",
        ],
    ),
    ("check", &["store", "mail", "smtp", "panics"]),
    (
        "connection",
        &[
            "store",
            "net",
            "mail",
            "smtp",
            "metrics",
            "panics",
            "sync",
            "error_chain",
        ],
    ),
    (
        "http",
        &[
            "connection",
            "store",
            "net",
            "feed",
            "smtp",
            "metrics",
            "panics",
            "sync",
        ],
    ),
    (
        "server",
        &[
            "connection",
            "http",
            "check",
            "store",
            "net",
            "feed",
            "mail",
            "smtp",
            "config",
            "os",
            "metrics",
            "sync",
        ],
    ),
    (
        "daemon",
        &[
            "server", "http", "store", "net", "feed", "config", "os", "logging", "metrics",
        ],
    ),
    (
        "cli",
        &[
            "daemon", "server", "store", "config", "logging", "panics", "os",
        ],
    ),
    ("main", &["internals"]),
    ("lib", &[]),
    // Re-exports every part for the program and its tests; no part imports it.
    ("internals", &[]),
];

/// The maximum length of a file in lines.
const MAX_LINES: usize = 400;

/// Alternative spellings of keys, which the sample leaves out.
const ALIASES: &[&str] = &["GSMTP_LISTEN_INTERFACE", "SUID"];

#[test]
fn imports_follow_the_layers() {
    let mut faults = Vec::new();
    for (file, code) in sources() {
        let part = part(&file);
        let Some((_, allowed)) = PLAN.iter().find(|(name, _)| *name == part) else {
            faults.push(format!("{}: missing in PLAN", file.display()));
            continue;
        };
        // main.rs imports the library by its crate name.
        let library = if part == "main" {
            "goguerrilla"
        } else {
            "crate"
        };
        for imported in imported(&code, library) {
            if imported != part && !allowed.contains(&imported.as_str()) {
                faults.push(format!("{}: imports {imported}", file.display()));
            }
        }
        // In the file of a part `super` is the crate; in a file below it `super::super` may be the crate.
        let depth = file.components().count();
        let is_top = depth == 1 || (depth == 2 && file.ends_with("mod.rs"));
        let outside = if is_top {
            "use super::"
        } else {
            "use super::super::"
        };
        // Indented imports belong to a module inside the file, such as its tests.
        if code.lines().any(|line| line.starts_with(outside)) {
            faults.push(format!("{}: {outside} instead of crate::", file.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_source_file_is_longer_than_400_lines() {
    let long: Vec<String> = source_files()
        .into_iter()
        .filter_map(|path| {
            let lines = fs::read_to_string(&path)
                .expect("a readable file")
                .lines()
                .count();
            (lines > MAX_LINES).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn no_part_imports_one_that_imports_it() {
    for (part, allowed) in PLAN {
        for below in *allowed {
            assert!(!reaches(below, part), "{part} and {below} need each other");
        }
    }
}

#[test]
fn module_layers_match_the_list_in_lib_rs() {
    let library = read("src/lib.rs");
    let internals = read("src/internals.rs");
    let drawing = internals.split("```").nth(1).expect("a drawing");
    let names: BTreeSet<&str> = library
        .lines()
        .filter_map(|line| {
            line.trim_start_matches("pub ")
                .strip_prefix("mod ")?
                .strip_suffix(';')
        })
        .filter(|name| *name != "internals")
        .collect();
    let planned: BTreeSet<&str> = PLAN
        .iter()
        .map(|(part, _)| *part)
        .filter(|part| !["main", "lib", "internals"].contains(part))
        .collect();
    assert_eq!(names, planned);
    for name in names {
        assert!(
            words(drawing).contains(name),
            "{name} is missing in the drawing"
        );
    }
}

#[test]
fn architecture_page_lists_every_import_and_every_thread() {
    let page = read("docs/architecture.md");
    let rows_of = |section: &str| -> Vec<Vec<&str>> {
        let section = page.split("\n## ").find(|text| text.starts_with(section));
        let lines = section.expect("a section").lines();
        let rows = lines.filter_map(|line| line.strip_prefix("| "));
        rows.map(|row| row.split('|').map(str::trim).collect())
            .collect()
    };
    let rows = rows_of("Modules");
    for (part, allowed) in PLAN {
        // lib.rs and internals re-export everything and are described below the table.
        if ["lib", "internals"].contains(part) {
            continue;
        }
        let row = rows
            .iter()
            .find(|row| row[0].split(", ").any(|name| name == *part));
        let row = row.unwrap_or_else(|| panic!("docs/architecture.md has no row for {part}"));
        assert_eq!(row[1], allowed.join(" "), "{part}");
    }
    let rows = rows_of("Threads");
    let threads: BTreeSet<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
    for (file, code) in sources() {
        for begin in [".name(\"", ".name(format!(\"", "http_thread_builder(\""] {
            for rest in code.split(begin).skip(1) {
                let name = rest.split('"').next().expect("a name");
                let name = name.split('{').next().expect("a beginning");
                let is_listed = threads
                    .iter()
                    .any(|thread| *thread == name || thread.strip_suffix('N') == Some(name));
                assert!(is_listed, "{}: thread {name}", file.display());
            }
        }
    }
}

#[test]
fn smtp_module_uses_no_socket_clock_thread_or_log() {
    let mut faults = Vec::new();
    for (file, code) in sources().filter(|(file, _)| part(file) == "smtp") {
        let mut complain = |what: String| faults.push(format!("{}: {what}", file.display()));
        for part in imported(&code, "std") {
            if ["env", "fs", "io", "os", "process", "thread", "time"].contains(&part.as_str()) {
                complain(format!("std::{part}"));
            }
        }
        for name in imported(&code, "std::net") {
            // Address types are plain values.
            if !["IpAddr", "Ipv4Addr", "Ipv6Addr"].contains(&name.as_str()) {
                complain(format!("std::net::{name}"));
            }
        }
        let socket = |word: &&str| word.starts_with("Tcp") || word.starts_with("Udp");
        for word in words(&code).into_iter().filter(socket) {
            complain(word.to_owned());
        }
        for name in ["jiff", "log", "nix", "signal_hook", "socket2"] {
            if !imported(&code, name).is_empty() {
                complain(format!("{name}::"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_the_program_reads_environment_variables() {
    for (file, code) in sources() {
        let reads = ["var", "var_os", "vars", "vars_os"]
            .iter()
            .any(|function| code.contains(&format!("env::{function}(")));
        let may_read = ["main", "daemon"].contains(&part(&file).as_str());
        assert!(may_read || !reads, "{}", file.display());
    }
}

#[test]
fn sample_configuration_contains_exactly_the_known_keys() {
    let sample: serde_json::Value =
        serde_json::from_str(&read("goguerrilla.conf.sample")).expect("strict JSON");
    let sample = sample.as_object().expect("an object");
    let in_sample: BTreeSet<String> = sample.keys().cloned().collect();
    let keys = keys();
    let known: BTreeSet<String> = keys.iter().map(|(key, _)| key.clone()).collect();
    for alias in ALIASES {
        assert!(known.contains(*alias), "{alias} is known");
    }
    let expected = known
        .into_iter()
        .filter(|key| !ALIASES.contains(&key.as_str()));
    assert_eq!(in_sample, expected.collect());
}

#[test]
fn sample_configuration_loads_without_warnings() {
    let config = Config::load(root().join("goguerrilla.conf.sample"));
    assert_eq!(config.expect("a sample that loads").warnings(), [""; 0]);
}

#[test]
fn documentation_lists_every_key_with_its_default() {
    let page = read("docs/configuration.md");
    for (key, default) in keys() {
        let default = match default.as_str() {
            "" => "empty".to_owned(),
            default => format!("`{default}`"),
        };
        let row = format!("| {key} | {default} | ");
        let is_told = page.lines().any(|line| line.starts_with(&row));
        assert!(
            is_told,
            "docs/configuration.md has no row that begins {row}"
        );
    }
}

/// Returns every source file with its path below src and its text without comments.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let source = root().join("src");
    source_files().into_iter().map(move |path| {
        let text = fs::read_to_string(&path).expect("a readable file");
        let lines = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or(""));
        let code = lines.collect::<Vec<_>>().join("\n");
        let below = path.strip_prefix(&source).expect("a file below src");
        (below.to_owned(), code)
    })
}

/// Returns the path of every source file, sorted.
fn source_files() -> Vec<PathBuf> {
    let mut folders = vec![root().join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Returns the first component of a file's path below src.
fn part(file: &Path) -> String {
    let first = file.iter().next().expect("a path below src");
    let first = first.to_str().expect("a path below src");
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// Returns the names that follow `start::`, also in braces: `crate::{a, b::c}` imports a and b.
fn imported(code: &str, start: &str) -> BTreeSet<String> {
    let start = format!("{start}::");
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(&start) {
        // `some::log::` and `catalog::` are other paths than `log::`.
        let is_middle = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        if code[..at].ends_with(is_middle) {
            continue;
        }
        let rest = code[at + start.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_names(group)),
            None => names.extend(first_name(rest)),
        }
    }
    names
}

/// Returns the first name of each path in a group, which ends at its closing brace.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut item = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.extend(first_name(group[item..at].trim_start()));
                item = at + 1;
            }
            _ => {}
        }
        if c == '}' && item == at + 1 {
            break;
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_');
    let name = &path[..end.unwrap_or(path.len())];
    (!name.is_empty()).then(|| name.to_owned())
}

fn reaches(from: &str, to: &str) -> bool {
    let part = PLAN.iter().find(|(name, _)| *name == from);
    let (_, below) = part.unwrap_or_else(|| panic!("PLAN has no {from}"));
    below.iter().any(|next| *next == to || reaches(next, to))
}

/// Returns the keys of the configuration and their defaults from the table in the source code.
fn keys() -> Vec<(String, String)> {
    let config = read("src/config/raw.rs");
    let table = config
        .split("\npub const KEYS: ")
        .nth(1)
        .and_then(|rest| rest.split("];").next());
    let pairs = table.expect("a table of keys").lines().filter_map(|line| {
        let mut quoted = line.split('"').skip(1).step_by(2);
        Some((quoted.next()?.to_owned(), quoted.next()?.to_owned()))
    });
    let pairs: Vec<_> = pairs.collect();
    assert!(pairs.len() > 30, "the table of keys is read");
    pairs
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect("a readable file")
}

fn root() -> &'static Path {
    testkit::root_folder()
}

#[test]
fn import_parser_reads_every_form_of_use_declaration() {
    for (code, want) in [
        ("use crate::a::B;", "a"),
        ("use crate::{a, b::{C, d::E}, f};\nlet x = y::z;", "a b f"),
        ("fn x(y: &crate::a::B) -> crate::c::D {}", "a c"),
        ("use crate::{\n    a,\n    b,\n};", "a b"),
        ("pub(crate) fn a() {}; use other::crate::b;", ""),
    ] {
        let names: Vec<String> = imported(code, "crate").into_iter().collect();
        assert_eq!(names.join(" "), want, "{code}");
    }
}
