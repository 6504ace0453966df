//! Files of domains in GM_ALLOWED_HOSTS: what they accept, errors at start, and how changes are applied.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::process::run;
use testkit::status::{STATUS, wait_for_metric};
use testkit::{Server, test, wait_for_within, write_config};

/// The server looks at the files every 20 seconds and needs two looks. On a busy machine this takes longer.
const TWO_LOOKS: Duration = Duration::from_secs(180);

#[test]
fn domains_of_a_file_are_accepted_by_rcpt_and_nginx_auth() {
    let text = "# ours\r\nmünchen.example\r\n*.例子.测试 # below\r\n\r\nxn--grn-ioa.test.\r\n[192.0.2.1]\r\n";
    let (folder, item) = folder_with_domains(text);
    let items = format!("inline.test,{item}");
    let settings = [
        ("GM_ALLOWED_HOSTS", items.as_str()),
        ("NGINX_AUTH_ENABLED", "Y"),
        ("NGINX_AUTH", "127.0.0.1:0"),
    ];
    let server = Server::start_in(folder, &settings);
    let line = server.wait_for_log(" allowed_hosts_loaded items=5 files=1 milliseconds=");
    assert_eq!(line.matches("allowed_hosts_loaded").count(), 1, "{line}");
    for (path, is_accepted) in [
        ("<u@inline.test>", true),
        ("<u@xn--mnchen-3ya.example>", true),
        ("<u@MÜNCHEN.example.>", true),
        ("<u@x.xn--fsqu00a.xn--0zwm56d>", true),
        ("<u@grün.test>", true),
        ("<u@[192.0.2.1]>", true),
        ("<u@xn--fsqu00a.xn--0zwm56d>", false),
        ("<u@foreign.test>", false),
        ("<u%foreign.test@grün.test>", false),
    ] {
        let (reply, status) = match is_accepted {
            true => ("250 2.1.5 ", "OK"),
            false => ("550 5.7.1 ", "Relay access denied"),
        };
        rcpt(&server, path, reply);
        let request =
            format!("GET / HTTP/1.0\r\nAuth-Method: none\r\nAuth-SMTP-To: RCPT TO:{path}\r\n\r\n");
        let answer = testkit::auth_http::ask(&server, &request);
        let answered = testkit::auth_http::header(&answer, "Auth-Status");
        assert_eq!(answered, status, "{path}");
    }
}

#[test]
fn unusable_file_of_domains_at_start_is_an_error_with_its_line() {
    let (folder, _) = folder_with_domains("");
    let file = folder.path().join("domains");
    let name = file.display();
    let start = format!("GM_ALLOWED_HOSTS: cannot read {name}");
    let fix = "name a regular file that GUID may read";
    for (content, error) in [
        (
            None,
            format!("{start}: No such file or directory (os error 2); {fix}"),
        ),
        (
            Some(&b""[..]),
            format!("GM_ALLOWED_HOSTS: expected one domain per line in {name}, but found none"),
        ),
        (
            Some(b"ours.test\n# none\nuser@ours.test\n"),
            format!(
                "GM_ALLOWED_HOSTS: {name} line 3: expected domains such as \"example.com,*.example.org\", but found \
                 \"user@ours.test\""
            ),
        ),
        (
            Some(b"ours.test\n\xff\n"),
            format!(
                "GM_ALLOWED_HOSTS: {name} line 2: expected text in UTF-8, but found other octets"
            ),
        ),
    ] {
        match content {
            None => fs::remove_file(&file).expect("a file of this test"),
            Some(content) => fs::write(&file, content).expect("a file is written"),
        }
        assert_start_error(&folder, &format!("@{name}"), &error);
    }
    let folder_item = format!("@{}", folder.path().display());
    let error = format!(
        "GM_ALLOWED_HOSTS: cannot read {}: this is not a regular file; {fix}",
        folder.path().display()
    );
    assert_start_error(&folder, &folder_item, &error);
}

#[test]
fn sighup_loads_the_file_of_domains_and_a_bad_one_changes_nothing() {
    let (folder, item) = folder_with_domains("old.test\n");
    let server = Server::start_in(folder, &[("GM_ALLOWED_HOSTS", &item)]);
    let file = server.path("domains");
    fs::write(&file, "new.test\n").expect("a file is written");
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" - reload\n");
    rcpt(&server, "<u@new.test>", "250 ");
    rcpt(&server, "<u@old.test>", "550 5.7.1 ");
    fs::write(&file, "newer.test\na b\n").expect("a file is written");
    write_config(
        server.folder.path(),
        &[("GM_ALLOWED_HOSTS", &item), ("GM_MAX_RECIPIENTS", "1")],
    );
    server.signal(Signal::SIGHUP);
    let log = server.wait_for_log(" reload_refused ");
    assert!(log.contains("domains line 2: expected"), "{log}");
    rcpt(&server, "<u@new.test>", "250 ");
    rcpt(&server, "<u@newer.test>", "550 5.7.1 ");
}

#[test]
fn changed_file_of_domains_is_loaded_without_sighup_and_a_bad_one_is_not() {
    let start = || {
        let (folder, item) = folder_with_domains("old.test\n");
        Server::start_in(folder, &[("GM_ALLOWED_HOSTS", &item), STATUS])
    };
    let (replaced, rewritten, bad, missing) = (start(), start(), start(), start());
    let mut before = replaced.client();
    before.command("EHLO client.test", "250");
    let new = "new.test\n*.new.test\n";
    let write = |server: &Server, name: &str, text: &str| {
        fs::write(server.path(name), text).expect("a file is written");
    };
    write(&replaced, "domains.new", new);
    fs::rename(replaced.path("domains.new"), replaced.path("domains"))
        .expect("a file of this test");
    write(&rewritten, "domains", new);
    write(&bad, "domains", "new.test\na b\n");
    fs::remove_file(missing.path("domains")).expect("a file of this test");

    for server in [&replaced, &rewritten] {
        wait_for_logged(server, " allowed_hosts_loaded items=2 files=1 ");
        rcpt(server, "<u@new.test>", "250 ");
        rcpt(server, "<u@x.new.test>", "250 ");
        rcpt(server, "<u@old.test>", "550 5.7.1 ");
        wait_for_metric(server, "goguerrilla_allowed_hosts", 2.0);
    }
    // An open session keeps its list.
    before.command("MAIL FROM:<a@client.test>", "250");
    before.command("RCPT TO:<u@old.test>", "250");
    wait_for_logged(&bad, "domains line 2: expected ");
    wait_for_logged(&missing, "No such file or directory");
    for server in [&bad, &missing] {
        rcpt(server, "<u@old.test>", "250 ");
        wait_for_metric(server, "goguerrilla_allowed_hosts", 1.0);
        let refused = "goguerrilla_reloads_total{what=\"allowed_hosts\",outcome=\"refused\"}";
        wait_for_metric(server, refused, 1.0);
        assert_eq!(server.log().matches(" allowed_hosts_refused ").count(), 1);
    }
}

/// Returns a folder with the file `domains`, and the item that names this file.
fn folder_with_domains(text: &str) -> (TempDir, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("domains");
    fs::write(&file, text).expect("a file is written");
    (folder, format!("@{}", file.display()))
}

fn assert_start_error(folder: &TempDir, item: &str, error: &str) {
    write_config(folder.path(), &[("GM_ALLOWED_HOSTS", item)]);
    let ended = run(folder.path(), &["-config=goguerrilla.conf"]);
    let want = format!("goguerrilla: {error}\n");
    assert_eq!((ended.status, ended.stderr), (1, want));
    let checked = run(folder.path(), &["check"]);
    let want = format!("error: {error}\n");
    assert_eq!(checked.status, 1);
    assert!(checked.stdout.contains(&want), "{}", checked.stdout);
}

fn rcpt(server: &Server, path: &str, reply: &str) {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test> SMTPUTF8", "250 ");
    client.command(&format!("RCPT TO:{path}"), reply);
}

fn wait_for_logged(server: &Server, text: &str) {
    wait_for_within(text, TWO_LOOKS, || {
        server.log().contains(text).then_some(())
    });
}
