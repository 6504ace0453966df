//! The alerts and the dashboard of the folder dist with a real Prometheus that scrapes a server under load.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use testkit::load::Load;
use testkit::ports::free_port;
use testkit::process::run_command;
use testkit::project_files::{dist_file, documented_block, with};
use testkit::status::{STATUS, address};
use testkit::tls::TlsServer;
use testkit::{root_folder, tail, test, wait_for};

#[test]
fn promtool_accepts_the_alerts_and_their_unit_tests_pass() {
    for arguments in [
        ["check", "rules", "dist/prometheus-alerts.yml"],
        ["test", "rules", "tests/prometheus/alerts.test.yml"],
    ] {
        let mut promtool = testkit::command("promtool");
        let ended = run_command(promtool.args(arguments).current_dir(root_folder()));
        assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    }
    let tests = root_folder().join("tests/prometheus/alerts.test.yml");
    let tests = fs::read_to_string(tests).expect("the unit tests");
    let page = fs::read_to_string(root_folder().join("docs/monitoring.md")).expect("a page");
    let alerts = dist_file("prometheus-alerts.yml");
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        assert!(
            tests.contains(&format!("\"{name}\""))
                || tests.contains(&format!("alertname: {name}\n")),
            "{name}"
        );
        assert!(page.contains(&format!("| {name} | ")), "{name}");
    }
}

#[test]
fn prometheus_answers_every_query_of_the_alerts_and_the_dashboard_with_data() {
    let tls = TlsServer::start(&[STATUS]);
    let server = &tls.server;
    let prometheus = Prometheus::start(&address(server).to_string());
    let load = Load::start(server.address, 4, "scraped");
    load.wait_for_more(20);
    server.client().command("RCPT TO:<u@ours.test>", "503");
    // A rate needs two samples, and the second one has to be larger.
    wait_for("a rate of saved mails", || {
        let rate = prometheus.query("rate(goguerrilla_mails_total{outcome=\"saved\"}[1m]) > 0");
        (!rate.is_empty()).then_some(())
    });
    let error_rate = "rate(goguerrilla_replies_total{code=\"503\"}[1m]) > 0";
    wait_for("a rate of errors", || {
        server.client().command("RCPT TO:<u@ours.test>", "503");
        (!prometheus.query(error_rate).is_empty()).then_some(())
    });

    let dashboard: Value = serde_json::from_str(&dist_file("grafana.json")).expect("JSON");
    let queries = queries_of(&dashboard);
    assert!(queries.len() > 30, "{queries:?}");
    for query in queries {
        let query = query
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*");
        assert!(!query.contains('$'), "{query}");
        let result = prometheus.query(&query);
        // The annotation shows restarts, and there was none.
        let is_data = !result.is_empty() || query.starts_with("changes(");
        assert!(is_data, "no data: {query}");
        for sample in result {
            assert_ne!(sample["value"][1], "NaN", "{query}");
        }
    }

    let rules = wait_for("the rules to be evaluated", || {
        let rules = prometheus.rules();
        let are_known = rules.iter().all(|rule| rule["health"] != "unknown");
        (are_known && !rules.is_empty()).then_some(rules)
    });
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_eq!(rule["state"], "inactive", "{rule}");
        let query = rule["query"].as_str().expect("a query");
        for metric in metrics_in(query) {
            let exists = !prometheus.query(&metric).is_empty();
            assert!(exists, "{metric} of {}", rule["name"]);
        }
    }
    load.stop();
    drop(tls);
    wait_for("the alert about a server that has ended", || {
        let mut rules = prometheus.rules().into_iter();
        let gone = rules.find(|rule| rule["name"] == "GoguerrillaGone")?;
        (gone["state"] == "pending").then_some(())
    });
}

/// Returns every PromQL query of a dashboard, once.
fn queries_of(dashboard: &Value) -> BTreeSet<String> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let annotations = dashboard["annotations"]["list"].as_array();
    let all = targets.flatten().chain(annotations.expect("annotations"));
    all.map(|target| target["expr"].as_str().expect("a query").to_owned())
        .collect()
}

/// Returns the names of the metrics in a query.
fn metrics_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| {
        word.starts_with("goguerrilla_") || word.starts_with("process_") || *word == "up"
    });
    metrics.map(str::to_owned).collect()
}

/// A Prometheus that scrapes one server every second; dropping it kills the process.
struct Prometheus {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Prometheus {
    /// Starts it with the configuration of docs/monitoring.md and the alerts of the folder dist.
    fn start(target: &str) -> Prometheus {
        let folder = TempDir::new().expect("a temporary folder");
        let documented = documented_block("monitoring.md", "scrape_configs:");
        let config = with(
            &documented,
            &[
                ("127.0.0.1:9125", target),
                ("scrape_interval: 15s", "scrape_interval: 1s"),
            ],
        );
        let config = format!("global:\n  evaluation_interval: 1s\n{config}");
        for (name, text) in [
            ("prometheus.yml", config),
            ("goguerrilla-alerts.yml", dist_file("prometheus-alerts.yml")),
        ] {
            fs::write(folder.path().join(name), text).expect("a file is written");
        }
        let log = File::create(folder.path().join("log")).expect("a log file");
        let port = free_port();
        let child = testkit::command("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Prometheus is installed: tests/install-tools");
        let mut prometheus = Prometheus {
            child,
            port,
            folder,
        };
        wait_for("Prometheus to be ready", || {
            let ended = prometheus.child.try_wait().expect("a child process");
            assert!(ended.is_none(), "{}", prometheus.log());
            let (is_success, _) = prometheus.get("/-/ready", None);
            is_success.then_some(())
        });
        prometheus
    }

    /// Returns the samples of an instant query, which must be valid.
    fn query(&self, query: &str) -> Vec<Value> {
        let (is_success, body) = self.get("/api/v1/query", Some(query));
        assert!(is_success, "{query}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        assert!(answer["warnings"].is_null(), "{query}: {answer}");
        let samples = answer["data"]["result"].as_array();
        samples.expect("samples").clone()
    }

    fn rules(&self) -> Vec<Value> {
        let (is_success, body) = self.get("/api/v1/rules", None);
        assert!(is_success, "{body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        let groups = answer["data"]["groups"].as_array().expect("groups");
        let rules = groups
            .iter()
            .map(|group| group["rules"].as_array().expect("rules"));
        rules.flatten().cloned().collect()
    }

    /// Returns whether a GET request succeeds, and the body of its answer.
    fn get(&self, path: &str, query: Option<&str>) -> (bool, String) {
        let mut curl = testkit::command("curl");
        curl.args(["-sS", "--fail-with-body", "--max-time", "30", "--get"]);
        if let Some(query) = query {
            curl.arg("--data-urlencode").arg(format!("query={query}"));
        }
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let output = curl.arg(url).output().expect("curl is installed");
        let body = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), body)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            testkit::note!("---- log of Prometheus\n{}", tail(&self.log()));
        }
    }
}
