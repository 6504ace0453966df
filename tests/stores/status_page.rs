//! The data of the status page with several database hosts: the state of each, its reason and since when.

use serde_json::Value;
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::status::{STATUS, get_json};
use testkit::{Server, test, wait_for};

#[test]
fn status_json_shows_the_state_of_each_database_host_and_since_when() {
    let (mut first, second) = (MariaDb::start(), MariaDb::start());
    let names = [first.address(), second.address()].map(|address| address.to_string());
    let server = Server::start(&with_hosts(&names.join(","), &[STATUS]));
    let wait_for_states = |wanted: [&str; 2]| {
        wait_for("the state of the hosts", || {
            let page = get_json(&server, "/status.json");
            assert_hosts_that_are_down_are_problems(&page);
            let states: Vec<&str> = page["hosts"]
                .as_array()?
                .iter()
                .filter_map(|host| host["state"].as_str())
                .collect();
            (states == wanted).then_some(page)
        })
    };
    let page = wait_for_states(["up", "up"]);
    for (host, name) in page["hosts"].as_array().expect("hosts").iter().zip(&names) {
        assert_eq!(host["name"], name.as_str());
        assert_eq!(host["reason"], "");
    }
    let up_since = page["hosts"][1]["since"].clone();

    first.kill();
    second.sql("SET GLOBAL read_only = 1");
    let page = wait_for_states(["down", "standby"]);
    let hosts = &page["hosts"];
    assert!(hosts[0]["since"].as_f64() >= up_since.as_f64());
    for (host, reason) in [(&hosts[0], "refused"), (&hosts[1], "read-only")] {
        let text = host["reason"].as_str().expect("a text");
        assert!(text.contains(reason), "{text}");
    }

    second.sql("SET GLOBAL read_only = 0");
    first.run();
    let page = wait_for_states(["up", "up"]);
    assert!(page["hosts"][0]["since"].as_f64() > up_since.as_f64());
}

/// Asserts that the problems name just those hosts that the same answer shows as down.
fn assert_hosts_that_are_down_are_problems(page: &Value) {
    let array = |key: &str| page[key].as_array().expect("an array");
    for host in array("hosts") {
        let is_down = format!("host {} is down: ", host["name"].as_str().expect("a name"));
        let mut texts = array("problems").iter().map(|one| &one["text"]);
        let is_problem = texts.any(|text| text.as_str().expect("a text").starts_with(&is_down));
        assert_eq!(is_problem, host["state"] == "down", "{page}");
    }
}
