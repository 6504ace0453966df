//! Tests wait for something observable: only testkit sleeps, and each call of its `let_time_pass` is listed here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::test;

/// The calls of `let_time_pass` in each file, which are allowed because a timeout, a data rate or a slow peer is tested.
const PAUSES: &[(&str, usize)] = &[
    ("src/http/server.rs", 1),
    ("tests/protocol/check_sqlite.rs", 1),
    ("tests/protocol/discarding.rs", 1),
    ("tests/protocol/hold.rs", 1),
    ("tests/protocol/cves.rs", 1),
    ("tests/protocol/limits.rs", 4),
    ("tests/protocol/recipient_hook.rs", 2),
    ("tests/protocol/slot_exhaustion.rs", 1),
    ("tests/protocol/status.rs", 1),
    ("tests/protocol/time.rs", 2),
    ("tests/protocol/writer.rs", 1),
    ("tests/soak/hold.rs", 4),
    ("tests/stores/commit_in_doubt.rs", 1),
    ("tests/stores/hold.rs", 1),
    ("tests/stores/mysql_driver.rs", 1),
    ("tests/stores/mysql_faults.rs", 2),
    ("tests/stores/readiness.rs", 1),
    ("tests/stores/recipient_query_faults.rs", 2),
    ("tests/system/status_page.rs", 1),
    ("tests/testkit/src/fault_proxy.rs", 2),
    ("tests/testkit/src/kill_rounds.rs", 1),
    ("tests/testkit/src/kill_rounds_mysql.rs", 1),
    ("tests/testkit/src/load.rs", 2),
    ("tests/testkit/src/throughput.rs", 2),
    ("tests/testkit/src/redis.rs", 1),
    ("tests/testkit/src/senders.rs", 1),
];

#[test]
fn every_pause_of_a_test_is_in_the_list() {
    let mut found = BTreeMap::new();
    for (file, code) in test_code() {
        let count = code.matches("let_time_pass(").count();
        if count > 0 && file != HELPER {
            found.insert(file, count);
        }
    }
    let listed: BTreeMap<String, usize> = PAUSES
        .iter()
        .map(|(file, count)| ((*file).to_owned(), *count))
        .collect();
    assert_eq!(found, listed, "wait for something observable instead");
}

#[test]
fn no_test_sleeps_outside_of_the_helper() {
    let sleeping = test_code().into_iter().filter(|(file, code)| {
        let sleeps = ["thread::sleep(", "park_timeout(", "sleep_ms("];
        file != HELPER && sleeps.iter().any(|sleep| code.contains(sleep))
    });
    let sleeping: Vec<String> = sleeping.map(|(file, _)| file).collect();
    assert_eq!(sleeping, [""; 0], "use testkit::wait_for or let_time_pass");
}

#[test]
fn no_assertion_compares_a_duration_with_a_fixed_number_of_seconds() {
    let bounds = ["< Duration::from_", "<= Duration::from_", "as_secs_f64() <"];
    let mut bounded = Vec::new();
    for (file, code) in test_code() {
        let lines = code.lines().filter(|line| line.contains("assert"));
        let lines = lines.filter(|line| bounds.iter().any(|bound| line.contains(bound)));
        bounded.extend(lines.map(|line| format!("{file}: {}", line.trim())));
    }
    // `used` is CPU time; `in_all` is compared with the sum of the waits. Both are allowed.
    bounded.retain(|line| !line.contains("(used <") && !line.contains("(in_all <"));
    assert_eq!(bounded, [""; 0], "use testkit::assert_took or a ratio");
}

/// Returns the path and code of each file in tests, and of the test module of each file in src, without comments.
fn test_code() -> Vec<(String, String)> {
    let root = testkit::root_folder();
    let mut files = Vec::new();
    for folder in ["tests", "src"] {
        collect_rust_files(&root.join(folder), &mut files);
    }
    files.sort();
    let files = files.into_iter().map(|path| {
        let name = path.strip_prefix(root).expect("a file of the package");
        let name = name.to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a readable file");
        let code: Vec<&str> = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect();
        let mut code = code.join("\n");
        if name.starts_with("src/") && !name.ends_with("tests.rs") {
            let tests = code.find("#[cfg(test)]\nmod tests {");
            code = tests.map_or_else(String::new, |start| code.split_off(start));
        }
        (name, code)
    });
    // This file contains the texts that it looks for.
    files.filter(|(name, _)| name != file!()).collect()
}

fn collect_rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect_rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The only file that sleeps.
const HELPER: &str = "tests/testkit/src/wait.rs";
