//! A fresh Debian 12 with systemd in a container of systemd-nspawn.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use testkit::{note, tail, wait_for, wait_for_within};

/// A running container whose changes are lost when it is dropped. It has no network but its own loopback interface.
pub struct DebianMachine {
    container: Child,
    /// The process id, outside of the container, of its systemd.
    systemd: Pid,
    console: PathBuf,
    _folder: TempDir,
    /// One machine runs at a time, because the name of a machine and its folder are locked.
    _alone: MutexGuard<'static, ()>,
}

impl DebianMachine {
    /// Boots a container in which `packages` is the folder /packages. Needs root and the right to create containers.
    pub fn boot(packages: &Path) -> DebianMachine {
        static MACHINE: Mutex<()> = Mutex::new(());
        let root = debian_root();
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = TempDir::new().expect("a temporary folder");
        let nspawn = || {
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "TERM", "systemd-nspawn", "--quiet"])
                // Without these two, a running systemd outside of the container would be necessary.
                .args(["--keep-unit", "--register=no"])
                .args(["--volatile=overlay", "--private-network", "--console=pipe"])
                .arg(format!("--machine=goguerrilla-{}", std::process::id()))
                .arg(format!("--directory={}", root.display()))
                .arg(format!("--bind-ro={}:/packages", packages.display()))
                .stdin(Stdio::null());
            command
        };
        let tried = nspawn().arg("true").output();
        let tried = tried.expect("setpriv is installed");
        testkit::needs("containers of systemd-nspawn", tried.status.success());
        let console = folder.path().join("console");
        let output = File::create(&console).expect("a file is made");
        let container = nspawn()
            .arg("--boot")
            .stderr(output.try_clone().expect("a descriptor"))
            .stdout(output)
            .spawn()
            .expect("setpriv is installed");
        let systemd = wait_for("systemd to start", || child_of(container.id()));
        let machine = DebianMachine {
            container,
            systemd,
            console,
            _folder: folder,
            _alone: alone,
        };
        wait_for_within("the container to boot", testkit::TEST_TIMEOUT * 2, || {
            let state = machine.output(&["systemctl", "is-system-running"]);
            // A unit of the container that has nothing to do with the test may have failed.
            matches!(text(&state).trim(), "running" | "degraded").then_some(())
        });
        machine
    }

    /// Runs a command in the container, fails unless it succeeds, and returns its output.
    pub fn run(&self, words: &[&str]) -> String {
        checked_output(words, self.output(words))
    }

    /// Runs a command in the container.
    pub fn output(&self, words: &[&str]) -> Output {
        self.enter(&["--all"], words)
    }

    /// Runs a program of this machine with the network of the container, fails unless it succeeds, and returns its output.
    pub fn run_with_network(&self, words: &[&str]) -> String {
        checked_output(words, self.enter(&["--net"], words))
    }

    fn enter(&self, namespaces: &[&str], words: &[&str]) -> Output {
        let mut command = testkit::command("nsenter");
        command
            .arg(format!("--target={}", self.systemd))
            .args(namespaces)
            .args(words)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command.output().expect("nsenter is installed")
    }
}

impl Drop for DebianMachine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.output(&["journalctl", "--no-pager", "--unit=goguerrilla"]);
            note!("---- journal\n{}", tail(&text(&journal)));
            let console = fs::read_to_string(&self.console).unwrap_or_default();
            note!("---- console\n{}", tail(&console));
        }
        let _ = kill(Pid::from_raw(self.container.id() as i32), Signal::SIGTERM);
        let _ = self.container.wait();
    }
}

/// Returns the folder of a minimal Debian 12 with systemd, which is made once. Programs that were built on a later version do
/// not run there.
pub fn debian_root() -> PathBuf {
    testkit::needs_root();
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let is_debian_12 = os.lines().any(|line| line == "VERSION_CODENAME=bookworm");
    testkit::needs("Debian 12", is_debian_12);
    for program in ["debootstrap", "systemd-nspawn", "setpriv"] {
        testkit::needs_program(program);
    }
    let folder = testkit::cache().join("debian-12");
    let output = Command::new("timeout")
        .arg("600")
        .arg(testkit::root_folder().join("tests/debian-root"))
        .args([Path::new("bookworm"), &folder, Path::new("systemd")])
        .output();
    checked_output(&["tests/debian-root"], output.expect("a script"));
    folder
}

/// Returns the output of a command. Fails unless the command has succeeded.
pub fn checked_output(words: &[&str], output: Output) -> String {
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    text(&output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Returns the process id of the first child of a process that executes systemd.
fn child_of(process: u32) -> Option<Pid> {
    let file = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(file).ok()?;
    let child = children.split_whitespace().next()?.parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    (name == "systemd\n").then(|| Pid::from_raw(child))
}
