//! Requests to the status endpoint.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::{Server, value, wait_for};

pub const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");

/// Returns the address of the server's status endpoint.
pub fn address(server: &Server) -> SocketAddr {
    let log = server.log();
    let line = log.lines().find(|line| line.contains(" status_page "));
    let address = line.and_then(|line| value(line, "address"));
    address.expect("a status page").parse().expect("an address")
}

/// Returns the status and body of a request with curl.
pub fn get(server: &Server, path: &str) -> (u16, String) {
    let url = format!("http://{}{path}", address(server));
    let output = crate::command("curl")
        .args(["-sS", "--max-time", "10", "-w", "\n%{http_code}", &url])
        .output()
        .expect("curl is installed: tests/install-tools");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {errors}");
    let (body, code) = text.rsplit_once('\n').expect("a status after the body");
    (code.parse().expect("three digits"), body.to_owned())
}

/// Returns every sample by its name with labels.
pub fn figures(server: &Server) -> HashMap<String, f64> {
    let (code, page) = get(server, "/metrics");
    assert_eq!(code, 200);
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let figures = samples.map(|line| {
        let (name, figure) = line.rsplit_once(' ').expect("a name and a figure");
        (name.to_owned(), figure.parse().expect("a figure"))
    });
    figures.collect()
}

/// Waits until a metric has this value: a connection is counted after its last reply.
pub fn wait_for_metric(server: &Server, name: &str, wanted: f64) {
    wait_for(&format!("{name} {wanted}"), || {
        let figures = figures(server);
        let figure = figures.get(name).unwrap_or_else(|| panic!("no {name}"));
        (*figure == wanted).then_some(())
    });
}
