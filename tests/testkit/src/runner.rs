//! Runs the registered tests of a binary with the command line and the output of the standard harness.

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::output::{self, capture};
use crate::requirements::Ignored;

/// A registered test.
pub struct Test {
    module: &'static str,
    name: &'static str,
    run: fn(),
}

impl Test {
    /// Makes a test of a function; `#[test]` calls it.
    pub const fn new(module: &'static str, name: &'static str, run: fn()) -> Test {
        Test { module, name, run }
    }

    /// Returns the path of the function below its crate.
    fn path(&self) -> String {
        match self.module.split_once("::") {
            Some((_, module)) => format!("{module}::{}", self.name),
            None => self.name.to_owned(),
        }
    }
}

inventory::collect!(Test);

/// What only the crate of a test or benchmark knows about the build.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The program under test.
    pub program: &'static str,
    /// The folder of the package goguerrilla.
    pub root: &'static str,
    /// The folder for files that later runs use again.
    pub cache: &'static str,
}

/// Returns the [`Build`] of the crate that contains the call.
#[macro_export]
macro_rules! build {
    () => {
        $crate::Build {
            program: ::core::env!("CARGO_BIN_EXE_goguerrilla"),
            root: ::core::env!("CARGO_MANIFEST_DIR"),
            cache: ::core::env!("CARGO_TARGET_TMPDIR"),
        }
    };
}

/// Defines the `main` of a test binary: how many tests run at once, and the names of the slowest tests, which start first.
///
/// Most tests wait for most of their time, so there may be more of them than cores.
#[macro_export]
macro_rules! main {
    ($at_once:expr $(, $slow:expr)* $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::run($crate::build!(), $at_once, &[$($slow),*])
        }
    };
}

static BUILD: OnceLock<Build> = OnceLock::new();

/// Tells this crate about the build. [`run`] does it for tests.
pub fn set_build(build: Build) {
    BUILD.get_or_init(|| build);
}

/// Returns the path of the program under test.
pub fn binary() -> &'static str {
    build().program
}

/// Returns the folder of the package goguerrilla.
pub fn root_folder() -> &'static Path {
    Path::new(build().root)
}

/// Returns the folder for files that later runs use again.
pub fn cache() -> &'static Path {
    Path::new(build().cache)
}

fn build() -> &'static Build {
    BUILD.get().expect("testkit::main! or set_build")
}

/// Runs the registered tests that the command line selects, `at_once` of them at the same time unless `--test-threads` or
/// RUST_TEST_THREADS says otherwise, and those in `slow` first.
pub fn run(build: Build, at_once: usize, slow: &[&str]) -> ExitCode {
    set_build(build);
    let (mut arguments, filters) = arguments(env::args());
    let from_environment = || env::var("RUST_TEST_THREADS").ok()?.parse().ok();
    let threads = arguments.test_threads.or_else(from_environment);
    arguments.test_threads = threads.or(Some(at_once));
    output::start(arguments.nocapture);
    let may_ignore = env::var_os("CI").is_none_or(|value| value.is_empty());
    let mut tests: Vec<(String, fn())> = inventory::iter::<Test>()
        .map(|test| (test.path(), test.run))
        .filter(|(path, _)| is_selected(path, &filters, arguments.exact))
        .collect();
    let names = tests.iter().map(|(path, _)| path.as_str());
    assert_known(slow, &names.collect::<Vec<_>>(), &filters);
    tests.sort_by_key(|(path, _)| (!slow.contains(&path.as_str()), path.clone()));
    let trials = tests.into_iter().map(|(path, test)| {
        Trial::ignorable_test(path, move || {
            let (outcome, output) = capture(test);
            match outcome {
                Ok(()) => Ok(Completion::Completed),
                Err(panic) => match panic.downcast_ref::<Ignored>() {
                    Some(Ignored(reason)) if may_ignore => Ok(Completion::ignored_with(reason)),
                    Some(Ignored(reason)) => Err(Failed::from(format!("{reason}; CI is set"))),
                    None => Err(Failed::from(output.trim_end())),
                },
            }
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let others = output::of_other_threads();
    if conclusion.has_failed() && !others.is_empty() {
        eprintln!("---- threads that tests started\n{others}");
    }
    conclusion.exit_code()
}

/// Asserts that each slow test exists, so that a renamed one is noticed.
fn assert_known(slow: &[&str], tests: &[&str], filters: &[String]) {
    for name in slow.iter().filter(|_| filters.is_empty()) {
        assert!(tests.contains(name), "no test {name}, which main! names");
    }
}

/// Parses a command line. Returns several filters apart, because [`Arguments`] has room for one.
fn arguments(words: impl Iterator<Item = String>) -> (Arguments, Vec<String>) {
    let (mut options, mut filters) = (Vec::new(), Vec::new());
    let mut words = words;
    options.extend(words.next());
    while let Some(word) = words.next() {
        let has_value = OPTIONS_WITH_A_VALUE.contains(&word.as_str());
        match word.starts_with('-') {
            true => options.push(word),
            false => filters.push(word),
        }
        if has_value {
            options.extend(words.next());
        }
    }
    (Arguments::from_iter(options), filters)
}

fn is_selected(path: &str, filters: &[String], exact: bool) -> bool {
    let matches = |filter: &String| match exact {
        true => path == filter,
        false => path.contains(filter.as_str()),
    };
    filters.is_empty() || filters.iter().any(matches)
}

/// The options whose value is the next word.
const OPTIONS_WITH_A_VALUE: [&str; 6] = [
    "--logfile",
    "--skip",
    "--test-threads",
    "--color",
    "--format",
    "-Z",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_selects_tests_by_any_of_several_filters() {
        let words = ["all", "a::", "--test-threads", "1", "--exact", "b"];
        let (arguments, filters) = arguments(words.map(str::to_owned).into_iter());
        assert_eq!(arguments.test_threads, Some(1));
        assert!(arguments.exact && arguments.filter.is_none());
        assert_eq!(filters, ["a::", "b"]);
        assert!(is_selected("x::b", &filters, false));
        assert!(!is_selected("x::b", &filters, true));
        assert!(!is_selected("x::c", &filters, false));
    }

    #[test]
    fn test_name_is_its_module_path_without_the_crate() {
        assert_eq!(
            Test::new("protocol::limits", "name", || {}).path(),
            "limits::name"
        );
        assert_eq!(Test::new("protocol", "name", || {}).path(), "name");
    }
}
