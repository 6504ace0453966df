//! `make install` and `make uninstall`, and an installed server under nohup.
//!
//! The real installation, which creates a user and listens on port 25, runs in a [`IsolatedMachine`] namespace: it leaves no
//! file and no user on the machine that runs the tests.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tempfile::TempDir;

use testkit::{
    Client, binary, note, run_in, short_mail, tail, test, value, wait_for, write_config,
};

#[allow(dead_code)] // its main
#[path = "../../examples/man.rs"]
mod man;

const CONFIG: &str = "/etc/goguerrilla/goguerrilla.conf";
const STATE: &str = "/var/lib/goguerrilla";
const UNIT: &str = "/usr/local/lib/systemd/system/goguerrilla.service";
const SYMBOLS: &str = "/usr/local/sbin/.debug/goguerrilla.debug";
const DOCUMENTATION: &str = "/usr/local/share/doc/goguerrilla";

#[test]
fn make_install_with_destdir_installs_the_documented_files_only() {
    let package = TempDir::new().expect("a temporary folder");
    let users = fs::read("/etc/passwd").expect("a file of users");
    let output_text = make(package.path(), &["install"]);
    assert!(
        output_text.contains(&format!("nohup goguerrilla -config={CONFIG} 2>&1 &")),
        "{output_text}"
    );
    assert!(
        output_text.contains("systemctl enable --now goguerrilla"),
        "{output_text}"
    );
    assert!(output_text.contains("set GUID and SGID"), "{output_text}");
    let (documentation, files): (Vec<String>, Vec<String>) = files_below(package.path())
        .into_iter()
        .partition(|file| file.starts_with(DOCUMENTATION));
    let expected = [
        CONFIG,
        UNIT,
        "/usr/local/lib/systemd/system/goguerrilla.socket",
        SYMBOLS,
        "/usr/local/sbin/goguerrilla",
        "/usr/local/share/man/man5/goguerrilla.conf.5",
        "/usr/local/share/man/man8/goguerrilla.8",
    ];
    assert_eq!(files, expected);
    assert_eq!(documentation, documentation_files());
    let below = |path: &str| package.path().join(&path[1..]);
    assert_eq!(mode(&below(CONFIG)), 0o640);
    assert_eq!(mode(&below("/usr/local/sbin/goguerrilla")), 0o755);
    assert_eq!(mode(&below(STATE)), 0o750);
    let unit = fs::read_to_string(below(UNIT)).expect("a unit");
    assert!(unit.contains("\nUser=goguerrilla\n"), "{unit}");
    let is_left = |word: &str| !word.is_empty() && word.chars().all(char::is_uppercase);
    assert!(!unit.split('@').any(is_left), "{unit}");
    let config = read_config(&below(CONFIG));
    assert_eq!(config["GUID"], "");
    assert_eq!(config["GSTMP_LISTEN_INTERFACE"], "0.0.0.0:25,[::]:25");
    assert_eq!(config["GM_SQLITE_FILE"], format!("{STATE}/goguerrilla.db"));
    assert_eq!(fs::read("/etc/passwd").expect("a file of users"), users);
}

#[test]
fn links_between_installed_pages_lead_to_installed_files() {
    let package = TempDir::new().expect("a temporary folder");
    make(package.path(), &["install"]);
    let documentation = package.path().join(&DOCUMENTATION[1..]);
    let mut dead = Vec::new();
    for page in files_below(&documentation) {
        if !page.ends_with(".md") {
            continue;
        }
        let page = documentation.join(&page[1..]);
        let text = fs::read_to_string(&page).expect("a page");
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
            .filter(|link| !link.is_empty() && !link.contains("://"));
        for link in links {
            // The tests are part of the sources only.
            let is_in_sources = link.ends_with("tests/README.md");
            if !is_in_sources && !page.with_file_name(link).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn make_install_uses_the_given_paths_and_ids() {
    let package = TempDir::new().expect("a temporary folder");
    make(
        package.path(),
        &[
            "install",
            "PREFIX=/usr",
            "SYSCONFDIR=/opt/etc",
            "STATEDIR=/srv/mail",
            "GUID=4025",
            "SGID=4026",
        ],
    );
    let config = package.path().join("opt/etc/goguerrilla/goguerrilla.conf");
    let settings = read_config(&config);
    assert_eq!(settings["GUID"], "4025");
    assert_eq!(settings["SGID"], "4026");
    assert_eq!(settings["GM_SQLITE_FILE"], "/srv/mail/goguerrilla.db");
    let unit = package
        .path()
        .join("usr/lib/systemd/system/goguerrilla.service");
    let unit = fs::read_to_string(unit).expect("a unit");
    for line in [
        "ExecStart=/usr/sbin/goguerrilla -config=/opt/etc/goguerrilla/goguerrilla.conf",
        "User=4025",
        "Group=4026",
        "ReadWritePaths=/srv/mail",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line} in {unit}");
    }
    let man = package.path().join("usr/share/man/man5/goguerrilla.conf.5");
    let man = fs::read_to_string(man).expect("a man page");
    assert!(man.contains("\n/usr/share/doc/goguerrilla/docs\n"), "{man}");
    if geteuid().is_root() {
        let owner = |path: &Path| fs::metadata(path).map(|file| (file.uid(), file.gid()));
        assert_eq!(owner(&config).expect("the file exists"), (0, 4026));
        let state = package.path().join("srv/mail");
        assert_eq!(owner(&state).expect("the file exists"), (4025, 4026));
    }
}

#[test]
fn installed_program_has_its_symbols_in_a_file_that_debuggers_find() {
    for program in ["nm", "objcopy", "addr2line"] {
        testkit::needs_program(program);
    }
    let package = TempDir::new().expect("a temporary folder");
    let below = |path: &str| package.path().join(&path[1..]).display().to_string();
    make(package.path(), &["install"]);
    let program = below("/usr/local/sbin/goguerrilla");
    let run = |words: &[&str]| {
        checked_output(words, testkit::command(words[0]).args(&words[1..]).output())
    };
    let symbols = run(&["nm", "--demangle", &program]);
    assert!(symbols.contains("no symbols"), "{symbols}");
    let symbols = run(&["nm", "--demangle", &below(SYMBOLS)]);
    let function = symbols
        .lines()
        .find(|line| line.contains("panics::install_panic_hook"));
    let (address, _) = function
        .and_then(|line| line.split_once(' '))
        .expect("a function");
    let found = run(&[
        "addr2line",
        "--functions",
        "--demangle",
        "--exe",
        &program,
        address,
    ]);
    assert!(found.contains("install_panic_hook"), "{found}");
    assert!(found.contains("src/panics.rs:"), "{found}");
    // The machine code is that of the build.
    let code = |program: &str| {
        let code = below("/code");
        run(&[
            "objcopy",
            "--output-target=binary",
            "--only-section=.text",
            program,
            &code,
        ]);
        fs::read(&code).expect("a file of machine code")
    };
    assert!(code(&program) == code(binary()));

    make(package.path(), &["install", "SYMBOLDIR="]);
    assert!(fs::read(&program).expect("installed") == fs::read(binary()).expect("built"));
}

#[test]
fn make_install_over_an_older_version_keeps_configuration_and_mails() {
    let package = TempDir::new().expect("a temporary folder");
    let below = |path: &str| package.path().join(&path[1..]);
    make(package.path(), &["install"]);
    let edited = r#"{ "GUID": 4027, "SGID" :"4028", "MYSQL_PASS": "p" }"#;
    fs::write(below(CONFIG), edited).expect("a file in the package");
    fs::set_permissions(below(CONFIG), fs::Permissions::from_mode(0o600))
        .expect("a file in the package");
    fs::write(below(STATE).join("goguerrilla.db"), "mails").expect("a readable folder");
    let program = below("/usr/local/sbin/goguerrilla");
    fs::write(&program, "an older one").expect("a file in the package");
    let output_text = make(package.path(), &["install"]);
    assert!(
        output_text.contains(&format!("{CONFIG} is left as it was")),
        "{output_text}"
    );
    let version = checked_output(
        &["--version"],
        Command::new(&program).arg("--version").output(),
    );
    assert!(version.starts_with("goguerrilla "), "{version}");
    let is_untouched = || {
        assert_eq!(
            fs::read_to_string(below(CONFIG)).expect("the file is kept"),
            edited
        );
        assert_eq!(mode(&below(CONFIG)), 0o600);
        let mails = fs::read_to_string(below(STATE).join("goguerrilla.db"));
        assert_eq!(mails.expect("the file is kept"), "mails");
    };
    is_untouched();
    // The unit runs the server as the user that the configuration names.
    let unit = fs::read_to_string(below(UNIT)).expect("a unit");
    assert!(unit.contains("\nUser=4027\nGroup=4028\n"), "{unit}");

    let output_text = make(package.path(), &["uninstall"]);
    assert!(output_text.contains("/etc/goguerrilla"), "{output_text}");
    assert!(output_text.contains(STATE), "{output_text}");
    is_untouched();
    let database = format!("{STATE}/goguerrilla.db");
    assert_eq!(files_below(package.path()), [CONFIG, &database]);
    // A second uninstall finds nothing to remove and succeeds.
    make(package.path(), &["uninstall"]);
}

#[test]
fn systemd_sysusers_creates_the_user_of_the_unit() {
    let machine = TempDir::new().expect("a temporary folder");
    fs::create_dir(machine.path().join("etc")).expect("a folder");
    let mut sysusers = testkit::command("systemd-sysusers");
    sysusers
        .arg(format!("--root={}", machine.path().display()))
        .arg(root().join("dist/sysusers.conf"));
    checked_output(&["systemd-sysusers"], sysusers.output());
    let users = fs::read_to_string(machine.path().join("etc/passwd")).expect("a file of users");
    let fields: Vec<&str> = users.trim_end().split(':').collect();
    assert_eq!(fields[0], "goguerrilla");
    assert_eq!(fields[5..], [STATE, "/usr/sbin/nologin"]);
    let groups = fs::read_to_string(machine.path().join("etc/group")).expect("a file of groups");
    assert!(groups.starts_with("goguerrilla:"), "{groups}");
}

#[test]
fn make_install_rejects_invalid_variables_before_installing_anything() {
    let package = TempDir::new().expect("a temporary folder");
    for (wrong, sentence) in [
        ("GUID=25", "expected both or neither"),
        ("STATEDIR=mail", "begins with /"),
        ("SYSCONFDIR=/a b", "without spaces"),
        ("BINARY=/nowhere", "there is no such file"),
    ] {
        let output = make_command(package.path(), &["install", wrong]).output();
        let output = output.expect("make is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{wrong}");
        assert!(error.contains(sentence), "{error}");
    }
    assert_eq!(files_below(package.path()), [""; 0]);
}

#[test]
fn man_pages_are_up_to_date_and_render() {
    let pages = man::pages().expect("memory suffices");
    for (name, page) in &pages {
        let kept = root().join("dist").join(name);
        assert!(
            fs::read(&kept).expect("a page") == *page,
            "dist/{name} is out of date: run `make man`"
        );
    }
    let server = rendered("goguerrilla.8");
    let synopsis = "goguerrilla [-config=FILE] [-if=ADDR:PORT] [-v=y|n]";
    for words in [
        synopsis,
        "--config <FILE>",
        "--limit <N>",
        "SIGUSR1",
        CONFIG,
    ] {
        assert!(server.contains(words), "{words} in {server}");
    }
    let configuration = rendered("goguerrilla.conf.5");
    let configuration: Vec<&str> = configuration.split_whitespace().collect();
    let configuration = configuration.join(" ");
    let sample = read_config(&root().join("goguerrilla.conf.sample"));
    for (key, default) in sample.as_object().expect("an object") {
        let default = match default.as_str().expect("a string") {
            "" => "empty",
            default => default,
        };
        let entry = format!(" {key} default: {default} ");
        assert!(configuration.contains(&entry), "{entry} in {configuration}");
    }
    assert!(
        configuration.contains("slots taken: half "),
        "{configuration}"
    );
    for markup in ["](", "**", "`", "| "] {
        assert!(
            !configuration.contains(markup),
            "{markup} in {configuration}"
        );
    }
}

/// Returns a man page as plain text. Fails if groff warns of it or mandoc finds an error (it warns of the missing date).
fn rendered(name: &str) -> String {
    let page = root().join("dist").join(name);
    let output = testkit::command("groff")
        .args(["-ww", "-man", "-Kutf8", "-Tutf8"])
        .arg(&page)
        .output()
        .expect("groff is installed");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let output = testkit::command("mandoc")
        .args(["-T", "utf8", "-W", "error"])
        .arg(&page)
        .output()
        .expect("mandoc is installed");
    assert!(output.status.success(), "{output:?}");
    // mandoc prints bold and underlined letters as overstrikes with backspace.
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '\u{8}' => drop(shown.pop()),
            c => shown.push(c),
        }
    }
    shown
}

#[test]
fn installed_server_receives_mail_on_port_25() {
    for program in ["systemd-analyze", "curl", "make"] {
        testkit::needs_program(program);
    }
    let scratch = IsolatedMachine::new();
    let install = ["make", "--silent", "install", "BINARY=../program"];
    let output_text = scratch.run(&install);
    assert!(output_text.contains("mail is stored in"), "{output_text}");
    let again = scratch.run(&install);
    assert!(again.contains("is left as it was"), "{again}");
    let id = |which: &str| scratch.run(&["id", which, "goguerrilla"]).trim().to_owned();
    let (user, group) = (id("-u"), id("-g"));
    let config: Value = serde_json::from_str(&scratch.run(&["cat", CONFIG])).expect("JSON");
    assert_eq!(config["GUID"], user);
    assert_eq!(config["SGID"], group);
    let owner = |file| scratch.run(&["stat", "--format=%U:%G %a", file]);
    assert_eq!(owner(CONFIG), "root:goguerrilla 640\n");
    assert_eq!(owner(STATE), "goguerrilla:goguerrilla 750\n");
    let unit = scratch.run(&["cat", UNIT]);
    assert!(
        unit.contains("\nUser=goguerrilla\nGroup=goguerrilla\n"),
        "{unit}"
    );
    let verified = [
        "systemd-analyze",
        "verify",
        "goguerrilla.service",
        "goguerrilla.socket",
    ];
    assert_eq!(
        scratch.run(&verified),
        "",
        "systemd finds fault with the unit"
    );
    let config = format!("-config={CONFIG}");
    let checked = scratch.run(&["goguerrilla", "check", &config]);
    assert!(!checked.contains("error"), "{checked}");

    let server = scratch.start(&["nohup", "goguerrilla", &config]);
    let letter = scratch.path("letter");
    fs::write(&letter, short_mail("installed")).expect("a readable folder");
    let letter = letter.to_str().expect("a path in UTF-8");
    for host in ["127.0.0.1", "[::1]"] {
        let url = format!("smtp://{host}:25/client.test");
        let sent = ["--mail-from", "a@client.test", "--mail-rcpt", "u@ours.test"];
        let curl = [
            "curl",
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "30",
            &url,
        ];
        scratch.run(&[&curl[..], &sent, &["-T", letter]].concat());
    }
    for task in fs::read_dir(format!("/proc/{}/task", server.child.id())).expect("the process runs")
    {
        let status = fs::read_to_string(task.expect("a task").path().join("status"));
        let status = status.expect("a task has a status");
        let ids = |id: &str| [id; 4].join("\t");
        for line in [
            format!("Uid:\t{}", ids(&user)),
            format!("Gid:\t{}", ids(&group)),
            "CapPrm:\t0000000000000000".to_owned(),
            "CapEff:\t0000000000000000".to_owned(),
        ] {
            assert!(
                status.lines().any(|found| found == line),
                "{line}: {status}"
            );
        }
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        assert_eq!(groups.map(str::trim), Some(""));
    }
    let as_user = |arguments: &[&str]| {
        let become_user = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &group,
            "--clear-groups",
        ];
        scratch.run(&[&become_user[..], &["goguerrilla"], arguments, &[&config]].concat())
    };
    let mails: Value = serde_json::from_str(&as_user(&["list", "--json"])).expect("JSON");
    assert_eq!(mails.as_array().map(Vec::len), Some(2), "{mails}");
    assert_eq!(mails[0]["recipient"], "u@ours.test");
    assert_eq!(mails[0]["subject"], "installed");
    let hash = mails[0]["hash"].as_str().expect("a hash");
    let mail = short_mail("installed");
    assert!(as_user(&["show", hash]).ends_with(std::str::from_utf8(&mail).expect("ASCII")));
    drop(server);

    // Starts the server as the unit does: not as root, with the capability to bind port 25.
    let unit_does = [
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &group,
        "--init-groups",
    ];
    let low_ports = [
        "--inh-caps=-all,+net_bind_service",
        "--ambient-caps=-all,+net_bind_service",
    ];
    let server = scratch.start(&[&unit_does[..], &low_ports, &["goguerrilla", &config]].concat());
    assert!(!server.log().contains(" warn "), "{}", server.log());
    drop(server);

    let output_text = scratch.run(&["make", "uninstall"]);
    assert!(
        output_text.contains("and the user are kept"),
        "{output_text}"
    );
    scratch.run(&["test", "!", "-e", "/usr/local/sbin/goguerrilla"]);
    scratch.run(&["test", "!", "-e", UNIT]);
    scratch.run(&["test", "-s", "/var/lib/goguerrilla/goguerrilla.db"]);
    scratch.run(&["test", "-s", CONFIG]);
}

#[test]
fn server_under_nohup_survives_its_terminal_and_treats_sighup_as_reload() {
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[("GSMTP_LOG_FILE", "/dev/stdout")]);
    let file = |name: &str| folder.path().join(name);
    // A shell on a terminal of its own runs the command of docs/install.md, then waits for input.
    let shell = format!(
        "nohup '{}' -config=goguerrilla.conf 2>&1 & echo $! >id; mv id pid; read -r word",
        binary()
    );
    let mut terminal = testkit::command("script")
        .args(["--quiet", "--return", "--command", &shell, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script is installed");
    let pid = wait_for("the shell to start the server", || {
        fs::read_to_string(file("pid")).ok()?.trim().parse().ok()
    });
    let server = OrphanProcess(Pid::from_raw(pid));
    let log = || fs::read_to_string(file("nohup.out")).unwrap_or_default();
    let address = wait_for("the server to listen", || listening(&log()));
    // The server has a controlling terminal.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    assert_ne!(terminal_of(&stat), "0", "{stat}");
    assert!(!log().contains(" reload"), "{}", log());

    terminal.kill().expect("a child process");
    terminal.wait().expect("a child process");
    wait_for("SIGHUP to cause a reload", || {
        log().contains(" reload").then_some(())
    });
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server still runs");
    assert_eq!(terminal_of(&stat), "0", "{stat}");
    let mut client = Client::connect(address);
    client.expect("220");
    let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("after"));
    assert_eq!(reply.code, 250);
    let list = run_in(folder.path(), &["list", "-config=goguerrilla.conf"]);
    let list = String::from_utf8(list.expect("list succeeds")).expect("UTF-8");
    assert!(list.contains("after"), "{list}");
    kill(server.0, Signal::SIGTERM).expect("the process runs");
    wait_for("a clean stop", || log().contains(" stopped").then_some(()));
}

/// A process whose parent has ended; dropping this kills it.
struct OrphanProcess(Pid);

impl Drop for OrphanProcess {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// Returns the seventh field of /proc/PID/stat: the controlling terminal, 0 for none.
fn terminal_of(stat: &str) -> &str {
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    fields.split_whitespace().nth(4).expect("a terminal or 0")
}

fn listening(log: &str) -> Option<std::net::SocketAddr> {
    let line = log.lines().find(|line| line.contains(" listening "))?;
    value(line, "address")?.parse().ok()
}

/// A mount and network namespace of this machine with its own /etc, /usr/local, /var/lib, /var/log and /run.
///
/// The namespace belongs to a waiting shell and disappears when the shell ends.
struct IsolatedMachine {
    shell: Child,
    folder: TempDir,
}

impl IsolatedMachine {
    /// Creates the namespaces. Needs root and the right to create them, which root in a container may not have.
    fn new() -> IsolatedMachine {
        testkit::needs_root();
        let may = testkit::command("unshare")
            .args(["--mount", "--net", "true"])
            .output()
            .expect("unshare is installed");
        testkit::needs("mount and network namespaces", may.status.success());
        let folder = TempDir::new().expect("a temporary folder");
        let mut shell = testkit::command("unshare")
            .args(["--mount", "--net", "sh", "-euc", ISOLATION_SCRIPT])
            .arg(root())
            .arg(binary())
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        let mut ready = String::new();
        let output_text = shell.stdout.take().expect("a pipe");
        let read = BufReader::new(output_text).read_line(&mut ready);
        read.expect("a pipe");
        assert_eq!(ready, "ready\n", "the namespace could not be created");
        IsolatedMachine { shell, folder }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = testkit::command("nsenter");
        command
            .arg(format!("--target={}", self.shell.id()))
            .args(["--mount", "--net"])
            .arg(format!("--wdns={}", self.path("sources").display()))
            .args(words)
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command in the namespace, fails unless it succeeds, and returns its output.
    fn run(&self, words: &[&str]) -> String {
        checked_output(words, self.command(words).output())
    }

    /// Starts the server in the namespace and waits until it listens on both addresses.
    fn start(&self, words: &[&str]) -> RunningServer {
        let log = self.path("log");
        let file = File::create(&log).expect("a readable folder");
        let child = self
            .command(words)
            .stderr(file.try_clone().expect("a descriptor"))
            .stdout(file)
            .process_group(0)
            .spawn()
            .expect("nsenter is installed");
        let running = RunningServer { child, log };
        wait_for("the installed server to listen", || {
            let log = running.log();
            let listens = |address| log.contains(&format!(" listening address={address} "));
            (listens("0.0.0.0:25") && listens("[::]:25")).then_some(())
        });
        running
    }
}

impl Drop for IsolatedMachine {
    fn drop(&mut self) {
        // The shell ends when its input ends.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A server in the namespace; dropping it sends SIGTERM.
struct RunningServer {
    child: Child,
    log: PathBuf,
}

impl RunningServer {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            note!("---- log of the server\n{}", tail(&self.log()));
        }
    }
}

/// Bind-mounts subfolders of the current folder over all paths that the installation and the server write to, and adds
/// the sources and the program. The check for /etc/scratch proves that /etc is the copy before anything in it is
/// changed.
const ISOLATION_SCRIPT: &str = r#"
    mount --make-rprivate /
    cp -a /etc etc
    touch etc/scratch
    mkdir sources local lib log-folder run
    touch program
    mount --bind "$0" sources
    mount --bind "$1" program
    mount --bind etc /etc
    mount --bind local /usr/local
    mount --bind lib /var/lib
    mount --bind log-folder /var/log
    mount --bind run /run
    test -e /etc/scratch
    rm -rf /etc/goguerrilla
    for file in passwd shadow group gshadow; do
        sed -i /^goguerrilla:/d "/etc/$file"
    done
    ip link set lo up
    echo ready
    cat >/dev/null
"#;

/// Runs `make` with DESTDIR=`folder` and returns its output.
fn make(folder: &Path, words: &[&str]) -> String {
    checked_output(words, make_command(folder, words).output())
}

fn make_command(folder: &Path, words: &[&str]) -> Command {
    let mut command = testkit::command("make");
    command
        .arg("--silent")
        .arg(format!("DESTDIR={}", folder.display()))
        // If a variable is given twice, make uses the last value.
        .arg(format!("BINARY={}", binary()))
        .args(words)
        .current_dir(root());
    command
}

fn checked_output(words: &[&str], output: std::io::Result<Output>) -> String {
    let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let output_text =
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{words:?}: {output_text}");
    output_text
}

fn read_config(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("a configuration")).expect("JSON")
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file)
        .expect("the file exists")
        .permissions()
        .mode()
        & 0o7777
}

/// Returns the installed path of every file below `folder`, sorted.
/// Returns what `make install` copies into the folder of documentation: the pages, and the files of dist and examples for users
/// to copy.
fn documentation_files() -> Vec<String> {
    let root = testkit::root_folder();
    let pages = files_below(&root.join("docs")).into_iter();
    let mut files: Vec<String> = pages.map(|file| format!("docs{file}")).collect();
    for name in [
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "goguerrilla.conf.sample",
    ] {
        files.push(name.to_owned());
    }
    let examples = files_below(&root.join("examples")).into_iter();
    // The generator of the man pages is a tool of the developers.
    let examples = examples.filter(|file| !file.starts_with("/man"));
    files.extend(examples.map(|file| format!("examples{file}")));
    let not_copied = [
        "Containerfile",
        "build-deb",
        "build-image",
        "goguerrilla.8",
        "goguerrilla.conf.5",
        "goguerrilla.service.in",
        "install",
        "run",
        "uninstall",
    ];
    let dist = files_below(&root.join("dist")).into_iter();
    let copied = dist.filter(|file| {
        let name = &file[1..];
        !name.starts_with("debian/") && !not_copied.contains(&name)
    });
    files.extend(copied.map(|file| format!("dist{file}")));
    let mut files: Vec<String> = files
        .into_iter()
        .map(|file| format!("{DOCUMENTATION}/{file}"))
        .collect();
    files.sort();
    files
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(current).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let below = path.strip_prefix(folder).expect("a path below the folder");
                files.push(format!("/{}", below.display()));
            }
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    testkit::root_folder()
}
