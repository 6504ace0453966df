//! A running `goguerrilla list --follow`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{binary, send_signal, wait_for};

/// `list --follow`, with its output in files; dropping it kills the process.
pub struct FollowedList {
    child: Child,
    output: TempDir,
}

impl FollowedList {
    /// Starts `list --follow` with further arguments in the folder of a server.
    pub fn start(folder: &Path, arguments: &[&str]) -> FollowedList {
        let output = TempDir::new().expect("a temporary folder");
        let file = |name| File::create(output.path().join(name)).expect("a file");
        let child = Command::new(binary())
            .args(["list", "--follow"])
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the program starts");
        FollowedList { child, output }
    }

    /// Returns the complete lines of standard output so far.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.output.path().join("stdout")).expect("UTF-8");
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        complete.lines().map(str::to_owned).collect()
    }

    /// Returns the mails so far; needs the argument `--json`.
    pub fn mails(&self) -> Vec<serde_json::Value> {
        let object = |line: &String| serde_json::from_str(line).expect("a JSON object");
        self.lines().iter().map(object).collect()
    }

    /// Returns how often each subject was printed so far; needs the argument `--json`.
    pub fn subjects(&self) -> HashMap<String, usize> {
        let mut subjects = HashMap::new();
        for mail in self.mails() {
            let subject = mail["subject"].as_str().expect("a subject").to_owned();
            *subjects.entry(subject).or_default() += 1;
        }
        subjects
    }

    /// Returns the standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.output.path().join("stderr")).expect("UTF-8")
    }

    /// Waits until standard error contains `text`.
    pub fn wait_for_stderr(&self, text: &str) {
        wait_for(text, || self.stderr().contains(text).then_some(()));
    }

    /// Waits until standard output has this many lines.
    pub fn wait_for_lines(&self, count: usize) -> Vec<String> {
        wait_for("lines of list --follow", || {
            Some(self.lines()).filter(|lines| lines.len() >= count)
        })
    }

    /// Sends a signal and waits for the exit.
    pub fn end_with(&mut self, signal: Signal) -> ExitStatus {
        send_signal(self.child.id(), signal);
        wait_for("the end of list --follow", || {
            self.child.try_wait().expect("a child process")
        })
    }
}

impl Drop for FollowedList {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            crate::note!("---- standard error of list --follow\n{}", self.stderr());
        }
    }
}
