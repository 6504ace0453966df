//! Runs a program until it exits.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{binary, wait_for};

/// The exit status and output of a program.
#[derive(Debug)]
pub struct ProcessResult {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program under test in a folder.
pub fn run(folder: &Path, arguments: &[&str]) -> ProcessResult {
    run_with_changed_command(folder, arguments, |_| {})
}

/// Runs the program under test after `change` has modified the command.
pub fn run_with_changed_command(
    folder: &Path,
    arguments: &[&str],
    change: impl FnOnce(&mut Command),
) -> ProcessResult {
    let mut command = Command::new(binary());
    command.args(arguments);
    change(&mut command);
    run_command(command.current_dir(folder))
}

/// Runs a command. Fails if it does not exit, such as a server that should not have started.
pub fn run_command(command: &mut Command) -> ProcessResult {
    // Unlike pipes, files need no concurrent reader.
    let stdout = tempfile::tempfile().expect("a temporary file");
    let stderr = tempfile::tempfile().expect("a temporary file");
    let child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a descriptor"))
        .stderr(stderr.try_clone().expect("a descriptor"))
        .spawn()
        .expect("the program starts");
    let mut child = KilledOnDrop(child);
    let status = wait_for("the program to end", || {
        child.0.try_wait().expect("a child process")
    });
    ProcessResult {
        status: status.code().expect("no signal"),
        stdout: text_of(stdout),
        stderr: text_of(stderr),
    }
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text_of(mut file: File) -> String {
    let mut octets = Vec::new();
    file.rewind().expect("a file");
    file.read_to_end(&mut octets).expect("a file");
    String::from_utf8(octets).expect("UTF-8")
}
