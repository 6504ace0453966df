//! Commands that start other programs.

use std::path::Path;
use std::process::Command;

/// Returns a command that the kernel kills when the benchmark ends for any reason.
pub fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", name]);
    command
}

/// Returns the path of a Postfix tool. Debian installs them in /usr/sbin, which is not in a user's PATH.
pub fn postfix_tool(name: &str) -> String {
    let usual = format!("/usr/sbin/{name}");
    match Path::new(&usual).exists() {
        true => usual,
        false => name.to_owned(),
    }
}
