//! An upgrade from version 0.1.0 and back under load, with the program of that version: `GOGUERRILLA_OLD=PATH make soak`.

use std::collections::HashMap;

use testkit::follow::FollowedList;
use testkit::kill_rounds_mysql::rows;
use testkit::load::{content_of, stored_markers};
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::redis::Redis;
use testkit::senders::{SenderAccount, Senders, assert_stored};
use testkit::store::inflate;
use testkit::upgrade::{
    OLD_MAILS, OLD_MYSQL_TABLE, OLD_SQLITE_DUMP, Turn, TurnEnd, changelog_statements, instead,
    old_program, run_program, take_turns,
};
use testkit::{Server, binary, test, without_trace, write_config};

#[test]
fn files_of_the_upgrade_tests_are_those_of_the_old_program() {
    let old = old_program();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let run = |settings: &[(&str, &str)], arguments: &[&str]| {
        write_config(folder.path(), settings);
        run_program(folder.path(), &old, arguments).stdout
    };
    let table = run(&[("GM_STORE", "mysql")], &["schema"]);
    assert_eq!(table, OLD_MYSQL_TABLE);
    let table = run(&[], &["schema"]);
    let create = table.split(";\n").next().expect("a statement");
    let create = create.replace("IF NOT EXISTS ", "");
    assert!(OLD_SQLITE_DUMP.contains(&create), "{create}");
    let file = rusqlite::Connection::open(folder.path().join("goguerrilla.db"));
    let made = file.expect("a file").execute_batch(OLD_SQLITE_DUMP);
    made.expect("the file of 0.1.0");
    let mails: serde_json::Value =
        serde_json::from_str(&run(&[], &["list", "--json"])).expect("JSON");
    let mails = mails.as_array().expect("an array").iter().rev();
    for (mail, (hash, size)) in mails.zip(OLD_MAILS) {
        assert_eq!((&mail["hash"], &mail["size"]), (&hash.into(), &size.into()));
        assert_eq!(run(&[], &["show", hash]).len(), size);
    }
}

#[test]
fn sqlite_file_survives_turns_of_the_old_and_the_new_program_under_load() {
    let (old, new) = (&*old_program(), binary());
    for programs in [[old, new], [new, old]] {
        take_turns(
            &[],
            &turns(programs),
            |_| {},
            |folder| stored_markers(&folder.join("goguerrilla.db")),
        );
    }
}

#[test]
fn mysql_table_and_redis_survive_turns_of_the_old_and_the_new_program_under_load() {
    let (old, new) = (&*old_program(), binary());
    let (database, redis) = start_with_old_table();
    let (address, interface) = (database.address().to_string(), redis.address());
    let redis_key = [("REDIS_INTERFACE", interface.as_str())];
    let settings = with_hosts(&address, &redis_key);
    // In the second turn the new program has the old table at first; from then on both have the new one.
    let widen = |turn: usize| {
        if turn == 1 {
            changelog_statements()
                .iter()
                .for_each(|sql| database.sql(sql));
        }
    };
    take_turns(&settings, &turns([old, new]), widen, |_| {
        markers(&database, &redis)
    });
}

#[test]
fn old_and_new_program_save_to_one_mysql_table_at_the_same_time() {
    let (old, new) = (&*old_program(), binary());
    let (database, redis) = start_with_old_table();
    let (address, interface) = (database.address().to_string(), redis.address());
    let redis_key = [("REDIS_INTERFACE", interface.as_str())];
    let settings = with_hosts(&address, &redis_key);
    let receivers = [old, new].map(|program| {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        Server::start_with(folder, &settings, instead(program))
    });
    let followed = FollowedList::start(receivers[1].folder.path(), &["--json", "--limit=50000"]);
    let senders = [0, 1].map(|index| {
        let address = receivers[index].address;
        Senders::start(address, 4, &format!("receiver{index}"))
    });
    for _ in 0..10 {
        senders
            .iter()
            .for_each(|senders| senders.wait_for_more(100));
    }
    let mut total = SenderAccount::default();
    for account in senders.map(Senders::stop) {
        total.acknowledged.extend(account.acknowledged);
        total.unanswered.extend(account.unanswered);
    }
    let stored = markers(&database, &redis);
    assert_eq!(assert_stored(&total, &stored), 0);
    followed.wait_for_lines(stored.len());
    assert_eq!(followed.subjects(), stored);
    testkit::note!("{} acknowledged, 0 lost, 0 doubled", stored.len());
}

/// Returns how often each subject is stored, after checking each content.
fn markers(database: &MariaDb, redis: &Redis) -> HashMap<String, usize> {
    let mut markers = HashMap::new();
    for (subject, stream) in rows(database, Some(redis)) {
        let mail = inflate(&stream);
        assert_eq!(without_trace(&mail), content_of(&subject).as_bytes());
        *markers.entry(subject).or_default() += 1;
    }
    markers
}

/// Returns three turns of each program, which end with SIGTERM and SIGKILL by turns.
fn turns<'a>([first, second]: [&'a str; 2]) -> [Turn<'a>; 6] {
    let turn = |program, end| Turn { program, end };
    [
        turn(first, TurnEnd::Sigterm),
        turn(second, TurnEnd::Sigterm),
        turn(first, TurnEnd::Kill),
        turn(second, TurnEnd::Kill),
        turn(first, TurnEnd::Sigterm),
        turn(second, TurnEnd::Sigterm),
    ]
}

/// Starts MariaDB with the table of 0.1.0, and Redis.
fn start_with_old_table() -> (MariaDb, Redis) {
    let database = MariaDb::start_with(&[]);
    database.sql(OLD_MYSQL_TABLE);
    (database, Redis::start())
}
