//! Version 0.1.0: what it left behind, and the old program itself, which takes turns with this one on one store.

use std::collections::HashMap;
use std::env;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::{ProcessResult, run_command};
use crate::senders::{Senders, assert_stored};
use crate::{Server, binary, needs};

/// goguerrilla.conf.sample of version 0.1.0.
pub const OLD_CONFIG: &str = include_str!("../../upgrade/goguerrilla-0.1.0.conf");
/// The SQLite file of version 0.1.0 after two mails, the second of them to two recipients.
pub const OLD_SQLITE_DUMP: &str = include_str!("../../upgrade/sqlite-0.1.0.sql");
/// The table that `schema` of version 0.1.0 prints for MySQL.
pub const OLD_MYSQL_TABLE: &str = include_str!("../../upgrade/mysql-0.1.0.sql");
/// Hash and size of each mail in [`OLD_SQLITE_DUMP`], the oldest first.
pub const OLD_MAILS: [(&str, usize); 3] = [
    ("c32da9772698d649c9db14863d6a5888", 254),
    ("88e5b603fdddd435b6158284f4c788a5", 453),
    ("8292b5a37202a077f3d251c12520aa40", 465),
];

/// Returns the path of the old program. Ends the test as ignored if it is not given.
pub fn old_program() -> String {
    let program = env::var("GOGUERRILLA_OLD").unwrap_or_default();
    needs(
        "GOGUERRILLA_OLD, the path of the program of version 0.1.0",
        !program.is_empty(),
    );
    program
}

/// Returns the statements for the table of 0.1.0 in CHANGELOG.md.
pub fn changelog_statements() -> Vec<String> {
    let file = crate::root_folder().join("CHANGELOG.md");
    let text = std::fs::read_to_string(file).expect("the changelog");
    let block = text.split("```").find(|block| block.starts_with("sql\n"));
    let statements = block.expect("a block of SQL")["sql\n".len()..].split(';');
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    statements
        .map(one_line)
        .filter(|text| !text.is_empty())
        .collect()
}

/// A program and the end of its turn.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    pub program: &'a str,
    pub end: TurnEnd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TurnEnd {
    Sigterm,
    Kill,
}

/// Lets programs take turns on the same port, folder and store while senders deliver mail, and checks the store.
///
/// `during` is called in each turn, with its number, and `stored` counts the rows of each subject.
pub fn take_turns(
    settings: &[(&str, &str)],
    turns: &[Turn],
    during: impl Fn(usize),
    stored: impl Fn(&Path) -> HashMap<String, usize>,
) {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut settings = settings.to_vec();
    settings.extend([
        ("GSTMP_LISTEN_INTERFACE", listen.as_str()),
        ("GM_HOLD_SECONDS", "10"),
    ]);
    let folder = TempDir::new().expect("a temporary folder");
    let mut server = Server::start_with(folder, &settings, instead(turns[0].program));
    let senders = Senders::start(server.address, SENDERS, "turns");
    for (number, turn) in turns.iter().enumerate() {
        if number > 0 {
            server.start_again_with(instead(turn.program));
        }
        wait_for_many(&senders);
        during(number);
        wait_for_many(&senders);
        if number + 1 < turns.len() {
            match turn.end {
                TurnEnd::Sigterm => assert!(server.stop().success()),
                TurnEnd::Kill => server.kill(),
            }
        }
    }
    let account = senders.stop();
    let kills = turns.iter().filter(|turn| turn.end == TurnEnd::Kill);
    assert!(account.unanswered.len() <= kills.count() * SENDERS);
    let programs: Vec<&str> = turns.iter().map(|turn| turn.program).collect();
    assert_programs_read_the_same(server.folder.path(), &programs);
    assert!(server.stop().success());
    let stored = stored(server.folder.path());
    let doubled = assert_stored(&account, &stored);
    crate::note!(
        "{} turns: {} acknowledged, {} stored, 0 lost, {doubled} doubled, {} without a reply, {} sent again",
        turns.len(),
        account.acknowledged.len(),
        stored.values().sum::<usize>(),
        account.unanswered.len(),
        account.sent_again,
    );
}

/// Returns a wrapper that runs another program with the same arguments.
pub fn instead(program: &str) -> impl FnOnce(Command) -> Command + use<> {
    let program = program.to_owned();
    move |command| {
        let mut other = Command::new(program);
        other.args(command.get_args());
        other
    }
}

/// Waits for half of the mails of a turn.
fn wait_for_many(senders: &Senders) {
    for _ in 0..MAILS_OF_A_TURN / 2 / MAILS_PER_WAIT {
        senders.wait_for_more(MAILS_PER_WAIT);
    }
}

/// Asserts that `list` of each program prints the same rows, and that `show` prints the same content for some of them.
fn assert_programs_read_the_same(folder: &Path, programs: &[&str]) {
    let list = |program: &str| -> Vec<Value> {
        let ended = run_program(folder, program, &["list", "--limit=1000000", "--json"]);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{program}");
        serde_json::from_str(&ended.stdout).expect("a JSON array")
    };
    let mails = list(binary());
    assert!(mails.iter().all(|mail| mail["size"].is_u64()));
    let of_a_turn = mails.len() / programs.len();
    for program in programs {
        assert_eq!(list(program), mails, "{program}");
        for mail in mails.iter().step_by(of_a_turn / SHOWN_OF_A_TURN) {
            let hash = mail["hash"].as_str().expect("a hash");
            let shown = run_program(folder, program, &["show", hash]);
            assert_eq!(shown.status, 0, "{program}: {}", shown.stderr);
            let subject = mail["subject"].as_str().expect("a subject");
            assert!(
                shown.stdout.ends_with(&crate::load::content_of(subject)),
                "{program}: {subject}"
            );
        }
    }
}

/// Runs a command of a program with the configuration in `folder`.
pub fn run_program(folder: &Path, program: &str, arguments: &[&str]) -> ProcessResult {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("-config=goguerrilla.conf")
        .current_dir(folder);
    run_command(&mut command)
}

const SENDERS: usize = 8;
/// The mails that are acknowledged at least in each turn.
const MAILS_OF_A_TURN: usize = 2_000;
/// How many mails even a busy machine saves before a wait of the test times out.
const MAILS_PER_WAIT: usize = 100;
/// How many mails of a turn `show` prints.
const SHOWN_OF_A_TURN: usize = 5;
