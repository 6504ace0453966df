//! Debian's nginx and HAProxy with the configuration of the folder dist, each in a temporary folder.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{TEST_TIMEOUT, command, needs, wait_for, wait_for_within};

/// A proxy between clients and the server under test; dropping it ends the process.
pub struct ProxyProcess {
    child: Child,
    pub folder: TempDir,
}

impl ProxyProcess {
    /// Starts nginx with this configuration and waits until it listens on all `ports`.
    pub fn nginx(folder: TempDir, config: &str, ports: &[SocketAddr]) -> ProxyProcess {
        let head = format!(
            "daemon off; pid nginx.pid; error_log {}/log info;\n",
            folder.path().display()
        );
        // The load_module line must be the first one.
        let (load, rest) = config.split_once('\n').expect("load_module and more");
        write(folder.path(), &format!("{load}\n{head}{rest}"));
        needs(
            "the mail module of nginx",
            Path::new(NGINX_MAIL_MODULE).exists(),
        );
        let mut nginx = command("nginx");
        nginx.arg("-p").arg(folder.path()).args(["-c", "config"]);
        ProxyProcess::start(folder, nginx, ports)
    }

    /// Starts HAProxy with this configuration and waits until it listens on all `ports`.
    pub fn haproxy(folder: TempDir, config: &str, ports: &[SocketAddr]) -> ProxyProcess {
        write(folder.path(), config);
        let mut haproxy = command("haproxy");
        haproxy.args(["-db", "-f", "config"]);
        ProxyProcess::start(folder, haproxy, ports)
    }

    fn start(folder: TempDir, mut command: Command, ports: &[SocketAddr]) -> ProxyProcess {
        let path = std::env::var("PATH").unwrap_or_default();
        let errors = fs::File::create(folder.path().join("stderr")).expect("a file");
        let child = command
            .env("PATH", format!("{path}:/usr/sbin"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(errors.try_clone().expect("a descriptor"))
            .stderr(errors)
            .spawn()
            .expect("the program is installed");
        let front = ProxyProcess { child, folder };
        for port in ports {
            wait_for("the proxy to listen", || {
                TcpStream::connect(port).ok().map(drop)
            });
        }
        front
    }

    /// Returns the log and the output so far.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("log") + &read("stderr")
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        // SIGTERM lets nginx end its workers.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for_within("the proxy to end", TEST_TIMEOUT, || {
                self.child.try_wait().ok().flatten()
            });
        }));
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            crate::note!("---- log of the proxy\n{}", super::tail(&self.log()));
        }
    }
}

fn write(folder: &Path, config: &str) {
    fs::write(folder.join("config"), config).expect("a file is written");
}

/// The module that Debian's package libnginx-mod-mail installs.
const NGINX_MAIL_MODULE: &str = "/usr/lib/nginx/modules/ngx_mail_module.so";
