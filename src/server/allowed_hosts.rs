//! The domains of GM_ALLOWED_HOSTS: those of the configuration, and those of the files that it names.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StartError;
use crate::config::Config;
use crate::os::regular_file::read_regular_file;
use crate::smtp::{AcceptedDomains, AcceptedDomainsBuilder};

/// The accepted domains, and the files that they were loaded from.
pub struct LoadedAllowedHosts {
    domains: AcceptedDomains,
    /// The domains of the configuration itself.
    configured: AcceptedDomains,
    files: Vec<PathBuf>,
    /// The state of each file before it was read; `None` if the file has to be read again.
    states: Vec<Option<FileState>>,
    load_time: Duration,
}

/// Inode, modification time (seconds, nanoseconds) and size of a file; `None` if there is no file.
pub type FileState = Option<(u64, i64, i64, u64)>;

/// Why a file of GM_ALLOWED_HOSTS cannot be used. The text names the file and the line.
#[derive(Debug, thiserror::Error)]
pub enum AllowedHostsError {
    /// The file cannot be read.
    #[error("GM_ALLOWED_HOSTS: cannot read {}: {source}; {FILE_FIX}", .file.display())]
    Unreadable {
        /// The file that an item names.
        file: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The file has no item.
    #[error("GM_ALLOWED_HOSTS: expected one domain per line in {}, but found none", .0.display())]
    Empty(PathBuf),
    /// A line is not an item that can match.
    #[error("GM_ALLOWED_HOSTS: {} line {line}: expected {expected}, but found {found}", .file.display())]
    BadLine {
        /// The file that an item names.
        file: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// A description of valid lines.
        expected: String,
        /// The invalid text in quotes, or a description of it.
        found: String,
    },
}

impl LoadedAllowedHosts {
    /// Reads the files of the configuration.
    ///
    /// # Errors
    /// [`AllowedHostsError`] for the first file that cannot be used.
    pub fn load(config: &Config) -> Result<LoadedAllowedHosts, AllowedHostsError> {
        let (configured, files) = (&config.allowed_hosts, &config.allowed_hosts_files);
        LoadedAllowedHosts::load_files(configured.clone(), files.clone())
    }

    /// Reads the same files again.
    ///
    /// # Errors
    /// [`AllowedHostsError`] for the first file that cannot be used.
    pub fn load_again(&self) -> Result<LoadedAllowedHosts, AllowedHostsError> {
        LoadedAllowedHosts::load_files(self.configured.clone(), self.files.clone())
    }

    fn load_files(
        configured: AcceptedDomains,
        files: Vec<PathBuf>,
    ) -> Result<LoadedAllowedHosts, AllowedHostsError> {
        let start = Instant::now();
        let mut states = Vec::new();
        let domains = if files.is_empty() {
            configured.clone()
        } else {
            let mut domains = configured.to_builder();
            for file in &files {
                states.push(add_file(&mut domains, file)?);
            }
            domains.build()
        };
        Ok(LoadedAllowedHosts {
            domains,
            configured,
            files,
            states,
            load_time: start.elapsed(),
        })
    }

    /// Returns all accepted domains.
    pub fn domains(&self) -> &AcceptedDomains {
        &self.domains
    }

    /// Returns whether these are the states that the files had when they were read.
    pub fn is_loaded_from(&self, states: &[FileState]) -> bool {
        let loaded = self.states.iter().map(Option::as_ref);
        loaded.eq(states.iter().map(Some))
    }

    /// Returns the states that the files have now.
    pub fn states_now(&self) -> Vec<FileState> {
        let state = |file| fs::metadata(file).ok().as_ref().and_then(state_of);
        self.files.iter().map(state).collect()
    }

    /// Logs the number of domains and the time that loading took, if there are files.
    pub fn log_loaded_files(&self) {
        if !self.files.is_empty() {
            let milliseconds = self.load_time.as_millis() as u64;
            log::info!(items = self.domains.item_count(), files = self.files.len(), milliseconds = milliseconds; "allowed_hosts_loaded");
        }
    }
}

impl From<AllowedHostsError> for StartError {
    fn from(error: AllowedHostsError) -> StartError {
        match error {
            AllowedHostsError::Unreadable { file, source } => StartError::ConfiguredFile {
                what: format!("GM_ALLOWED_HOSTS: cannot read {}", file.display()),
                source: Some(source),
                fix: FILE_FIX,
            },
            AllowedHostsError::Empty(_) | AllowedHostsError::BadLine { .. } => {
                StartError::ConfiguredFile {
                    what: error.to_string(),
                    source: None,
                    fix: "",
                }
            }
        }
    }
}

/// Adds the items of a file. Returns the state that it had before it was read, as [`state_if_settled`] does.
fn add_file(
    domains: &mut AcceptedDomainsBuilder,
    file: &Path,
) -> Result<Option<FileState>, AllowedHostsError> {
    let (octets, metadata) = read_regular_file(file, MAX_FILE_OCTETS).map_err(|source| {
        AllowedHostsError::Unreadable {
            file: file.to_owned(),
            source,
        }
    })?;
    add_allowed_hosts_of_file(domains, &octets, file)?;
    Ok(state_if_settled(&metadata))
}

/// Adds the items in the content of `file`: one in each line, without the text after `#`. Needs no file, so that fuzzing can
/// pass any octets.
///
/// # Errors
/// [`AllowedHostsError`] for the first line that is not an item, or if there is no item.
pub fn add_allowed_hosts_of_file(
    domains: &mut AcceptedDomainsBuilder,
    octets: &[u8],
    file: &Path,
) -> Result<(), AllowedHostsError> {
    let bad_line = |line, expected, found| AllowedHostsError::BadLine {
        file: file.to_owned(),
        line,
        expected,
        found,
    };
    let text = std::str::from_utf8(octets).map_err(|error| {
        let valid = octets.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', valid).count();
        bad_line(line, "text in UTF-8".to_owned(), "other octets".to_owned())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut is_empty = true;
    for (number, line) in (1..).zip(text.split('\n')) {
        let item = line.split('#').next().unwrap_or_default().trim();
        if item.is_empty() {
            continue;
        }
        is_empty = false;
        domains.add_host_pattern(item).map_err(|bad| {
            let expected = match item {
                _ if item.starts_with('@') => {
                    "a domain; a file cannot name another file".to_owned()
                }
                _ if item.contains(',') => "one domain per line".to_owned(),
                _ => bad.expected,
            };
            bad_line(number, expected, quoted(item))
        })?;
    }
    match is_empty {
        true => Err(AllowedHostsError::Empty(file.to_owned())),
        false => Ok(()),
    }
}

fn quoted(item: &str) -> String {
    let beginning: String = item.chars().take(MAX_SHOWN).collect();
    let ellipsis = if beginning.len() < item.len() {
        "…"
    } else {
        ""
    };
    format!("\"{}{ellipsis}\"", beginning.escape_debug())
}

fn state_of(metadata: &Metadata) -> FileState {
    Some((
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
    ))
}

/// Returns the state of a file, or `None` if the file was modified just now: a second change of the same size could then get
/// the same modification time, so the file has to be read again later.
fn state_if_settled(metadata: &Metadata) -> Option<FileState> {
    let age = metadata
        .modified()
        .ok()
        .and_then(|time| time.elapsed().ok());
    let is_settled = age.is_none_or(|age| age >= TIME_GRANULARITY);
    is_settled.then(|| state_of(metadata))
}

/// How to fix [`AllowedHostsError::Unreadable`].
const FILE_FIX: &str = "name a regular file that GUID may read";

/// Maximum size of a file in octets (32 MiB), more than a million names; a longer file is an error.
const MAX_FILE_OCTETS: u64 = 32 << 20;
/// An error quotes at most this many characters of a line.
const MAX_SHOWN: usize = 260;
/// Coarsest unit of modification times on a common file system (FAT; ext3 and NFS may have one second).
const TIME_GRANULARITY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn load(text: &[u8]) -> Result<AcceptedDomains, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("domains");
        fs::write(&file, text).unwrap();
        let loaded = LoadedAllowedHosts::load_files(AcceptedDomains::default(), vec![file.clone()]);
        let name = file.display().to_string();
        let loaded = loaded.map_err(|error| error.to_string().replace(&name, "FILE"));
        loaded.map(|loaded| loaded.domains.clone())
    }

    #[test]
    fn allowed_hosts_file_has_one_item_per_line_and_comments() {
        let text = "\u{feff}# ours\r\na.test # the first\r\n\n \t\n*.B.test.\nm\u{fc}nchen.example\nxn--mnchen-3ya.example\n[192.0.2.1]";
        let items = [
            "a.test",
            "*.b.test",
            "xn--mnchen-3ya.example",
            "[192.0.2.1]",
        ];
        let want = AcceptedDomains::from_host_patterns(items).unwrap();
        assert_eq!(load(text.as_bytes()), Ok(want));
        let any = AcceptedDomains::accepting_every_domain();
        assert_eq!(load(b"*\n"), Ok(any));
    }

    #[test]
    fn invalid_allowed_hosts_file_is_an_error_with_its_line() {
        let long = format!("a.test\n{}\n", "x".repeat(10_000));
        let shown = format!("\"{}…\"", "x".repeat(MAX_SHOWN));
        let label = "a domain of at most 253 octets, at most 63 in each label, written as A-labels";
        for (text, line, expected, found) in [
            (
                "a.test\n\n# x\na b\n",
                4,
                "domains such as \"example.com,*.example.org\"",
                "\"a b\"",
            ),
            (
                "a.test, b.test\n",
                1,
                "one domain per line",
                "\"a.test, b.test\"",
            ),
            (
                "a.test\r\n@/etc/hosts\r\n",
                2,
                "a domain; a file cannot name another file",
                "\"@/etc/hosts\"",
            ),
            (
                "a.test\n192.0.2.1",
                2,
                "an address in brackets, \"[192.0.2.1]\"",
                "\"192.0.2.1\"",
            ),
            (long.as_str(), 2, label, shown.as_str()),
        ] {
            let want = format!(
                "GM_ALLOWED_HOSTS: FILE line {line}: expected {expected}, but found {found}"
            );
            assert_eq!(load(text.as_bytes()), Err(want));
        }
        let not_utf8 =
            "GM_ALLOWED_HOSTS: FILE line 2: expected text in UTF-8, but found other octets";
        assert_eq!(load(b"a.test\nb\xff.test\n"), Err(not_utf8.to_owned()));
        for empty in ["", "\n", "# a.test\n"] {
            let want = "GM_ALLOWED_HOSTS: expected one domain per line in FILE, but found none";
            assert_eq!(load(empty.as_bytes()), Err(want.to_owned()));
        }
    }

    #[test]
    fn file_of_100000_allowed_hosts_is_loaded_in_bounded_cpu_time() {
        let mut text = String::new();
        for number in 0..50_000 {
            writeln!(text, "n{number}.example\n*.w{number}.example").unwrap();
        }
        // The first field is the CPU time of this thread in nanoseconds.
        let cpu_time = || {
            let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            let nanoseconds = text.split(' ').next().unwrap().parse().unwrap();
            Duration::from_nanos(nanoseconds)
        };
        let before = cpu_time();
        let domains = load(text.as_bytes()).unwrap();
        let used = cpu_time() - before;
        assert_eq!(domains.item_count(), 100_000);
        // The target is 200 ms in a release build, which `cargo bench --bench micro -- allowed_hosts` measures.
        assert!(used < Duration::from_secs(4), "{used:?}");
    }
}
