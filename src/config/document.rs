//! The configuration file: its encoding, its JSON, and who may read it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::ConfigError;
use super::go_guerrilla::names_of_go_guerrilla_keys;
use super::raw::RawConfig;

impl RawConfig {
    /// Parses the content of a configuration file.
    ///
    /// # Errors
    /// As for [`from_json`](RawConfig::from_json).
    pub fn from_octets(octets: Vec<u8>) -> Result<RawConfig, ConfigError> {
        // Windows PowerShell 5 saves text as UTF-16, which this server does not read. UTF-16 begins with a byte order mark
        // (FF FE or FE FF); without the mark, one of the first two octets is NUL, because JSON begins with an ASCII character.
        if matches!(
            octets.as_slice(),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..]
        ) {
            return Err(ConfigError::NotJson(
                "text in UTF-16; save the file as UTF-8".to_owned(),
            ));
        }
        let text = String::from_utf8(octets).map_err(|error| ConfigError::not_utf8(&error))?;
        RawConfig::from_json(&text)
    }

    /// Parses the text of a configuration file; a byte order mark is skipped.
    ///
    /// # Errors
    /// [`ConfigError::NotJson`], or [`ConfigError::GoGuerrilla`] for a file of that program.
    pub fn from_json(text: &str) -> Result<RawConfig, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        serde_json::from_str(text).map_err(|error| match names_of_go_guerrilla_keys(text) {
            Some(names) => ConfigError::GoGuerrilla(names),
            None => ConfigError::NotJson(error.to_string()),
        })
    }

    /// Returns a warning if these values, which are from `file`, contain a password and every user may read the file.
    pub fn readable_password_warning(&self, file: &Path) -> Option<String> {
        let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.mode());
        let has_password = ["MYSQL_PASS", "REDIS_INTERFACE"]
            .into_iter()
            .any(|key| self.contains_password(key));
        let file = file.display();
        (mode & 0o004 != 0 && has_password).then(|| {
            format!(
                "{file}: every user may read it, and it contains a password; run: chmod o-r {file}"
            )
        })
    }
}
