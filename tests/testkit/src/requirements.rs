//! What a test needs from the machine. A test without it ends at once and is reported as ignored, with the reason.

use std::env;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;

/// The panic of a test that cannot run, with the reason.
pub(crate) struct Ignored(pub String);

/// Ends the test as ignored unless it runs as root. Call it before the test starts anything.
pub fn needs_root() {
    needs("root", nix::unistd::geteuid().is_root());
}

/// Returns a command that runs this program. Ends the test as ignored if the program is not installed.
pub fn command(program: &str) -> Command {
    needs_program(program);
    Command::new(program)
}

/// Ends the test as ignored unless this program is installed.
pub fn needs_program(name: &str) {
    needs(name, has_program(name));
}

/// Returns whether this program is in PATH or in a folder of programs for administrators.
pub fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path);
    // Debian installs servers in /usr/sbin, which is not in a user's PATH.
    folders.any(|folder| folder.join(name).is_file()) || Path::new("/usr/sbin").join(name).is_file()
}

/// Ends the test as ignored, with the reason "needs WHAT", unless that is available.
pub fn needs(what: &str, is_available: bool) {
    if !is_available {
        // Unlike a panic this calls no hook, which would report a failure.
        resume_unwind(Box::new(Ignored(format!("needs {what}"))));
    }
}
