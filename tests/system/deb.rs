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
    assert_is_installed_like_documented(&site);
    site.send_mail("first");
    assert_upgrade_keeps_configuration_and_mail(&site, &second);
    assert_socket_unit_is_kept_and_stopped_at_removal(&site, &second);
    site.install(&second);
    site.send_mail("fourth");
    assert_eq!(site.subjects(), ["fourth", "third", "second", "first"]);
    assert_purge_keeps_only_mail(&site);
}

#[test]
fn debian_package_takes_over_configuration_and_mail_of_make_install() {
    for program in ["dh", "dpkg-buildpackage", "curl"] {
        testkit::needs_program(program);
    }
    let folder = TempDir::new().expect("a temporary folder");
    let package = build(folder.path());
    let machine = DebianMachine::boot(folder.path());
    let site = Site { machine };
    site.run(&["dpkg-deb", "--extract", &package, "/tmp/package"]);
    copy_project(folder.path());
    site.make("install");
    site.run(&["systemctl", "enable", "--now", "goguerrilla"]);
    assert_eq!(site.program(), "/usr/local/sbin/goguerrilla\n");
    site.send_mail("first");
    let change = r#"s/"GSMTP_HOST_NAME": ""/"GSMTP_HOST_NAME": "mx.edited.test"/"#;
    site.run(&["sed", "-i", change, CONFIG]);

    site.make("uninstall");
    // dpkg asks whether to keep the configuration, which is the default.
    let keep = "Dpkg::Options::=--force-confold";
    site.run(&["apt-get", "install", "--yes", "-o", keep, &package]);
    assert_eq!(site.program(), "/usr/sbin/goguerrilla\n");
    site.run(&["systemctl", "is-enabled", "goguerrilla"]);
    site.send_mail("second");
    assert_eq!(site.subjects(), ["second", "first"]);
    assert!(site.newest_content().contains("by mx.edited.test with"));
}

fn assert_is_installed_like_documented(site: &Site) {
    assert_eq!(site.owner(CONFIG), "root:goguerrilla 640\n");
    assert_eq!(site.owner(STATE), "goguerrilla:goguerrilla 750\n");
    let logrotate = site.owner("/etc/logrotate.d/goguerrilla");
    assert_eq!(logrotate, "root:root 644\n");
    for page in ["man8/goguerrilla.8.gz", "man5/goguerrilla.conf.5.gz"] {
        site.run(&["test", "-s", &format!("/usr/share/man/{page}")]);
    }
    let enabled = [
        "systemctl",
        "is-enabled",
        "goguerrilla.service",
        "goguerrilla.socket",
    ];
    assert_eq!(site.machine.output(&enabled).stdout, b"enabled\ndisabled\n");
    let process = site.owner(&format!("/proc/{}", site.main_process()));
    assert_eq!(process, "goguerrilla:goguerrilla 555\n");
    let config = format!("-config={CONFIG}");
    let check = ["goguerrilla", "check", &config];
    let checked = site.run(&[&["runuser", "--user=goguerrilla", "--"], &check[..]].concat());
    assert!(
        checked.lines().all(|line| line.contains("cannot bind")),
        "{checked}"
    );
    site.run(&["systemctl", "reload", "goguerrilla"]);
}

fn assert_upgrade_keeps_configuration_and_mail(site: &Site, next: &str) {
    let change = r#"s/"GSMTP_HOST_NAME": ""/"GSMTP_HOST_NAME": "mx.edited.test"/"#;
    site.run(&["sed", "-i", change, CONFIG]);
    let process = site.main_process();
    site.install(next);
    assert_ne!(site.main_process(), process);
    assert_eq!(site.owner(CONFIG), "root:goguerrilla 640\n");
    site.send_mail("second");
    assert_eq!(site.subjects(), ["second", "first"]);
    assert!(site.newest_content().contains("by mx.edited.test with"));
}

fn assert_socket_unit_is_kept_and_stopped_at_removal(site: &Site, package: &str) {
    site.run(&["systemctl", "stop", "goguerrilla"]);
    site.run(&["systemctl", "enable", "--now", "goguerrilla.socket"]);
    site.run(&["systemctl", "start", "goguerrilla"]);
    let socket_since = || site.property("ActiveEnterTimestampMonotonic", "goguerrilla.socket");
    let since = socket_since();
    site.run(&["apt-get", "install", "--yes", "--reinstall", package]);
    let is_active = [
        "systemctl",
        "is-active",
        "goguerrilla.socket",
        "goguerrilla.service",
    ];
    site.run(&is_active);
    assert_eq!(socket_since(), since, "the ports were not closed");
    site.send_mail("third");

    site.run(&["apt-get", "remove", "--yes", "goguerrilla"]);
    let active = site.machine.output(&is_active);
    assert_eq!(active.stdout, b"inactive\ninactive\n");
    site.run(&["test", "!", "-e", "/usr/sbin/goguerrilla"]);
    site.run(&["grep", "mx.edited.test", CONFIG]);
}

fn assert_purge_keeps_only_mail(site: &Site) {
    let purged = site.run(&["apt-get", "purge", "--yes", "goguerrilla"]);
    let kept = format!("The mail in {STATE} and the user goguerrilla are kept.");
    assert!(purged.contains(&kept), "{purged}");
    let database = site.owner(&format!("{STATE}/goguerrilla.db"));
    assert_eq!(database, "goguerrilla:goguerrilla 600\n");
    let find = [
        "find",
        "/etc",
        "/usr",
        "/var/log",
        "/var/lib/systemd",
        "-name",
        "*goguerrilla*",
    ];
    assert_eq!(site.run(&find), "");
    // systemd forgets a unit without a file, state "not-found", only after a while.
    let units = site.run(&[
        "systemctl",
        "list-units",
        "--all",
        "--state=loaded,failed",
        "--quiet",
        "goguerrilla*",
    ]);
    assert_eq!(units, "");
    assert_eq!(site.run(&["dpkg", "--audit"]), "");
}

/// A machine with the package.
struct Site {
    machine: DebianMachine,
}

impl Site {
    /// Installs a package, after which the service must be active.
    fn install(&self, package: &str) {
        self.run(&["apt-get", "install", "--yes", package]);
        self.run(&["systemctl", "is-active", "goguerrilla"]);
    }

    /// Runs what `make install` or another target runs, without make, in the folder of the project.
    fn make(&self, target: &str) {
        let mut make = testkit::command("make");
        make.args(["--dry-run", "--silent", "--no-print-directory", target])
            .arg("BINARY=/tmp/package/usr/sbin/goguerrilla")
            .current_dir(testkit::root_folder());
        let script = checked_output(&["make"], make.output().expect("make is installed"));
        self.run(&["sh", "-c", &format!("cd /packages/project && {script}")]);
    }

    /// Returns the path of the program that the service runs.
    fn program(&self) -> String {
        self.run(&["readlink", &format!("/proc/{}/exe", self.main_process())])
    }

    fn run(&self, words: &[&str]) -> String {
        self.machine.run(words)
    }

    /// Returns the owner, group and mode of a file.
    fn owner(&self, file: &str) -> String {
        self.run(&["stat", "--format=%U:%G %a", file])
    }

    fn property(&self, name: &str, unit: &str) -> String {
        let property = format!("--property={name}");
        let value = self.run(&["systemctl", "show", &property, "--value", unit]);
        value.trim().to_owned()
    }

    fn main_process(&self) -> String {
        self.property("MainPID", "goguerrilla.service")
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
        serde_json::from_str(&self.run(&list)).expect("JSON")
    }
}

/// Copies the files that `make install` installs to `project` in a folder.
fn copy_project(folder: &Path) {
    let project = folder.join("project");
    fs::create_dir_all(project.join("examples/postgres-store")).expect("a folder");
    let documents =
        "README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE goguerrilla.conf.sample";
    let script = format!(
        "cp -R dist docs {documents} \"$0\" && cd examples && cp -R php python *.rs \"$0/examples\" && \
         cd postgres-store && cp -R *.* src \"$0/examples/postgres-store\""
    );
    let copied = Command::new("sh")
        .args(["-c", &script])
        .arg(&project)
        .current_dir(testkit::root_folder())
        .output();
    checked_output(&["cp"], copied.expect("a shell"));
}

/// Builds the package, and the one with its symbols, and returns its path in the container.
fn build(folder: &Path) -> String {
    let mut make = testkit::command("make");
    // Below another make, this one would print its folder.
    make.args(["--silent", "--no-print-directory", "deb"])
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
