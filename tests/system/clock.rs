//! The wall clock jumps while the server runs: dates follow it and nothing else is affected.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use testkit::certificates::{KeyKind, Pair};
use testkit::load::{Load, assert_no_loss_or_duplicate, content_of, stored_markers};
use testkit::store::{StoredMail, mails_after};
use testkit::tls::{TlsClient, TlsServer, certificate, config_trusting, starttls};
use testkit::{test, wait_for, wait_for_within};

#[test]
fn wall_clock_jump_affects_no_mail_no_session_and_no_certificate_renewal() {
    let mut folders = fs::read_dir("/usr/lib").expect("a folder").flatten();
    let is_installed = folders.any(|folder| folder.path().join(LIBFAKETIME_BELOW_LIB).exists());
    testkit::needs("libfaketime", is_installed);
    let folder = TempDir::new().expect("a temporary folder");
    let pair = Pair::make(folder.path(), "mx", KeyKind::EcdsaP256, 90);
    let clock = folder.path().join("clock");
    set_clock(&clock, 0);
    let with_clock = |mut program: Command| {
        program.envs([
            ("LD_PRELOAD", LIBFAKETIME),
            ("FAKETIME_NO_CACHE", "1"),
            // A real clock change moves neither the monotonic clock nor file times.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]);
        program.env("FAKETIME_TIMESTAMP_FILE", &clock);
        program
    };
    let mut tls = TlsServer::start_with_wrapper(folder, pair, &[], with_clock);
    let server = &tls.server;
    // Sessions that stay open during every jump: idle, in the middle of a mail, and over TLS.
    let mut idle = server.client();
    idle.command("EHLO client.test", "250");
    let mut in_data = server.client();
    in_data.begin_data("a@client.test", "u@ours.test");
    let long_mail = content_of("in data");
    let mut pieces = long_mail.as_bytes().chunks(10);
    in_data.send(pieces.next().expect("a piece"));
    let mut in_tls = tls.client();
    in_tls.command("EHLO client.test", "250");
    let elsewhere = TempDir::new().expect("a temporary folder");
    let renewal = Pair::make(elsewhere.path(), "renewed", KeyKind::EcdsaP256, 90);

    let load = Load::start(server.address, 4, "load");
    load.wait_for_more(20);
    for hours in JUMPS {
        set_clock(&clock, hours);
        wait_for("the log to use the new time", || {
            let log = server.log();
            let time = log.lines().last()?.split(' ').next()?;
            is_current(time.parse().ok()?, hours).then_some(())
        });
        if hours == JUMPS[0] {
            for (new, old) in [
                (&renewal.chain, &tls.pair.chain),
                (&renewal.key, &tls.pair.key),
            ] {
                fs::copy(new, old).expect("a file of this test");
            }
        }
        load.wait_for_more(20);
        idle.command("NOOP", "250");
        in_data.send(pieces.next().expect("a piece"));
        in_tls.begin_mail();
        in_tls.send(content_of(&subject_in_tls_at(hours)) + ".\r\n");
        in_tls.expect("250 2.0.0 ");
    }
    let mut account = load.stop();
    for piece in pieces {
        in_data.send(piece);
    }
    in_data.send(".\r\n");
    in_data.expect("250 2.0.0 ");
    idle.command("QUIT", "221");
    // The server checks certificate files every 20 seconds.
    wait_for_within("the renewed certificate", Duration::from_secs(45), || {
        server.log().contains(" certificate_renewed").then_some(())
    });
    let config = config_trusting(&[&renewal.chain]);
    let mut renewed = TlsClient::over(starttls(server.client()), config).expect("a handshake");
    assert_eq!(renewed.certificate(), certificate(&renewal.chain));
    drop(renewed);
    in_tls.command("NOOP", "250");

    assert!(tls.server.stop().success());
    let log = tls.server.log();
    for trouble in ["panicked", "timed_out", "shed", "not_saved"] {
        assert!(!log.contains(trouble), "{trouble}");
    }
    assert_eq!((account.deferred.len(), account.unanswered.len()), (0, 0));
    let others = JUMPS
        .map(subject_in_tls_at)
        .into_iter()
        .chain(["in data".into()]);
    for marker in others {
        account.sent.push(marker.clone());
        account.acknowledged.push(marker);
    }
    let file = tls.server.path("goguerrilla.db");
    assert_no_loss_or_duplicate(&account, &stored_markers(&file));
    assert_dates_and_hashes(&mails_after(&file, 0));
}

/// Asserts that each row's date matches the wall clock when it was saved and that every hash is unique.
fn assert_dates_and_hashes(mails: &[StoredMail]) {
    let date = |mail: &StoredMail| -> Timestamp {
        let in_utc = format!("{}Z", mail.date);
        in_utc.parse().expect("a date")
    };
    for hours in JUMPS {
        let is_of_jump = |mail: &&StoredMail| is_current(date(mail), hours);
        let saved = mails.iter().filter(is_of_jump).count();
        assert!(saved >= 20, "{saved} mails at {hours} hours");
        let in_tls = mails
            .iter()
            .find(|mail| mail.subject == subject_in_tls_at(hours));
        let in_tls = in_tls.expect("a saved mail");
        assert!(
            is_current(date(in_tls), hours),
            "{} at {hours}",
            in_tls.date
        );
    }
    let strange = mails
        .iter()
        .find(|mail| !JUMPS.iter().any(|hours| is_current(date(mail), *hours)));
    assert!(strange.is_none(), "{strange:?}");
    let hashes: HashSet<&str> = mails.iter().map(|mail| mail.hash.as_str()).collect();
    assert_eq!(hashes.len(), mails.len());
}

/// Sets the fake clock of the processes that read this file to `hours` ahead of the real time.
fn set_clock(file: &Path, hours: i64) {
    let new_file = file.with_extension("new");
    fs::write(&new_file, format!("{:+}\n", hours * 3_600)).expect("a file of this test");
    fs::rename(&new_file, file).expect("a file of this test");
}

/// Returns whether `time` is close to the present time of a clock that is `hours` ahead.
fn is_current(time: Timestamp, hours: i64) -> bool {
    let shown = Timestamp::now() + SignedDuration::from_hours(hours);
    time.duration_since(shown).abs() < SignedDuration::from_mins(30)
}

fn subject_in_tls_at(hours: i64) -> String {
    format!("in tls at {hours} hours")
}

/// Offsets in hours: one day ahead, one week back, and none.
const JUMPS: [i64; 3] = [24, -7 * 24, 0];
/// The variant for multithreaded programs, where Debian's package libfaketime installs it.
const LIBFAKETIME_BELOW_LIB: &str = "faketime/libfaketimeMT.so.1";
const LIBFAKETIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";
