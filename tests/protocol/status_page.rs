//! The status page without a browser: its headers, who gets it, and the numbers and problems in its JSON.

use nix::sys::signal::Signal;
use serde_json::json;

use testkit::status::{STATUS, figures, get_json, get_with_headers, wait_for_metric};
use testkit::steps::rename_files;
use testkit::tls::TlsServer;
use testkit::{Server, short_mail, test, wait_for};

const PATHS: [&str; 3] = ["/", "/status.json", "/samples.json"];

#[test]
fn status_page_has_a_strict_policy_and_is_neither_stored_nor_framed() {
    let server = Server::start(&[STATUS]);
    for path in PATHS {
        let (code, head, body) = get_with_headers(&server, path, "Host: 127.0.0.1\r\n");
        assert_eq!(code, 200, "{path}");
        for line in [
            "Cache-Control: no-store",
            "Cross-Origin-Resource-Policy: same-origin",
            "Referrer-Policy: no-referrer",
            "X-Content-Type-Options: nosniff",
        ] {
            assert!(head.contains(line), "{path}: {head}");
        }
        assert!(!head.contains("Access-Control-Allow-Origin"), "{head}");
        let content_type = match path {
            "/" => "Content-Type: text/html; charset=utf-8",
            _ => "Content-Type: application/json",
        };
        assert!(head.contains(content_type), "{path}: {head}");
        assert!(!body.is_empty());
    }
    let (_, head, _) = get_with_headers(&server, "/", "Host: 127.0.0.1\r\n");
    let policy = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Security-Policy: "));
    let policy = policy.expect("a policy");
    for directive in [
        "default-src 'none'; ",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'; ",
        "base-uri 'none'; ",
        "form-action 'none'; ",
        "frame-ancestors 'none'; ",
        "require-trusted-types-for 'script'; ",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    for word in ["unsafe", "*", "http", "blob:"] {
        assert!(!policy.contains(word), "{policy}");
    }
}

#[test]
fn status_page_is_refused_to_other_sites_and_to_foreign_host_names() {
    let server = Server::start(&[STATUS]);
    for path in PATHS {
        for (headers, expected) in [
            ("Host: localhost:9125\r\n", 200),
            ("Host: [::1]:9125\r\n", 200),
            ("Host: MX.test\r\nSec-Fetch-Site: same-origin\r\n", 200),
            ("Host: localhost\r\nSec-Fetch-Site: none\r\n", 200),
            ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403),
            ("Host: localhost\r\nSec-Fetch-Site: same-site\r\n", 403),
            ("Host: evil.test\r\n", 403),
            ("Host: mx.test.evil.test\r\n", 403),
            ("", 403),
        ] {
            let (code, _, body) = get_with_headers(&server, path, headers);
            assert_eq!(code, expected, "{path} {headers}: {body}");
        }
    }
}

#[test]
fn status_json_has_the_numbers_of_the_metrics() {
    let tls = TlsServer::start(&[STATUS, ("GSMTP_MAX_SIZE", "10000")]);
    let server = &tls.server;
    let mut client = server.client();
    for number in 0..3 {
        let reply = client.deliver(
            "a@client.test",
            "u@ours.test",
            &short_mail(&format!("{number}")),
        );
        assert_eq!(reply.code, 250);
    }
    client.command("MAIL FROM:<a@client.test> SIZE=20000", "552 5.3.4");
    let too_large = "goguerrilla_mails_total{outcome=\"too_large\"}";
    wait_for_metric(server, too_large, 1.0);
    let (page, metrics) = (get_json(server, "/status.json"), figures(server));
    let sample = &page["sample"];
    for (shown, name) in [
        (
            &sample["connections_active"],
            "goguerrilla_connections_active",
        ),
        (
            &sample["connections_limit"],
            "goguerrilla_connections_limit",
        ),
        (&sample["content_bytes"], "goguerrilla_content_bytes"),
        (
            &sample["content_limit_bytes"],
            "goguerrilla_content_limit_bytes",
        ),
        (
            &sample["mails"]["saved"],
            "goguerrilla_mails_total{outcome=\"saved\"}",
        ),
        (&sample["mails"]["too_large"], too_large),
        (&sample["mails_held"], "goguerrilla_mails_held"),
        (
            &sample["recipients_saved"],
            "goguerrilla_recipients_saved_total",
        ),
        (
            &sample["received_bytes"],
            "goguerrilla_received_bytes_total",
        ),
        (&sample["batches"], "goguerrilla_batch_mails_count"),
        (&sample["batch_mails"], "goguerrilla_batch_mails_sum"),
        (&page["started_at"], "process_start_time_seconds"),
        (
            &page["certificate_expires_at"],
            "goguerrilla_certificate_expiry_timestamp_seconds",
        ),
    ] {
        assert_eq!(shown.as_f64(), metrics.get(name).copied(), "{name}");
    }
    let bounds = page["save_seconds_bounds"].as_array().expect("bounds");
    let counts = sample["save_seconds"].as_array().expect("counts");
    assert_eq!(counts.len(), bounds.len() + 1);
    let mut below = 0.0;
    for (bound, count) in bounds.iter().zip(counts) {
        below += count.as_f64().expect("a count");
        assert_eq!(
            metrics[&format!("goguerrilla_save_seconds_bucket{{le=\"{bound}\"}}")
                .replace(".0\"", "\"")],
            below
        );
    }
    assert_eq!(page["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(page["host_name"], "mx.test");
    assert_eq!(
        (&page["is_ready"], &page["problems"]),
        (&true.into(), &json!([]))
    );
}

#[test]
fn status_json_says_since_when_a_problem_exists_and_keeps_it_after_its_end() {
    let server = Server::start(&[STATUS, ("GM_MAX_CLIENTS", "1")]);
    // The second sample shows that the thread looks again and again without any request.
    wait_for("samples", || {
        let samples = get_json(&server, "/samples.json");
        (samples["samples"].as_array()?.len() >= 2).then_some(())
    });
    let before = unix_seconds(&get_json(&server, "/status.json")["sample"]["time"]);
    rename_files(&server, &["goguerrilla.db"], "", "moved-");
    let problem = wait_for("a problem", || {
        let problem = get_json(&server, "/status.json")["problems"][0].clone();
        problem.is_object().then_some(problem)
    });
    assert_eq!(problem["severity"], "error");
    let text = problem["text"].as_str().expect("a text");
    assert!(text.starts_with("store: goguerrilla.db: moved"), "{text}");
    let since = unix_seconds(&problem["since"]);
    assert!(since >= before, "{since} {before}");
    let later = wait_for("another second", || {
        let page = get_json(&server, "/status.json");
        (unix_seconds(&page["sample"]["time"]) > since + 1.0).then_some(page)
    });
    assert_eq!(later["problems"][0]["since"], problem["since"]);
    assert_eq!(later["is_ready"], false);

    rename_files(&server, &["goguerrilla.db"], "moved-", "");
    let ended = wait_for("the end of the problem", || {
        let page = get_json(&server, "/status.json");
        page["problems"].as_array()?.is_empty().then_some(page)
    });
    let past = &ended["past_problems"][0];
    assert_eq!(
        (&past["since"], &past["text"]),
        (&problem["since"], &problem["text"])
    );
    assert!(unix_seconds(&past["until"]) > since);

    let _held = server.client();
    let full = wait_for("a full server", || {
        let problem = get_json(&server, "/status.json")["problems"][0].clone();
        problem.is_object().then_some(problem)
    });
    assert_eq!(
        full["text"],
        "all 1 connections are taken: further clients get 421"
    );
}

#[test]
fn newest_mails_are_shown_only_with_gm_feed_and_to_its_clients() {
    for (settings, expected) in [
        (&[STATUS][..], json!("off")),
        (
            &[
                STATUS,
                ("GM_FEED", "http"),
                ("GM_FEED_CLIENTS", "192.0.2.1"),
            ],
            json!("refused"),
        ),
        (
            &[STATUS, ("GM_FEED", "http")],
            json!([
                ["second", "a@client.test", "u@ours.test"],
                ["first", "a@client.test", "u@ours.test"]
            ]),
        ),
    ] {
        let server = Server::start(settings);
        let mut client = server.client();
        for subject in ["first", "second"] {
            let reply = client.deliver("a@client.test", "u@ours.test", &short_mail(subject));
            assert_eq!(reply.code, 250);
        }
        wait_for("the newest mails", || {
            let newest = get_json(&server, "/status.json")["newest"].clone();
            let shown = match newest.as_array() {
                Some(mails) => mails
                    .iter()
                    .map(|mail| json!([mail["subject"], mail["from"], mail["recipient"]]))
                    .collect(),
                None => newest,
            };
            (shown == expected).then_some(())
        });
    }
}

#[test]
fn status_page_answers_during_shutdown_and_its_thread_ends() {
    let mut server = Server::start(&[STATUS]);
    assert_eq!(server.threads_named("status"), 1);
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    server.signal(Signal::SIGTERM);
    server.wait_for_log(" shutdown ");
    let page = get_json(&server, "/status.json");
    assert_eq!(page["is_ready"], false);
    assert_eq!(page["problems"][0]["text"], "draining");
    let (reply, _) = client.send_content(&short_mail("under way"));
    assert_eq!(reply.code, 250);
    assert!(server.wait().success());
}

fn unix_seconds(value: &serde_json::Value) -> f64 {
    value.as_f64().expect("a time")
}
