//! `make image`: the image contains nothing but the program, and a container receives mail, is ready and finishes mail at
//! SIGTERM.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::debian_machine::{checked_output, debian_root};
use testkit::{Client, binary, note, short_mail, tail, test, wait_for};

const IMAGE: &str = "localhost/goguerrilla:test";

#[test]
fn image_contains_only_the_program_and_a_container_finishes_mail_at_sigterm() {
    for program in ["buildah", "objcopy", "ip", "nsenter"] {
        testkit::needs_program(program);
    }
    let root = debian_root();
    let storage = ImageStorage::new();
    storage.build(&root);
    let image: Value =
        serde_json::from_str(&storage.run(&["buildah", "inspect", "--type=image", IMAGE]))
            .expect("JSON");
    let config = &image["Docker"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["ExposedPorts"], json!({ "2525/tcp": {} }));
    assert_eq!(config["Volumes"], json!({ "/var/lib/goguerrilla": {} }));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Entrypoint"], json!(["goguerrilla"]));
    assert_eq!(
        config["Healthcheck"]["Test"],
        json!(["CMD", "goguerrilla", "ready"])
    );

    let container = storage.run(&["buildah", "from", "--pull-never", IMAGE]);
    let container = container.trim();
    storage.run(&[
        "buildah",
        "config",
        "--env",
        "GOGUERRILLA_GSMTP_HOST_NAME=mx.image.test",
        container,
    ]);
    let in_container = |command: &[&'static str]| {
        let run = ["buildah", "run", container, "--", "goguerrilla"];
        [&run, command].concat()
    };
    let mut server = storage.start(&in_container(&[]));
    let files = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", server.program));
    let owner = |path: &str| fs::metadata(files(path)).expect("a file").uid();
    assert_eq!(
        [
            owner("/"),
            owner("/var/lib"),
            owner("/usr/sbin/goguerrilla")
        ],
        [0; 3]
    );
    assert_eq!(owner("/var/lib/goguerrilla"), 65532);
    let process = fs::metadata(format!("/proc/{}", server.program)).expect("the process runs");
    assert_eq!((process.uid(), process.gid()), (65532, 65532));
    assert!(!files("/bin/sh").exists());
    let ready = || {
        storage
            .enter_network(server.program, &in_container(&["ready"]))
            .output()
    };
    let answer = checked_output(&["ready"], ready().expect("nsenter is installed"));
    assert_eq!(answer, "ok\n");

    let mut client = server.client();
    client.expect("220 mx.image.test ");
    let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("first"));
    assert_eq!(reply.code, 250);
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("DATA", "354");
    client.send("Subject: second\r\n");
    kill(server.program, Signal::SIGTERM).expect("the process runs");
    wait_for("the shutdown", || {
        server.log().contains(" shutdown ").then_some(())
    });
    client.send("\r\n.\r\n");
    client.expect("250 ");
    client.expect("421 4.3.2 ");
    client.expect_close();
    assert!(
        server.container.wait().expect("a child process").success(),
        "{}",
        server.log()
    );
    let list = storage.run(&in_container(&["list"]));
    assert!(list.contains("first") && list.contains("second"), "{list}");
}

/// Images and containers of one test, apart from those of the machine.
struct ImageStorage {
    folder: TempDir,
}

impl ImageStorage {
    fn new() -> ImageStorage {
        let folder = TempDir::new().expect("a temporary folder");
        let at = folder.path().display();
        // The driver vfs works on every file system and leaves nothing mounted.
        let config = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/images\"\nrunroot = \"{at}/run\"\n"
        );
        fs::write(folder.path().join("storage.conf"), config).expect("a file is written");
        ImageStorage { folder }
    }

    /// Builds the image on a base image that contains the folder `root`.
    fn build(&self, root: &Path) {
        let container = self.run(&["buildah", "from", "scratch"]);
        let container = container.trim();
        self.run(&[
            "buildah",
            "add",
            "--quiet",
            container,
            &root.display().to_string(),
            "/",
        ]);
        self.run(&["buildah", "commit", "--quiet", "--rm", container, BASE]);
        let binary = format!("BINARY={}", binary());
        let (image, base) = (format!("IMAGE={IMAGE}"), format!("BASE={BASE}"));
        self.run(&["make", "--silent", "image", &binary, &image, &base]);
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = testkit::command(words[0]);
        command
            .args(&words[1..])
            .env(
                "CONTAINERS_STORAGE_CONF",
                self.folder.path().join("storage.conf"),
            )
            .env("BUILDAH_ISOLATION", "chroot")
            .env("TMPDIR", self.folder.path())
            .current_dir(testkit::root_folder())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command, fails unless it succeeds, and returns its standard output.
    fn run(&self, words: &[&str]) -> String {
        let output: Output = self.command(words).output().expect("the command starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        checked_output(words, output);
        text
    }

    /// Returns a command that runs in the network of a process.
    fn enter_network(&self, process: Pid, words: &[&str]) -> Command {
        let target = format!("--target={process}");
        self.command(&[&["nsenter", &target, "--net"], words].concat())
    }

    /// Starts the server in a network of its own and waits until it listens.
    fn start(&self, words: &[&str]) -> ServerInContainer {
        let script = r#"ip link set lo up; exec "$@""#;
        let words = [
            &[
                "unshare",
                "--net",
                "setpriv",
                "--pdeathsig=TERM",
                "sh",
                "-euc",
                script,
                "sh",
            ],
            words,
        ]
        .concat();
        let log = self.folder.path().join("log");
        let output = File::create(&log).expect("a file is made");
        let container = self
            .command(&words)
            .stderr(output.try_clone().expect("a descriptor"))
            .stdout(output)
            .spawn()
            .expect("unshare is installed");
        let mut server = ServerInContainer {
            program: Pid::from_raw(container.id() as i32),
            container,
            log,
        };
        wait_for("the server to listen", || {
            server
                .log()
                .contains(" listening address=0.0.0.0:2525 ")
                .then_some(())
        });
        server.program =
            descendant(server.program, "goguerrilla").expect("the process of the server");
        server
    }
}

/// A server that `buildah run` runs; dropping it sends SIGTERM.
struct ServerInContainer {
    container: Child,
    /// The process id of the server outside of the container.
    program: Pid,
    log: PathBuf,
}

impl ServerInContainer {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Connects from within the network of the container.
    fn client(&self) -> Client {
        let network = format!("/proc/{}/ns/net", self.program);
        let connect = move || {
            let network = File::open(network).expect("the process runs");
            setns(network, CloneFlags::CLONE_NEWNET).expect("permitted for root");
            Client::connect("127.0.0.1:2525".parse().expect("an address"))
        };
        // Only this thread changes its network; the socket keeps it.
        thread::spawn(connect).join().expect("a connection")
    }
}

impl Drop for ServerInContainer {
    fn drop(&mut self) {
        if thread::panicking() {
            note!("---- log of the container\n{}", tail(&self.log()));
        }
        if self
            .container
            .try_wait()
            .is_ok_and(|status| status.is_none())
        {
            let _ = kill(self.program, Signal::SIGTERM);
            let _ = self.container.wait();
        }
    }
}

/// Returns the process with this name among the children of a process and their children.
fn descendant(process: Pid, name: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
    let children: Vec<String> = tasks.flatten().filter_map(of_task).collect();
    let children = children.iter().flat_map(|ids| ids.split_whitespace());
    let mut children = children.filter_map(|id| id.parse().ok()).map(Pid::from_raw);
    children.find_map(|child| {
        let found = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        match found.trim_end() == name {
            true => Some(child),
            false => descendant(child, name),
        }
    })
}

const BASE: &str = "localhost/debian:12";
