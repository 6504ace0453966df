//! Why a configuration is invalid.

use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;

use super::environment::ENVIRONMENT_PREFIX;

/// Why a configuration is invalid. The text names the key or file, the expected value and the value found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}; name a configuration file that exists and that this user may read", file = .file.display())]
    Unreadable {
        /// The path of the configuration file.
        file: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The text of a file is invalid; the source is one of the other errors.
    #[error("cannot use the configuration in {file}", file = .file.display())]
    InFile {
        /// The path of the configuration file.
        file: PathBuf,
        /// What is invalid.
        source: Box<ConfigError>,
    },
    /// The value of an environment variable is invalid; the source names the key. Only the program `goguerrilla` reads its
    /// environment.
    #[error("cannot use a value of the environment")]
    InEnvironment {
        /// What is invalid.
        source: Box<ConfigError>,
    },
    /// The text is not strict JSON, or the JSON is not an object of keys and values.
    #[error("expected strict JSON without comments and trailing commas, but found: {0}")]
    NotJson(String),
    /// The text is a configuration of Go-Guerrilla 1.4 or later, which has other keys; the text names them.
    #[error(
        "a configuration of Go-Guerrilla 1.4 or later, whose keys have other names here: {0}; \
         `goguerrilla check` lists them, and docs/migrate-from-go-guerrilla.md shows a whole file"
    )]
    GoGuerrilla(String),
    /// The value of a key is invalid.
    #[error("{key}: expected {expected}, but found {found}")]
    BadValue {
        /// The name of the key.
        key: &'static str,
        /// A description of valid values with an example.
        expected: String,
        /// The invalid value in quotes, or a description of it.
        found: String,
    },
}

impl ConfigError {
    /// Returns the whole error in one line, as the program prints it.
    pub(crate) fn error_in_one_line(&self) -> String {
        match self {
            ConfigError::Unreadable { file, source } => format!(
                "{}: {source}; name a configuration file that exists and that this user may read",
                file.display()
            ),
            ConfigError::InFile { file, source } => format!("{}: {source}", file.display()),
            ConfigError::InEnvironment { source } => {
                format!("environment variable {ENVIRONMENT_PREFIX}{source}")
            }
            other => other.to_string(),
        }
    }

    /// Returns this error as one in `file`.
    pub(super) fn in_file(self, file: &Path) -> ConfigError {
        ConfigError::InFile {
            file: file.to_owned(),
            source: Box::new(self),
        }
    }

    /// Returns this error as one of a value of the environment.
    pub(super) fn in_environment(self) -> ConfigError {
        ConfigError::InEnvironment {
            source: Box::new(self),
        }
    }

    /// Returns the error of a file that is not UTF-8, with the position of the first invalid octet.
    pub(super) fn not_utf8(error: &FromUtf8Error) -> ConfigError {
        let valid_up_to = error.utf8_error().valid_up_to();
        let valid = error.as_bytes().get(..valid_up_to).unwrap_or_default();
        let valid = valid.strip_prefix("\u{feff}".as_bytes()).unwrap_or(valid);
        let line = 1 + valid.iter().filter(|octet| **octet == b'\n').count();
        let column = 1 + valid
            .iter()
            .rev()
            .take_while(|octet| **octet != b'\n')
            .count();
        ConfigError::NotJson(format!(
            "octets that are not UTF-8 at line {line} column {column}"
        ))
    }
}
