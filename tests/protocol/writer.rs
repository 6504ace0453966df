//! The writer with faulty stores: every client gets the outcome of its own mail.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use goguerrilla::internals::feed::Feed;
use goguerrilla::internals::mail::Mail;
use goguerrilla::internals::metrics::Metrics;
use goguerrilla::internals::store::{
    CommitInDoubt, HoldLimit, SaveError, SaveMail, SaveQueue, SavedId, StoreHealth, StoreOpener,
    WriterThreads,
};

use testkit::{AT_ONCE, assert_took, let_time_pass, note, test, wait_for};

/// The outcome of a batch, given its subjects.
type SaveBehavior = Arc<dyn Fn(&[String]) -> Vec<Result<(), SaveError>> + Send + Sync>;

/// Returns a feed that is off.
fn no_feed() -> Arc<Feed> {
    Feed::new(Arc::default())
}

#[test]
fn store_panic_while_saving_fails_its_batch_and_the_next_batch_is_saved() {
    let Fixture {
        saver,
        seen,
        opened,
        writers,
    } = Fixture::new(
        || Ok(()),
        |subjects| {
            assert!(subjects[0] != "poison", "an intended panic");
            all_saved(subjects)
        },
    );
    assert_saved(&save(&saver, "before"));
    assert_unavailable(&save(&saver, "poison"));
    assert_saved(&save(&saver, "after"));
    writers.drain_and_join();
    assert_eq!(
        opened.load(Ordering::SeqCst),
        2,
        "the store was opened again"
    );
    assert_eq!(seen.lock().unwrap().concat(), ["before", "poison", "after"]);
    let page = saver.health().metrics().render();
    let panics = "goguerrilla_panics_total{component=\"writer\"} 1\n";
    assert!(page.contains(panics), "{page}");
}

#[test]
fn store_panic_while_preparing_a_batch_fails_it_and_the_next_is_saved() {
    let is_first = AtomicBool::new(true);
    let fixture = Fixture::new(
        move || {
            assert!(!is_first.swap(false, Ordering::SeqCst), "an intended panic");
            Ok(())
        },
        all_saved,
    );
    assert_unavailable(&save(&fixture.saver, "first"));
    assert_saved(&save(&fixture.saver, "second"));
    fixture.writers.drain_and_join();
    assert_eq!(fixture.seen.lock().unwrap().concat(), ["second"]);
}

#[test]
fn store_that_panics_again_in_drop_is_replaced_for_the_next_batch() {
    struct Broken;
    impl SaveMail for Broken {
        fn save_mail(&mut self, _: &Mail) -> Result<SavedId, SaveError> {
            panic!("an intended panic")
        }
    }
    impl Drop for Broken {
        fn drop(&mut self) {
            panic!("a second intended panic")
        }
    }
    let opened = AtomicUsize::new(0);
    let open: StoreOpener = Arc::new(move || match opened.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(Box::new(Broken)),
        _ => Ok(Box::new(Store::silent())),
    });
    let (saver, writers) =
        WriterThreads::start(1, true, StoreHealth::new(Arc::default()), &no_feed(), open)
            .expect("a thread");
    assert_unavailable(&save(&saver, "one"));
    assert_saved(&save(&saver, "two"));
    writers.drain_and_join();
}

#[test]
fn store_that_failed_to_open_is_opened_again_for_the_next_mail() {
    let opened = Arc::new(AtomicUsize::new(0));
    let open: StoreOpener = {
        let opened = Arc::clone(&opened);
        Arc::new(move || match opened.fetch_add(1, Ordering::SeqCst) {
            0 => Err(SaveError::full("no room")),
            1 => panic!("an intended panic"),
            _ => Ok(Box::new(Store::silent())),
        })
    };
    let (saver, writers) =
        WriterThreads::start(1, true, StoreHealth::new(Arc::default()), &no_feed(), open)
            .expect("a thread");
    assert!(matches!(save(&saver, "one"), Err(SaveError::Full(_))));
    assert_unavailable(&save(&saver, "two"));
    assert_saved(&save(&saver, "three"));
    assert_saved(&save(&saver, "four"));
    writers.drain_and_join();
    assert_eq!(opened.load(Ordering::SeqCst), 3);
}

#[test]
fn failed_mail_does_not_fail_other_mails_of_its_batch() {
    let fixture = Fixture::new(
        || Ok(()),
        |subjects| {
            commit(SLOW);
            let outcome = |subject: &String| match subject.ends_with('7') {
                true => Err(SaveError::unavailable("not this one")),
                false => Ok(()),
            };
            subjects.iter().map(outcome).collect()
        },
    );
    let subjects: Vec<String> = (0..40).map(|number| format!("mail {number}")).collect();
    thread::scope(|scope| {
        for subject in &subjects {
            let saver = &fixture.saver;
            scope.spawn(move || match save(saver, subject) {
                Ok(_) => assert!(!subject.ends_with('7'), "{subject}"),
                Err(_) => assert!(subject.ends_with('7'), "{subject}"),
            });
        }
    });
    fixture.writers.drain_and_join();
    let batches = fixture.seen.lock().unwrap();
    assert!(batches.iter().any(|batch| batch.len() > 1), "{batches:?}");
    let mut seen = batches.concat();
    seen.sort();
    let mut sent = subjects.clone();
    sent.sort();
    assert_eq!(seen, sent, "each mail is passed to the store once");
}

#[test]
fn mail_without_a_store_result_is_reported_as_not_saved() {
    let fixture = Fixture::new(|| Ok(()), |_| Vec::new());
    assert_unavailable(&save(&fixture.saver, "forgotten"));
    fixture.writers.drain_and_join();
}

#[test]
fn slow_store_receives_batches_under_load() {
    let fixture = Fixture::new(
        || Ok(()),
        |subjects| {
            commit(SLOW);
            all_saved(subjects)
        },
    );
    thread::scope(|scope| {
        for client in 0..20 {
            let saver = &fixture.saver;
            scope.spawn(move || {
                for number in 0..5 {
                    assert_saved(&save(saver, &format!("{client}-{number}")));
                }
            });
        }
    });
    fixture.writers.drain_and_join();
    let batches = fixture.seen.lock().unwrap();
    assert_eq!(batches.concat().len(), 100);
    // Without batches the store would have been called a hundred times.
    assert!(batches.len() <= 30, "{} batches", batches.len());
}

#[test]
fn several_writers_take_turns_instead_of_splitting_batches() {
    let fixture = Fixture::with_writers(
        4,
        || Ok(()),
        |subjects| {
            commit(FAST);
            all_saved(subjects)
        },
    );
    thread::scope(|scope| {
        for client in 0..20 {
            let saver = &fixture.saver;
            scope.spawn(move || {
                for number in 0..20 {
                    assert_saved(&save(saver, &format!("{client}-{number}")));
                }
            });
        }
    });
    fixture.writers.drain_and_join();
    let batches = fixture.seen.lock().unwrap();
    assert_eq!(batches.concat().len(), 400);
    note!("{} batches", batches.len());
    // Four independent writers would get batches of five.
    assert!(batches.len() <= 65, "{} batches", batches.len());
}

#[test]
fn hanging_writer_does_not_block_other_writers() {
    let (release, released) = gate();
    let (began, has_begun) = mpsc::channel();
    let began = Mutex::new(began);
    let fixture = Fixture::with_writers(
        2,
        || Ok(()),
        move |subjects| {
            if subjects.contains(&"stuck".to_owned()) {
                began.lock().unwrap().send(()).unwrap();
                released();
            }
            all_saved(subjects)
        },
    );
    thread::scope(|scope| {
        let saver = &fixture.saver;
        let stuck = scope.spawn(move || save(saver, "stuck"));
        has_begun.recv().unwrap();
        let began_at = Instant::now();
        for number in 0..20 {
            assert_saved(&save(saver, &format!("meanwhile {number}")));
        }
        assert_took(began_at.elapsed(), AT_ONCE);
        assert!(!stuck.is_finished());
        drop(release);
        assert_saved(&stuck.join().unwrap());
    });
    fixture.writers.drain_and_join();
}

#[test]
fn queued_mail_is_not_saved_after_its_client_disconnected() {
    let (release, released) = gate();
    let fixture = Fixture::new(
        move || {
            released();
            Ok(())
        },
        all_saved,
    );
    let mut asked = 0;
    let outcome = fixture
        .saver
        .save(mail("withdrawn"), &HoldLimit::none, &mut || {
            asked += 1;
            true
        });
    assert_unavailable(&outcome);
    assert_eq!(asked, 1);
    drop(release);
    assert_saved(&save(&fixture.saver, "stays"));
    fixture.writers.drain_and_join();
    assert_eq!(fixture.seen.lock().unwrap().concat(), ["stays"]);
}

#[test]
fn mail_already_passed_to_the_store_is_not_withdrawn() {
    let (release, released) = gate();
    let (began, has_begun) = mpsc::channel();
    let began = Mutex::new(began);
    let fixture = Fixture::new(
        || Ok(()),
        move |subjects| {
            began.lock().unwrap().send(()).unwrap();
            released();
            all_saved(subjects)
        },
    );
    thread::scope(|scope| {
        let saver = &fixture.saver;
        let waiting =
            scope.spawn(move || saver.save(mail("claimed"), &HoldLimit::none, &mut || true));
        has_begun.recv().unwrap();
        // A later mail that is only queued is withdrawn; the ticker has then asked for the claimed one too.
        assert_unavailable(&saver.save(mail("queued"), &HoldLimit::none, &mut || true));
        drop(release);
        assert_saved(&waiting.join().unwrap());
    });
    fixture.writers.drain_and_join();
}

#[test]
fn disconnects_are_noticed_while_a_store_hangs_after_the_first_waiter_left() {
    let (_release, released) = gate();
    let fixture = Fixture::new(
        move || {
            released();
            Ok(())
        },
        all_saved,
    );
    thread::scope(|scope| {
        let saver = &fixture.saver;
        // Each client disconnects some time after the one before it, and no new one arrives.
        for number in 0..8 {
            scope.spawn(move || {
                let subject = format!("mail {number}");
                let leaves_after = Duration::from_millis(1_000 + 300 * number);
                let began = Instant::now();
                let saved = saver.save(mail(&subject), &HoldLimit::none, &mut || {
                    began.elapsed() >= leaves_after
                });
                assert_unavailable(&saved);
                // `save` checks twice a second whether the client is still connected.
                let late = began.elapsed().saturating_sub(leaves_after);
                assert_took(late, Duration::from_millis(500));
            });
        }
    });
}

#[test]
fn disconnect_is_noticed_while_one_writer_hangs_and_another_is_busy() {
    let (release, released) = gate();
    let shall_hang = Arc::new(AtomicBool::new(false));
    let hangs = Arc::clone(&shall_hang);
    let ready = move || {
        if hangs.swap(false, Ordering::SeqCst) {
            released();
        }
        Ok(())
    };
    let slow = |subjects: &[String]| {
        commit(FAST);
        all_saved(subjects)
    };
    let fixture = Fixture::with_writers(2, ready, slow);
    let saver = &fixture.saver;
    let is_noticed = &AtomicBool::new(false);
    thread::scope(|scope| {
        // Some mail is always waiting, but none for long except the one whose writer hangs.
        for number in 0..40 {
            let shall_hang = &shall_hang;
            scope.spawn(move || {
                let until = Instant::now() + Duration::from_secs(10);
                for round in 0.. {
                    if is_noticed.load(Ordering::SeqCst) || Instant::now() > until {
                        return;
                    }
                    if (number, round) == (0, 20) {
                        shall_hang.store(true, Ordering::SeqCst);
                    }
                    let began = Instant::now();
                    let client_left = &mut || began.elapsed() > Duration::from_secs(1);
                    if saver
                        .save(mail("busy"), &HoldLimit::none, client_left)
                        .is_err()
                    {
                        is_noticed.store(true, Ordering::SeqCst);
                        assert_took(began.elapsed(), Duration::from_millis(1_500));
                    }
                }
            });
        }
    });
    assert!(is_noticed.load(Ordering::SeqCst));
    drop(release);
}

#[test]
fn queued_mails_are_saved_before_the_writers_stop() {
    let (release, released) = gate();
    let fixture = Fixture::new(
        move || {
            released();
            Ok(())
        },
        all_saved,
    );
    let (queued, has_queued) = mpsc::channel();
    let Fixture { saver, writers, .. } = fixture;
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..10)
            .map(|number| {
                let (saver, queued) = (saver.clone(), queued.clone());
                scope.spawn(move || {
                    // `save` calls this for the first time while the mail is queued.
                    let client_left = &mut || queued.send(()).is_err();
                    saver.save(
                        mail(&format!("queued {number}")),
                        &HoldLimit::none,
                        client_left,
                    )
                })
            })
            .collect();
        for _ in 0..10 {
            has_queued.recv().unwrap();
        }
        drop(release);
        writers.drain_and_join();
        for outcome in waiting {
            assert_saved(&outcome.join().unwrap());
        }
    });
    assert_unavailable(&save(&saver, "too late"));
}

#[test]
fn reason_of_an_unready_store_contains_the_sources_of_its_error() {
    #[derive(Debug)]
    struct TestErrorWithSource(io::Error);
    impl Display for TestErrorWithSource {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("db error")
        }
    }
    impl Error for TestErrorWithSource {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    let open: StoreOpener = Arc::new(|| {
        Err(SaveError::unavailable(TestErrorWithSource(
            io::Error::other("no route"),
        )))
    });
    let health = StoreHealth::new_of_reached_store(Arc::new(Metrics::new()));
    let (saver, writers) =
        WriterThreads::start(1, true, health.clone(), &no_feed(), open).expect("a thread");
    let error = save(&saver, "one").expect_err("no store");
    assert_eq!(error.to_string(), "db error");
    let reason = wait_for("the writer to report it", || health.store_unready_reason());
    assert_eq!(reason, "db error: no route");
    writers.drain_and_join();
}

#[test]
fn batch_in_doubt_delays_no_other_batch_and_gets_the_outcome_of_its_look_up() {
    let (release, released) = gate();
    let released = Arc::new(released);
    let fixture = Fixture::new(
        || Ok(()),
        move |subjects| {
            if !subjects[0].starts_with("doubtful") {
                return all_saved(subjects);
            }
            let (released, is_stored) = (Arc::clone(&released), subjects[0] == "doubtful, stored");
            let look_up = move |mails: &[Mail]| {
                assert_eq!(mails.len(), 1);
                released();
                match is_stored {
                    true => Ok(()),
                    false => Err(SaveError::unavailable("not found")),
                }
            };
            vec![Err(CommitInDoubt::save_error(
                "no answer",
                Box::new(look_up),
            ))]
        },
    );
    let saver = &fixture.saver;
    let wait_for_batches = |count: usize| {
        wait_for("a batch to be in doubt", || {
            (fixture.seen.lock().unwrap().len() == count).then_some(())
        });
    };
    thread::scope(|scope| {
        let stored = scope.spawn(|| save(saver, "doubtful, stored"));
        wait_for_batches(1);
        let missing = scope.spawn(|| save(saver, "doubtful, missing"));
        wait_for_batches(2);
        assert_saved(&save(saver, "other"));
        // A single writer may have two batches in doubt.
        let error = save(saver, "doubtful, third").expect_err("beyond the limit");
        assert!(error.to_string().contains("2 other COMMITs"), "{error}");
        assert!(!stored.is_finished() && !missing.is_finished());
        release.send(()).unwrap();
        release.send(()).unwrap();
        assert_saved(&stored.join().unwrap());
        assert_unavailable(&missing.join().unwrap());
    });
    fixture.writers.drain_and_join();
}

#[test]
fn panic_in_a_look_up_defers_its_batch_and_is_counted() {
    let fixture = Fixture::new(
        || Ok(()),
        |subjects| match subjects[0].as_str() {
            "doubtful" => {
                let look_up = |_: &[Mail]| panic!("an intended panic");
                vec![Err(CommitInDoubt::save_error(
                    "no answer",
                    Box::new(look_up),
                ))]
            }
            _ => all_saved(subjects),
        },
    );
    assert_unavailable(&save(&fixture.saver, "doubtful"));
    assert_saved(&save(&fixture.saver, "after"));
    let page = fixture.saver.health().metrics().render();
    let panics = "goguerrilla_panics_total{component=\"writer\"} 1\n";
    assert!(page.contains(panics), "{page}");
    fixture.writers.drain_and_join();
}

/// Writers and a store that records the batches it was given.
struct Fixture {
    saver: SaveQueue,
    writers: WriterThreads,
    seen: Arc<Mutex<Vec<Vec<String>>>>,
    opened: Arc<AtomicUsize>,
}

impl Fixture {
    fn new(
        ready: impl Fn() -> Result<(), SaveError> + Send + Sync + 'static,
        serve_client: impl Fn(&[String]) -> Vec<Result<(), SaveError>> + Send + Sync + 'static,
    ) -> Fixture {
        Fixture::with_writers(1, ready, serve_client)
    }

    fn with_writers(
        count: usize,
        ready: impl Fn() -> Result<(), SaveError> + Send + Sync + 'static,
        serve_client: impl Fn(&[String]) -> Vec<Result<(), SaveError>> + Send + Sync + 'static,
    ) -> Fixture {
        let (seen, opened) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let (ready, serve_client): (_, SaveBehavior) = (Arc::new(ready), Arc::new(serve_client));
        let open: StoreOpener = {
            let (seen, opened) = (Arc::clone(&seen), Arc::clone(&opened));
            Arc::new(move || {
                opened.fetch_add(1, Ordering::SeqCst);
                Ok(Box::new(Store {
                    ready: Arc::clone(&ready) as _,
                    serve_client: Arc::clone(&serve_client),
                    seen: Arc::clone(&seen),
                }))
            })
        };
        let (saver, writers) = WriterThreads::start(
            count,
            true,
            StoreHealth::new(Arc::default()),
            &no_feed(),
            open,
        )
        .expect("a thread");
        Fixture {
            saver,
            writers,
            seen,
            opened,
        }
    }
}

struct Store {
    ready: Arc<dyn Fn() -> Result<(), SaveError> + Send + Sync>,
    serve_client: SaveBehavior,
    seen: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Store {
    fn silent() -> Store {
        Store {
            ready: Arc::new(|| Ok(())),
            serve_client: Arc::new(all_saved),
            seen: Arc::default(),
        }
    }
}

impl SaveMail for Store {
    fn prepare_batch(&mut self) -> Result<(), SaveError> {
        (self.ready)()
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        self.save_batch(std::slice::from_ref(mail)).remove(0)
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        let subjects: Vec<String> = batch.iter().map(|mail| mail.subject().to_owned()).collect();
        self.seen.lock().unwrap().push(subjects.clone());
        let outcomes = (self.serve_client)(&subjects).into_iter().zip(batch);
        outcomes
            .map(|(outcome, mail)| outcome.map(|()| SavedId::from(mail.hash())))
            .collect()
    }
}

/// Returns a sender and a function that blocks until the sender is dropped.
fn gate() -> (Sender<()>, impl Fn() + Send + Sync) {
    let (release, released): (_, Receiver<()>) = mpsc::channel();
    let released = Mutex::new(released);
    let wait = move || {
        let _ = released.lock().unwrap().recv();
    };
    (release, wait)
}

fn all_saved(subjects: &[String]) -> Vec<Result<(), SaveError>> {
    vec![Ok(()); subjects.len()]
}

fn save(saver: &SaveQueue, subject: &str) -> Result<SavedId, SaveError> {
    saver.save(mail(subject), &HoldLimit::none, &mut || false)
}

fn assert_saved(outcome: &Result<SavedId, SaveError>) {
    assert!(outcome.is_ok(), "{outcome:?}");
}

fn assert_unavailable(outcome: &Result<SavedId, SaveError>) {
    assert!(
        matches!(outcome, Err(SaveError::Unavailable(_))),
        "{outcome:?}"
    );
}

fn mail(subject: &str) -> Mail {
    let mail = Mail::builder().recipient("u@ours.test");
    let mail = mail.content(format!("Subject: {subject}\r\n"));
    mail.build().expect("a mail")
}

/// Takes the time of a commit, in which mails queue up and later share a batch.
fn commit(time: Duration) {
    let_time_pass(time, "a commit, during which mails queue up");
}

/// The time of a commit on a fast disk.
const FAST: Duration = Duration::from_millis(2);
/// The time of a commit on a slow disk.
const SLOW: Duration = Duration::from_millis(20);
