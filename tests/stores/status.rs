//! The status endpoint: its metrics are true, its probes show the state of the server, and hostile HTTP clients do no harm.

use std::time::Duration;

use testkit::mariadb::MariaDb;
use testkit::redis::Redis;
use testkit::status::{STATUS, figures, get, wait_for_metric};
use testkit::steps::send_mail;
use testkit::{short_mail, test, wait_for, wait_for_within};

/// The maximum time until the database's state is known: a check every two seconds, and pauses of up to four seconds between
/// attempts to connect.
const DETECTION_LIMIT: Duration = Duration::from_secs(70);

#[test]
fn readyz_follows_the_availability_of_the_database() {
    let mut database = MariaDb::start();
    database.kill();
    let server = database.server(&[STATUS]);
    let ready = || get(&server, "/readyz");
    let (code, reason) = ready();
    assert_eq!(code, 503);
    assert!(
        reason.starts_with("store: ") && reason.lines().count() == 1,
        "{reason}"
    );
    assert_eq!(get(&server, "/livez"), (200, "ok\n".to_owned()));
    for round in 0..2 {
        database.run();
        wait_for_within("the store to be ready", DETECTION_LIMIT, || {
            (ready().0 == 200).then_some(())
        });
        let mail = short_mail("saved");
        let reply = server
            .client()
            .deliver("a@client.test", "u@ours.test", &mail);
        assert_eq!(reply.code, 250, "{round}: {reply:?}");
        database.kill();
        // No mail arrives that would detect the fault.
        let reason = wait_for_within("the outage to be detected", DETECTION_LIMIT, || {
            let (code, reason) = ready();
            (code == 503).then_some(reason)
        });
        assert!(
            reason.starts_with("store: ") && !reason.contains("s3cr3t"),
            "{reason}"
        );
        assert_eq!(figures(&server)["goguerrilla_store_up"], 0.0);
    }
    let reply =
        server
            .client()
            .deliver("a@client.test", "u@ours.test", &short_mail("batch_failed"));
    assert_eq!(reply.code, 451);
    wait_for_metric(
        &server,
        "goguerrilla_mails_total{outcome=\"unavailable\"}",
        1.0,
    );
}

#[test]
fn readyz_is_503_while_the_store_fails_to_save_mail() {
    let database = MariaDb::start();
    let server = database.server(&[STATUS]);
    wait_for_within("the store to be ready", DETECTION_LIMIT, || {
        (get(&server, "/readyz").0 == 200).then_some(())
    });
    database.sql("RENAME TABLE new_mail TO elsewhere");
    let deliver = || {
        let mut client = server.client();
        client
            .deliver("a@client.test", "u@ours.test", &short_mail("any"))
            .code
    };
    assert_eq!(deliver(), 451);
    let (code, reason) = get(&server, "/readyz");
    assert!(
        code == 503 && reason.contains("new_mail"),
        "{code} {reason}"
    );
    wait_for_metric(
        &server,
        "goguerrilla_store_errors_total{kind=\"unavailable\"}",
        1.0,
    );
    database.sql("RENAME TABLE elsewhere TO new_mail");
    assert_eq!(deliver(), 250);
    assert_eq!(get(&server, "/readyz").0, 200);
}

#[test]
fn metrics_count_bodies_by_location() {
    let database = MariaDb::start();
    let mut redis = Redis::start();
    let address = redis.address().to_string();
    let server = database.server(&[STATUS, ("REDIS_INTERFACE", &address)]);
    let deliver = || {
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("any"));
        assert_eq!(reply.code, 250, "{reply:?}");
    };
    deliver();
    wait_for_metric(&server, "goguerrilla_bodies_total{location=\"redis\"}", 1.0);
    redis.kill();
    deliver();
    wait_for_metric(&server, "goguerrilla_bodies_total{location=\"table\"}", 1.0);
    wait_for_metric(&server, "goguerrilla_redis_errors_total", 1.0);
}

#[test]
fn bodies_of_a_mail_that_is_tried_again_and_again_are_counted_once() {
    let database = MariaDb::start();
    let redis = Redis::start();
    let address = redis.address().to_string();
    let server = database.server(&[
        STATUS,
        ("REDIS_INTERFACE", &address),
        ("GM_HOLD_SECONDS", "60"),
    ]);
    database.sql("RENAME TABLE new_mail TO elsewhere");
    let mut waiting = send_mail(&server, "held");
    wait_for("three failed attempts", || {
        let errors = "goguerrilla_store_errors_total{kind=\"unavailable\"}";
        (figures(&server)[errors] >= 3.0).then_some(())
    });
    database.sql("RENAME TABLE elsewhere TO new_mail");
    waiting.expect("250 2.0.0 ");
    wait_for_metric(&server, "goguerrilla_recipients_saved_total", 1.0);
    let figures = figures(&server);
    let bodies =
        |location| figures[&format!("goguerrilla_bodies_total{{location=\"{location}\"}}")];
    assert_eq!(bodies("redis") + bodies("table"), 1.0);
}
