//! PID_FILE contains the process id of the running server. At shutdown a server removes the file only if it contains
//! its own process id.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use testkit::{Server, test};

#[test]
fn pid_file_in_an_unwritable_folder_is_emptied_only_if_it_is_the_own() {
    testkit::needs_root();
    // Also with a folder that only root can enter.
    for (is_own, mode) in [(true, 0o755), (false, 0o755), (true, 0o700), (false, 0o700)] {
        let elsewhere = TempDir::new().expect("a temporary folder");
        let rights = Permissions::from_mode(mode);
        fs::set_permissions(elsewhere.path(), rights).expect("the mode is set");
        let file = elsewhere.path().join("pid");
        let settings = [
            ("PID_FILE", file.to_str().expect("UTF-8")),
            ("GUID", "65534"),
            ("SGID", "65534"),
            ("GM_STORE", "discard"),
        ];
        let mut server = Server::start(&settings);
        if !is_own {
            fs::write(&file, "1\n").expect("root may");
        }
        assert!(server.stop().success());
        let expected = fs::read_to_string(&file).expect("it stays");
        assert_eq!(expected, if is_own { "" } else { "1\n" }, "{mode:o}");
    }
}
