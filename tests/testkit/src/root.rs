//! Debian packages extracted into a folder and run with chroot: MTAs conflict with each other, so they cannot be
//! installed together.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{needs_root, wait_for};

/// A copy of the extracted packages for one test; dropping it deletes the copy.
pub struct MtaRoot {
    folder: TempDir,
}

impl MtaRoot {
    /// Creates a copy with this package. Needs root, because only root may chroot.
    pub fn with(package: &str) -> MtaRoot {
        needs_root();
        let roots = crate::cache().join("mtas");
        let original = cached_root(&roots, package);
        let folder = TempDir::new_in(&roots).expect("a temporary folder");
        let root = MtaRoot { folder };
        // Hard links to the original files. Writers replace a file instead of changing it.
        let mut copy = Command::new("cp");
        succeeds(copy.arg("-al").arg(original).arg(root.path("")));
        root
    }

    /// Returns the path of a file in the copy, as seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join("root").join(inside)
    }

    /// Writes a file.
    pub fn write(&self, inside: &str, text: impl AsRef<[u8]>) {
        let file = self.path(inside);
        let folder = file.parent().expect("a folder in the root");
        fs::create_dir_all(folder).expect("a folder is made");
        let _ = fs::remove_file(&file);
        fs::write(file, text).expect("a file is written");
    }

    /// Makes a folder with this owner, group and mode.
    pub fn make_folder(&self, inside: &str, owner: u32, group: u32, mode: u32) {
        let folder = self.path(inside);
        fs::create_dir_all(&folder).expect("a folder is made");
        chown(&folder, Some(owner), Some(group)).expect("permitted for root");
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("permitted for root");
    }

    /// Returns the contents of all files of a folder, concatenated; empty if there is no folder.
    pub fn texts(&self, inside: &str) -> String {
        let entries = fs::read_dir(self.path(inside)).into_iter().flatten();
        let files = entries.filter_map(|entry| fs::read(entry.ok()?.path()).ok());
        let all: Vec<u8> = files.flatten().collect();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Runs a program, fails unless it succeeds, and returns its standard output.
    pub fn run(&self, program: &[&str], input: &[u8]) -> String {
        self.write("tmp/input", input);
        let input = File::open(self.path("tmp/input")).expect("the input file");
        let mut command = self.chroot("timeout", &["60"], program);
        let output = succeeds(command.stdin(input));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a program that runs until it is dropped; its output goes to the file `tmp/output`.
    pub fn start(&self, program: &[&str]) -> Daemon {
        let output = File::create(self.path("tmp/output")).expect("a file is made");
        let mut command = self.chroot("setpriv", &["--pdeathsig", "TERM"], program);
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a descriptor"));
        let child = command.stderr(output).spawn();
        Daemon {
            child: child.expect("setpriv of util-linux starts"),
        }
    }

    fn chroot(&self, around: &str, arguments: &[&str], program: &[&str]) -> Command {
        let mut command = Command::new(around);
        command.args(arguments).arg("chroot").arg(self.path(""));
        command.args(program).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// A running program; dropping it sends SIGTERM and waits for the exit.
pub struct Daemon {
    child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // On SIGTERM the program also ends its children; SIGKILL would leave them.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        wait_for("a daemon to end", || self.child.try_wait().ok()?);
    }
}

/// Returns the original folder, which is made again whenever the script that makes it has changed.
fn cached_root(roots: &Path, package: &str) -> PathBuf {
    let script = crate::root_folder().join("tests/mta-root");
    let wanted = fs::read_to_string(&script).expect("the script mta-root");
    let folder = roots.join(package);
    fs::create_dir_all(&folder).expect("a folder is made");
    // Concurrent tests, also in other processes, share the downloaded packages.
    let lock = File::create(roots.join("lock")).expect("a file is made");
    lock.lock().expect("the lock");
    let stamp = folder.join("made-by");
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        let mut make = Command::new("timeout");
        succeeds(make.arg("300").arg(&script).arg(&folder).arg(package));
        fs::write(stamp, wanted).expect("a file is written");
    }
    folder.join("root")
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("the command starts");
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}
