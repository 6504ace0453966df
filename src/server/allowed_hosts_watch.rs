//! Loads the files of GM_ALLOWED_HOSTS again after they have changed.

use std::sync::{Arc, Mutex};

use super::allowed_hosts::{AllowedHostsError, FileState, LoadedAllowedHosts};
use super::running::RunningServer;
use crate::metrics::{Metrics, ReloadOutcome, ReloadTarget};
use crate::sync;

/// The states of the files at earlier checks.
#[derive(Default)]
pub struct AllowedHostsWatch {
    /// The states at the previous check.
    previous: Vec<FileState>,
    /// The states of files that could not be used. They are not read again until they change.
    refused: Option<Vec<FileState>>,
}

impl AllowedHostsWatch {
    /// Checks the files. If they have changed, but not since the previous check, loads them again and applies the domains to
    /// new sessions. If a file is invalid, logs that once, and the old list stays in force.
    ///
    /// A file that changed since the previous check may still be incomplete, so it is not loaded yet.
    pub fn load_changed_files(
        &mut self,
        running: &Mutex<Option<RunningServer>>,
        metrics: &Metrics,
    ) {
        // The mutex is not locked while files are read: see `SharedServerState`.
        let loaded = sync::lock(running)
            .as_ref()
            .map(|running| Arc::clone(&running.allowed_hosts));
        let Some(loaded) = loaded else {
            return;
        };
        match self.reload_if_changed(&loaded) {
            None => {}
            Some(Ok(renewed)) => {
                let is_changed = renewed.domains() != loaded.domains();
                let renewed = Arc::new(renewed);
                if let Some(running) = &mut *sync::lock(running) {
                    running.replace_allowed_hosts(&loaded, &renewed);
                }
                if is_changed {
                    count_reload(metrics, ReloadOutcome::Applied);
                    renewed.log_loaded_files();
                }
            }
            Some(Err(error)) => {
                count_reload(metrics, ReloadOutcome::Refused);
                log::error!(reason:% = error, kept = "the old list"; "allowed_hosts_refused");
            }
        }
    }

    fn reload_if_changed(
        &mut self,
        loaded: &LoadedAllowedHosts,
    ) -> Option<Result<LoadedAllowedHosts, AllowedHostsError>> {
        let now = loaded.states_now();
        let previous = std::mem::replace(&mut self.previous, now.clone());
        let is_known = loaded.is_loaded_from(&now) || self.refused.as_ref() == Some(&now);
        if is_known || now != previous {
            return None;
        }
        let outcome = loaded.load_again();
        if loaded.states_now() != now {
            // The files changed while they were read; a later check loads them.
            return None;
        }
        self.refused = outcome.is_err().then_some(now);
        Some(outcome)
    }
}

fn count_reload(metrics: &Metrics, outcome: ReloadOutcome) {
    metrics.reloads.count((ReloadTarget::AllowedHosts, outcome));
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::config::Config;

    /// Writes a file that was last modified so many seconds ago.
    fn write(file: &Path, text: &str, seconds_ago: u64) {
        fs::write(file, text).unwrap();
        let time = SystemTime::now() - Duration::from_secs(seconds_ago);
        File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    fn load(file: &Path) -> LoadedAllowedHosts {
        let item = format!("@{}", file.display());
        let config = Config::builder().allowed_hosts([&item]).build().unwrap();
        LoadedAllowedHosts::load(&config).unwrap()
    }

    #[test]
    fn changed_file_is_loaded_when_two_checks_find_the_same_state() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("domains");
        write(&file, "a.test\n", 1_000);
        let loaded = load(&file);
        let mut watch = AllowedHostsWatch::default();
        let mut items = |loaded: &LoadedAllowedHosts| {
            let renewed = watch.reload_if_changed(loaded)?;
            Some(renewed.unwrap().domains().item_count())
        };
        assert_eq!((items(&loaded), items(&loaded)), (None, None));
        // A program writes into the file, with a pause.
        write(&file, "a.test\nb.te", 100);
        assert_eq!(items(&loaded), None);
        write(&file, "a.test\nb.test\n", 90);
        assert_eq!((items(&loaded), items(&loaded)), (None, Some(2)));
        let loaded = load(&file);
        assert_eq!((items(&loaded), items(&loaded)), (None, None));
        // Another file of the same size and time gets the name.
        let other = folder.path().join("new");
        write(&other, "a.test\n*.test\n", 90);
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        File::options()
            .write(true)
            .open(&other)
            .unwrap()
            .set_modified(time)
            .unwrap();
        fs::rename(&other, &file).unwrap();
        assert_eq!((items(&loaded), items(&loaded)), (None, Some(2)));
    }

    #[test]
    fn file_modified_immediately_before_the_start_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("domains");
        write(&file, "a.test\n", 0);
        let loaded = load(&file);
        // A second change in the same unit of time and of the same size.
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "b.test\n").unwrap();
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
        let mut watch = AllowedHostsWatch::default();
        assert!(watch.reload_if_changed(&loaded).is_none());
        let renewed = watch.reload_if_changed(&loaded).unwrap().unwrap();
        assert!(renewed.domains() != loaded.domains());
    }

    #[test]
    fn unusable_file_is_reported_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("domains");
        write(&file, "a.test\n", 1_000);
        let loaded = load(&file);
        let mut watch = AllowedHostsWatch::default();
        let mut refusals = |looks: usize| {
            let outcomes = (0..looks).filter_map(|_| watch.reload_if_changed(&loaded));
            outcomes.filter(Result::is_err).count()
        };
        write(&file, "", 100);
        assert_eq!(refusals(5), 1);
        fs::remove_file(&file).unwrap();
        assert_eq!(refusals(5), 1);
        write(&file, "a b\n", 90);
        assert_eq!(refusals(5), 1);
        write(&file, "b.test\n", 80);
        assert_eq!(refusals(1), 0);
        assert!(watch.reload_if_changed(&loaded).unwrap().is_ok());
    }
}
