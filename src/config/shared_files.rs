//! Rejects a file that the server writes and that another key names too.

use std::path::Path;

use super::raw::bad_value;
use super::{Config, ConfigError, StoreKind};

impl Config {
    /// Returns an error if the log, the PID file or the database is also the file of another key: lines of the log would end
    /// up in the database, or the process id would replace a private key. Paths are compared as they are written.
    pub(super) fn reject_shared_files(&self) -> Result<(), ConfigError> {
        let written = self.written_files();
        let mut seen = self.read_files();
        for (key, file) in written {
            if let Some((other, _)) = seen.iter().find(|(_, named)| *named == file) {
                let expected = format!("a file of its own, not that of {other}");
                return Err(bad_value(key, &expected, &file.to_string_lossy()));
            }
            seen.push((key, file));
        }
        Ok(())
    }

    /// Returns an error if the log would be appended to the configuration in `file`.
    pub(super) fn reject_log_in_configuration(&self, file: &Path) -> Result<(), ConfigError> {
        let real_path = |path: &Path| path.canonicalize().ok();
        if real_path(file).is_none_or(|path| real_path(&self.log_file) != Some(path)) {
            return Ok(());
        }
        let expected = "a file of its own, not the configuration";
        let found = self.log_file.to_string_lossy();
        let error = bad_value("GSMTP_LOG_FILE", expected, &found);
        let is_from_file = self
            .value_sources
            .iter()
            .all(|(key, _)| *key != "GSMTP_LOG_FILE");
        Err(match is_from_file {
            true => error.in_file(file),
            false => error.in_environment(),
        })
    }

    fn written_files(&self) -> Vec<(&'static str, &Path)> {
        let log = Some(self.log_file.as_path());
        let database = (self.store == StoreKind::Sqlite).then_some(self.sqlite_file.as_path());
        let files = [
            ("GSMTP_LOG_FILE", log.filter(|file| is_named_file(file))),
            ("GM_SQLITE_FILE", database),
            ("PID_FILE", self.pid_file.as_deref()),
        ];
        only_given(files)
    }

    fn read_files(&self) -> Vec<(&'static str, &Path)> {
        let chain = self.tls_files.as_ref().map(|(chain, _)| chain.as_path());
        let key = self.tls_files.as_ref().map(|(_, key)| key.as_path());
        let files = [
            ("GSMTP_PUB_KEY", chain),
            ("GSMTP_PRV_KEY", key),
            ("MYSQL_PASS_FILE", self.mysql_pass_file.as_deref()),
            ("MYSQL_CA", self.mysql_ca_file.as_deref()),
            ("REDIS_PASS_FILE", self.redis_pass_file.as_deref()),
            ("REDIS_CA", self.redis_ca.as_deref()),
        ];
        let domains = self.allowed_hosts_files.iter();
        let domains = domains.map(|file| ("GM_ALLOWED_HOSTS", file.as_path()));
        only_given(files).into_iter().chain(domains).collect()
    }
}

fn only_given<'p>(
    files: impl IntoIterator<Item = (&'static str, Option<&'p Path>)>,
) -> Vec<(&'static str, &'p Path)> {
    let given = files.into_iter();
    given.filter_map(|(key, file)| Some((key, file?))).collect()
}

/// Returns whether the log goes to a file, not to a standard stream or a device.
fn is_named_file(file: &Path) -> bool {
    !file.as_os_str().is_empty() && !file.starts_with("/dev")
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, EnvironmentSettings};

    fn error_of(pairs: &str) -> String {
        match Config::from_json(&format!("{{{pairs}}}")) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_file_that_the_server_writes_has_no_second_key() {
        let keys = r#""GSMTP_PUB_KEY": "/k", "GSMTP_PRV_KEY": "/k""#;
        for (pairs, want) in [
            (
                r#""GSMTP_LOG_FILE": "a", "GM_SQLITE_FILE": "a""#,
                "GM_SQLITE_FILE: expected a file of its own, not that of GSMTP_LOG_FILE, but found \"a\"",
            ),
            (
                r#""PID_FILE": "goguerrilla.db""#,
                "PID_FILE: expected a file of its own, not that of GM_SQLITE_FILE, but found \"goguerrilla.db\"",
            ),
            (
                r#""PID_FILE": "a", "GSMTP_LOG_FILE": "a""#,
                "PID_FILE: expected a file of its own, not that of GSMTP_LOG_FILE, but found \"a\"",
            ),
            (
                &format!(r#""PID_FILE": "/k", {keys}"#),
                "PID_FILE: expected a file of its own, not that of GSMTP_PUB_KEY, but found \"/k\"",
            ),
            (
                r#""GSMTP_LOG_FILE": "/d", "GM_ALLOWED_HOSTS": "@/d""#,
                "GSMTP_LOG_FILE: expected a file of its own, not that of GM_ALLOWED_HOSTS, but found \"/d\"",
            ),
            (
                r#""GSMTP_LOG_FILE": "/p", "MYSQL_PASS_FILE": "/p""#,
                "GSMTP_LOG_FILE: expected a file of its own, not that of MYSQL_PASS_FILE, but found \"/p\"",
            ),
            (
                r#""GSMTP_LOG_FILE": "a", "GM_SQLITE_FILE": "a", "GM_STORE": "discard""#,
                "",
            ),
            (r#""GSMTP_LOG_FILE": "", "PID_FILE": """#, ""),
            (keys, ""),
        ] {
            assert_eq!(error_of(pairs), want, "{pairs}");
        }
    }

    #[test]
    fn the_configuration_is_not_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("conf");
        let log = folder.path().join("./conf").display().to_string();
        std::fs::write(&file, format!(r#"{{"GSMTP_LOG_FILE": "{log}"}}"#)).unwrap();
        let error = Config::load(&file).unwrap_err().error_in_one_line();
        let wanted = "conf: GSMTP_LOG_FILE: expected a file of its own, not the configuration";
        assert!(error.contains(wanted), "{error}");
        std::fs::write(&file, r#"{"GSMTP_LOG_FILE": "/dev/stdout"}"#).unwrap();
        assert!(Config::load(&file).is_ok());
        let variable = ("GOGUERRILLA_GSMTP_LOG_FILE".into(), log.into());
        let environment = EnvironmentSettings::from_variables([variable]).unwrap();
        let error = Config::load_with_environment(Some(&file), &environment).unwrap_err();
        let wanted = "environment variable GOGUERRILLA_GSMTP_LOG_FILE: expected a file of its own, not the configuration";
        let error = error.error_in_one_line();
        assert!(error.starts_with(wanted), "{error}");
    }
}
