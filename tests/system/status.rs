//! The status endpoint: its metrics are true, its probes show the state of the server, and hostile HTTP clients do no harm.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;

use testkit::status::{STATUS, address, figures, get, wait_for_metric};
use testkit::tls::TlsServer;
use testkit::{Server, short_mail, test};

#[test]
fn promtool_accepts_the_metrics_and_the_documentation_lists_each_name() {
    let tls = TlsServer::start(&[STATUS]);
    let server = &tls.server;
    let mut client = server.client();
    client.deliver("a@client.test", "u@ours.test", &short_mail("counted"));
    let (code, page) = get(server, "/metrics");
    assert_eq!(code, 200);
    let mut promtool = testkit::command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: tests/install-tools");
    let mut input = promtool.stdin.take().expect("a pipe");
    input.write_all(page.as_bytes()).expect("promtool reads");
    drop(input);
    let checked = promtool.wait_with_output().expect("promtool ends");
    let output = [checked.stdout, checked.stderr].concat();
    let output = String::from_utf8_lossy(&output);
    assert!(
        checked.status.success() && output.is_empty(),
        "{output}\n{page}"
    );

    let manual = testkit::root_folder().join("docs/monitoring.md");
    let manual = fs::read_to_string(manual).expect("docs/monitoring.md");
    let rows = manual
        .lines()
        .filter(|line| line.starts_with("| goguerrilla_") || line.starts_with("| process_"));
    let mut documented: Vec<&str> = rows.filter_map(|row| row.split(' ').nth(1)).collect();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut served: Vec<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    documented.sort_unstable();
    served.sort_unstable();
    assert_eq!(
        documented, served,
        "the table in docs/monitoring.md and /metrics"
    );

    let head = curl_head(server);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
}

fn curl_head(server: &Server) -> String {
    let url = format!("http://{}/metrics", address(server));
    let output = testkit::command("curl").args(["-sSI", &url]).output();
    String::from_utf8(output.expect("curl is installed").stdout).expect("UTF-8")
}

#[test]
fn metrics_show_tls_handshakes_and_certificate_expiry() {
    let tls = TlsServer::start(&[STATUS]);
    let server = &tls.server;
    for version in ["--tls-max=1.2", "--tls-max=1.3"] {
        let version: Vec<&str> = version.split('=').collect();
        let sent = testkit::command("curl")
            .args(["-sS", "-k", "--ssl-reqd", "--mail-from", "a@client.test"])
            .args(["--mail-rcpt", "u@ours.test", "-T", "goguerrilla.conf"])
            .args(version)
            .arg(format!("smtp://{}", server.address))
            .current_dir(server.folder.path())
            .output()
            .expect("curl is installed");
        assert!(sent.status.success(), "{sent:?}");
    }
    let mut broken = server.client();
    broken.command("EHLO client.test", "250");
    broken.command("STARTTLS", "220");
    broken.send("this is no handshake\r\n");
    let name = |outcome: &str| format!("goguerrilla_tls_handshakes_total{{outcome=\"{outcome}\"}}");
    for outcome in ["TLSv1_2", "TLSv1_3", "failed"] {
        wait_for_metric(server, &name(outcome), 1.0);
    }
    let expiry = figures(server)["goguerrilla_certificate_expiry_timestamp_seconds"];
    assert!(expiry > 1.6e9, "{expiry}");

    let reloads = |outcome| {
        format!("goguerrilla_reloads_total{{what=\"certificate\",outcome=\"{outcome}\"}}")
    };
    server.signal(Signal::SIGHUP);
    wait_for_metric(server, &reloads("applied"), 1.0);
}
