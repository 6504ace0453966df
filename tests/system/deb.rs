//! `make deb`: the package is installed on a fresh Debian 12, serves, is upgraded and is removed.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::debian_machine::{DebianMachine, checked_output};
use testkit::{binary, short_mail, test};

const CONFIG: &str = "/etc/goguerrilla/goguerrilla.conf";
const STATE: &str = "/var/lib/goguerrilla";

#[test]
fn debian_package_serves_after_installation_and_upgrade_and_keeps_mail_when_purged() {
    for program in ["dh", "dpkg-buildpackage", "lintian", "curl"] {
        testkit::needs_program(program);
    }
    let folder = TempDir::new().expect("a temporary folder");
    let machine = DebianMachine::boot(folder.path());
    let first = build(folder.path());
    assert_lintian_finds_nothing(folder.path());
    let second = with_next_version(folder.path(), &first);
    let site = Site { machine };

    site.install(&first);
    let run = |words: &[&str]| site.machine.run(words);
    let owner = |file: &str| run(&["stat", "--format=%U:%G %a", file]);
    assert_eq!(owner(CONFIG), "root:goguerrilla 640\n");
    assert_eq!(owner(STATE), "goguerrilla:goguerrilla 750\n");
    assert_eq!(owner("/etc/logrotate.d/goguerrilla"), "root:root 644\n");
    for file in ["man8/goguerrilla.8.gz", "man5/goguerrilla.conf.5.gz"] {
        run(&["test", "-s", &format!("/usr/share/man/{file}")]);
    }
    let enabled = site.machine.output(&[
        "systemctl",
        "is-enabled",
        "goguerrilla.service",
        "goguerrilla.socket",
    ]);
    assert_eq!(enabled.stdout, b"enabled\ndisabled\n");
    let process = site.main_process();
    assert_eq!(
        owner(&format!("/proc/{process}")),
        "goguerrilla:goguerrilla 555\n"
    );
    site.send_mail("first");

    let check = [
        "runuser",
        "--user=goguerrilla",
        "--",
        "goguerrilla",
        "check",
        &format!("-config={CONFIG}"),
    ];
    let checked = run(&check);
    assert!(
        checked.lines().all(|line| line.contains("cannot bind")),
        "{checked}"
    );
    run(&["systemctl", "reload", "goguerrilla"]);

    // An upgrade keeps the changed configuration and the mail, and restarts the server.
    run(&[
        "sed",
        "-i",
        r#"s/"GSMTP_HOST_NAME": ""/"GSMTP_HOST_NAME": "mx.edited.test"/"#,
        CONFIG,
    ]);
    site.install(&second);
    assert_ne!(site.main_process(), process);
    assert_eq!(owner(CONFIG), "root:goguerrilla 640\n");
    site.send_mail("second");
    assert_eq!(site.subjects(), ["second", "first"]);
    assert!(site.newest_content().contains("by mx.edited.test with"));

    // With the socket unit, a new installation keeps the ports open.
    run(&["systemctl", "stop", "goguerrilla"]);
    run(&["systemctl", "enable", "--now", "goguerrilla.socket"]);
    run(&["systemctl", "start", "goguerrilla"]);
    run(&["apt-get", "install", "--yes", "--reinstall", &second]);
    run(&[
        "systemctl",
        "is-active",
        "goguerrilla.socket",
        "goguerrilla.service",
    ]);
    site.send_mail("third");

    // Removing it keeps the configuration and the mail for the next installation.
    run(&["apt-get", "remove", "--yes", "goguerrilla"]);
    run(&["test", "!", "-e", "/usr/sbin/goguerrilla"]);
    run(&["grep", "mx.edited.test", CONFIG]);
    site.install(&second);
    site.send_mail("fourth");
    assert_eq!(site.subjects(), ["fourth", "third", "second", "first"]);

    let purged = run(&["apt-get", "purge", "--yes", "goguerrilla"]);
    assert!(
        purged.contains("The mail in /var/lib/goguerrilla and the user goguerrilla are kept."),
        "{purged}"
    );
    run(&["test", "!", "-e", "/etc/goguerrilla"]);
    run(&["test", "!", "-e", "/etc/logrotate.d/goguerrilla"]);
    assert_eq!(
        owner(&format!("{STATE}/goguerrilla.db")),
        "goguerrilla:goguerrilla 600\n"
    );
    assert_eq!(run(&["systemctl", "--failed", "--quiet"]), "");
    let left = site
        .machine
        .output(&["systemctl", "list-unit-files", "--quiet", "goguerrilla*"]);
    assert_eq!(left.stdout, b"");
    assert_eq!(run(&["dpkg", "--audit"]), "");
}

/// A machine with the package.
struct Site {
    machine: DebianMachine,
}

impl Site {
    /// Installs a package, after which the service must be active.
    fn install(&self, package: &str) {
        self.machine.run(&["apt-get", "install", "--yes", package]);
        self.machine.run(&["systemctl", "is-active", "goguerrilla"]);
    }

    fn main_process(&self) -> String {
        let show = [
            "systemctl",
            "show",
            "--property=MainPID",
            "--value",
            "goguerrilla",
        ];
        self.machine.run(&show).trim().to_owned()
    }

    /// Delivers a mail to port 25, which must be acknowledged.
    fn send_mail(&self, subject: &str) {
        let folder = TempDir::new().expect("a temporary folder");
        let letter = folder.path().join("letter");
        fs::write(&letter, short_mail(subject)).expect("a file is written");
        let letter = letter.display().to_string();
        let envelope = ["--mail-from", "a@client.test", "--mail-rcpt", "u@ours.test"];
        let curl = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", "30"];
        let url = "smtp://127.0.0.1:25/client.test";
        let words = [&curl[..], &envelope, &["-T", &letter, url]].concat();
        self.machine.run_with_network(&words);
    }

    /// Returns the subjects of all mails, the newest first.
    fn subjects(&self) -> Vec<String> {
        let mails = self.list();
        let mails = mails.as_array().expect("an array");
        let subject = |mail: &Value| mail["subject"].as_str().expect("a subject").to_owned();
        mails.iter().map(subject).collect()
    }

    fn newest_content(&self) -> String {
        let mails = self.list();
        let hash = mails[0]["hash"].as_str().expect("a hash");
        self.machine
            .run(&["goguerrilla", "show", &format!("-config={CONFIG}"), hash])
    }

    fn list(&self) -> Value {
        let list = [
            "goguerrilla",
            "list",
            "--json",
            &format!("-config={CONFIG}"),
        ];
        serde_json::from_str(&self.machine.run(&list)).expect("JSON")
    }
}

/// Builds the package, and the one with its symbols, and returns its path in the container.
fn build(folder: &Path) -> String {
    let mut make = testkit::command("make");
    make.args(["--silent", "deb"])
        .arg(format!("BINARY={}", binary()))
        .arg(format!("OUT={}", folder.display()))
        // The test does not need the smallest package.
        .env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
        .env("DPKG_DEB_COMPRESSOR_LEVEL", "1")
        .current_dir(testkit::root_folder());
    let packages = checked_output(&["make", "deb"], make.output().expect("make is installed"));
    let names: Vec<&str> = packages
        .lines()
        .filter_map(|path| path.rsplit('/').next())
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let [symbols, package] = names[..] else {
        panic!("two packages, not {names:?}");
    };
    assert!(
        symbols.starts_with(&format!("goguerrilla-dbgsym_{version}_")),
        "{symbols}"
    );
    assert!(
        package.starts_with(&format!("goguerrilla_{version}_")),
        "{package}"
    );
    format!("/packages/{package}")
}

/// Makes the same package with a higher version, and returns its path in the container.
fn with_next_version(folder: &Path, package: &str) -> String {
    let unpacked = folder.join("unpacked");
    let package = folder.join(package.trim_start_matches("/packages/"));
    let dpkg_deb = |words: &[&OsStr]| {
        let output = Command::new("dpkg-deb").args(words).output();
        checked_output(&["dpkg-deb"], output.expect("dpkg-deb is installed"));
    };
    dpkg_deb(&[
        "--raw-extract".as_ref(),
        package.as_ref(),
        unpacked.as_ref(),
    ]);
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a control file");
    let version = format!("Version: {}", env!("CARGO_PKG_VERSION"));
    fs::write(&control, text.replace(&version, "Version: 1000.0")).expect("a file is written");
    let next = folder.join("goguerrilla-next.deb");
    dpkg_deb(&[
        "-Zgzip".as_ref(),
        "-z1".as_ref(),
        "--build".as_ref(),
        unpacked.as_ref(),
        next.as_ref(),
    ]);
    "/packages/goguerrilla-next.deb".to_owned()
}

/// Asserts that lintian finds neither an error nor a warning in the packages of a folder.
fn assert_lintian_finds_nothing(folder: &Path) {
    let entries = fs::read_dir(folder).expect("a folder");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let packages = files.filter(|file| file.extension().is_some_and(|end| end == "deb"));
    let mut lintian = Command::new("lintian");
    lintian.arg("--fail-on=error,warning").args(packages);
    let output = lintian.output().expect("lintian is installed");
    checked_output(&["lintian"], output);
}
