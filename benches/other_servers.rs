//! Servers of other projects that receive mail: how they are started, and what their 250 means.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Group, User};

use crate::peer::{Peer, nothing_missing};
use crate::program::{postfix_tool, program};

/// Postfix's test server, which every table has as its reference.
pub const SMTP_SINK: Peer = Peer {
    name: "smtp-sink",
    meaning: "nothing is kept; a test program of Postfix",
    missing: || missing_program("smtp-sink", "postfix"),
    command: |_, address| {
        let mut command = program(&postfix_tool("smtp-sink"));
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "root"]);
        }
        command.args(["-m", "20000", &address.to_string(), "4096"]);
        command
    },
    ..Peer::NOTHING
};

/// Python's aiosmtpd with its handler that drops each mail.
pub const AIOSMTPD: Peer = Peer {
    name: "aiosmtpd",
    meaning: "nothing is kept; its handler `Sink`",
    missing: || {
        let missing = python_with_aiosmtpd().is_none();
        missing.then(|| "needs the package python3-aiosmtpd".to_owned())
    },
    command: |_, address| {
        let mut command = program(python_with_aiosmtpd().expect("it was found before"));
        command.args(["-m", "aiosmtpd", "--nosetuid", "-l", &address.to_string()]);
        command.args(["-c", "aiosmtpd.handlers.Sink"]);
        command
    },
    ..Peer::NOTHING
};

/// Postfix with its queue on the disk.
pub const POSTFIX: Peer = Peer {
    name: "Postfix, queue on disk",
    meaning: "the queue file is synced; then the `discard` transport drops the mail",
    missing: missing_for_postfix,
    command: postfix,
    is_working: |folder| {
        let is_occupied = |queue| {
            let entries = fs::read_dir(folder.join("queue").join(queue));
            entries.into_iter().flatten().next().is_some()
        };
        ["incoming", "active"].into_iter().any(is_occupied)
    },
    ..Peer::NOTHING
};

/// Postfix with its queue in memory, where syncing costs nothing.
pub const POSTFIX_IN_MEMORY: Peer = Peer {
    name: "Postfix, queue in memory",
    meaning: "the queue file is in memory and lost with the machine; then the `discard` transport drops the mail",
    is_in_memory: true,
    ..POSTFIX
};

fn missing_for_postfix() -> Option<String> {
    if !Path::new(POSTFIX_DAEMONS).join("master").exists() {
        return Some("needs the package postfix".to_owned());
    }
    let is_root = nix::unistd::geteuid().is_root();
    (!is_root).then(|| "needs root".to_owned())
}

/// Writes the folders and the configuration of a Postfix that has only the services for receiving and discarding.
///
/// It writes no log: without syslog, /dev/log does not exist. Limits of connections per client are off.
fn postfix(folder: &Path, address: SocketAddr) -> Command {
    let user = User::from_name("postfix")
        .ok()
        .flatten()
        .expect("the package's user");
    let group = Group::from_name("postdrop")
        .ok()
        .flatten()
        .expect("the package's group");
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("the mode is set");
    for name in ["queue", "queue/pid", "config"] {
        fs::create_dir(folder.join(name)).expect("a new folder");
    }
    let queues = [
        "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming",
    ];
    let others = ["private", "saved", "trace", "maildrop", "public"];
    let owned = queues
        .iter()
        .chain(&others)
        .map(|name| format!("queue/{name}"));
    for name in owned.chain(["data".to_owned()]) {
        let path = folder.join(&name);
        fs::create_dir(&path).expect("a new folder");
        let is_shared = name.ends_with("maildrop") || name.ends_with("public");
        let group = is_shared.then_some(group.gid.as_raw());
        chown(&path, Some(user.uid.as_raw()), group).expect("root may do so");
        let mode = if is_shared { 0o730 } else { 0o700 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the mode is set");
    }
    let at = folder.display();
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
         daemon_directory = {POSTFIX_DAEMONS}\ncommand_directory = /usr/sbin\nmail_owner = postfix\n\
         setgid_group = postdrop\nmyhostname = mx.test\nmydestination =\nmynetworks = 127.0.0.0/8\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\ndefault_transport = discard:\n\
         alias_maps =\nlocal_recipient_maps =\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
         smtpd_peername_lookup = no\nsmtpd_client_connection_count_limit = 0\n"
    );
    fs::write(folder.join("config/main.cf"), main).expect("a file is written");
    let services = format!(
        "{address} inet n - n - {POSTFIX_PROCESSES} smtpd\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\nproxymap unix - - n - - proxymap\nanvil unix - - n - 1 anvil\n\
         error unix - - n - - error\nretry unix - - n - - error\ndiscard unix - - n - - discard\n"
    );
    fs::write(folder.join("config/master.cf"), services).expect("a file is written");
    let mut command = program(&format!("{POSTFIX_DAEMONS}/master"));
    command.arg("-c").arg(folder.join("config")).arg("-d");
    command
}

/// Returns the Python that has aiosmtpd. Debian's is asked first, because its package is for that one.
fn python_with_aiosmtpd() -> Option<&'static str> {
    ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        let mut command = Command::new(python);
        command
            .args(["-c", "import aiosmtpd"])
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// Returns what is missing if a program is not installed.
pub fn missing_program(name: &str, package: &str) -> Option<String> {
    match testkit::has_program(name) {
        true => nothing_missing(),
        false => Some(format!("needs {name} of the package {package}")),
    }
}

const POSTFIX_DAEMONS: &str = "/usr/lib/postfix/sbin";
/// Enough for the 50 sessions of a load and those that are just ending; the default is 100.
const POSTFIX_PROCESSES: usize = 100;
