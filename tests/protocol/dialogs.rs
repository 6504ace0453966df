//! Plays every transcript of `tests/dialogs` against a server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::{fs, thread};

use testkit::dialog::{Dialog, DialogServer};
use testkit::test;

#[test]
fn server_replies_match_every_dialog_file() {
    let files = Mutex::new(files());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut stages: HashMap<Vec<(String, String)>, DialogServer> = HashMap::new();
                while let Some(file) = next(&files) {
                    let dialog = Dialog::load(&file);
                    let stage = stages
                        .entry(dialog.settings.clone())
                        .or_insert_with(|| DialogServer::new(&dialog.settings));
                    if let Err(failure) = stage.play(&dialog) {
                        lock(&failures).push(failure);
                        // State left by a failed dialogue would make the next one fail too.
                        stages.remove(&dialog.settings);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no worker panicked");
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

fn files() -> Vec<PathBuf> {
    let folder = testkit::root_folder().join("tests/dialogs");
    let entries = fs::read_dir(folder).expect("the folder of dialogues");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|file| file.extension().is_some_and(|ext| ext == "dialog"))
        .collect();
    assert!(!files.is_empty(), "no dialogues");
    files.sort();
    files
}

fn next(files: &Mutex<Vec<PathBuf>>) -> Option<PathBuf> {
    lock(files).pop()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no worker panicked")
}

/// More than there are processors, because dialogues mostly wait.
const WORKERS: usize = 12;
