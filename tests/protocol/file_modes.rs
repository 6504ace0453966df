//! Modes of files: no other user can read a file that the server creates, whatever the umask; existing files keep their
//! mode.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::{Server, test, wait_for, with_umask};

const FILES: [&str; 4] = [
    "log",
    "goguerrilla.db",
    "goguerrilla.db-wal",
    "goguerrilla.db-shm",
];

#[test]
fn log_and_database_are_not_readable_by_others_whatever_the_umask() {
    for (umask, want) in [("000", 0o640), ("022", 0o640), ("077", 0o600)] {
        let folder = TempDir::new().expect("a temporary folder");
        let server = Server::start_with(folder, &[], with_umask(umask));
        deliver(&server);
        for name in FILES {
            assert_eq!(mode(&server, name), want, "{name} with umask {umask}");
        }
        fs::rename(server.path("log"), server.path("log.1")).expect("the log is renamed");
        server.signal(Signal::SIGUSR1);
        wait_for("the new log", || server.path("log").exists().then_some(()));
        assert_eq!(mode(&server, "log"), want, "reopened with umask {umask}");
    }
}

#[test]
fn symlinked_database_is_not_readable_by_others() {
    let folder = TempDir::new().expect("a temporary folder");
    symlink("goguerrilla.db", folder.path().join("link.db")).expect("a link");
    let settings = [("GM_SQLITE_FILE", "link.db")];
    let server = Server::start_with(folder, &settings, with_umask("000"));
    deliver(&server);
    for name in FILES {
        assert_eq!(mode(&server, name), 0o640, "{name}");
    }
}

#[test]
fn existing_log_and_database_keep_their_mode() {
    let folder = TempDir::new().expect("a temporary folder");
    for name in ["log", "goguerrilla.db"] {
        fs::write(folder.path().join(name), "").expect("a file");
        let for_all = Permissions::from_mode(0o664);
        fs::set_permissions(folder.path().join(name), for_all).expect("the mode is set");
    }
    let server = Server::start_with(folder, &[], with_umask("077"));
    deliver(&server);
    for name in FILES {
        assert_eq!(mode(&server, name), 0o664, "{name}");
    }
}

fn deliver(server: &Server) {
    let reply = (server.client()).deliver("a@client.test", "u@ours.test", b"x\r\n");
    assert_eq!(reply.code, 250);
}

fn mode(server: &Server, name: &str) -> u32 {
    let metadata = fs::metadata(server.path(name)).expect("it exists");
    metadata.permissions().mode() & 0o777
}
