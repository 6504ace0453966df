//! GUID and SGID, and the PID file of a server that ends early. `tests/system/privileges.rs` has what needs root.

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::{Server, run_in, test, write_config};

#[test]
fn guid_without_sgid_or_the_reverse_is_an_error() {
    let folder = TempDir::new().expect("a temporary folder");
    for (given, missing) in [("GUID", "SGID"), ("SUID", "SGID"), ("SGID", "GUID")] {
        write_config(folder.path(), &[(given, "65534")]);
        let error =
            run_in(folder.path(), &["-config=goguerrilla.conf"]).expect_err("a refusal to start");
        assert!(error.contains(&format!("{missing}: expected")), "{error}");
    }
}

#[test]
fn pid_file_is_removed_after_a_failed_start_and_a_forced_exit() {
    let folder = TempDir::new().expect("a temporary folder");
    let settings = [("PID_FILE", "pid"), ("GM_SQLITE_FILE", "nowhere/mail.db")];
    write_config(folder.path(), &settings);
    assert!(run_in(folder.path(), &["-config=goguerrilla.conf"]).is_err());
    assert!(!folder.path().join("pid").exists());
    let mut server = Server::start_in(folder, &[("PID_FILE", "pid")]);
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    server.signal(Signal::SIGTERM);
    server.wait_for_log(" shutdown ");
    assert!(server.path("pid").exists());
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    assert!(!server.path("pid").exists());
}
