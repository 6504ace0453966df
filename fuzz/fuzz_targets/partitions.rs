//! Partitions by day, as a database may describe them: no partition with rows to keep is dropped, new ones follow the existing
//! ones, and a name cannot end its quotes in a statement.
#![no_main]

use arbitrary::Arbitrary;
use goguerrilla::internals::store::TableName;
use goguerrilla::internals::store::retention::{
    DayPartitions, PartitionChange, drop_partition_statement, make_partitions_statement,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    partitions: Vec<Described>,
    today: Day,
    cut_off: Day,
    /// Text of another expression, method and description.
    other: String,
}

#[derive(Arbitrary, Debug)]
struct Described {
    name: String,
    end: End,
    kind: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum End {
    Day(Day),
    MaxValue,
    Other,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Day {
    Near(u8),
    Any(u64),
}

impl Day {
    fn number(self) -> u64 {
        match self {
            // TO_DAYS of a day in 2026.
            Day::Near(day) => 740_000 + u64::from(day),
            Day::Any(day) => day,
        }
    }
}

fuzz_target!(|input: Input| {
    let rows = input.partitions.iter().map(|one| row(one, &input.other));
    let partitions = DayPartitions::from_rows(rows);
    let Some(partitions) = partitions else {
        let is_by_day = |one: &Described| one.kind < 250 && !matches!(one.end, End::Other);
        assert!(input.partitions.is_empty() || !input.partitions.iter().all(is_by_day));
        return;
    };
    let (today, cut_off) = (input.today.number(), input.cut_off.number());
    let ends: Vec<Option<u64>> = input
        .partitions
        .iter()
        .map(|one| end(one, &input.other))
        .collect();
    let _ = partitions.is_cut_off_in_one_day(cut_off);
    let mut dropped = 0;
    let mut is_made = false;
    for change in partitions.changes(today, cut_off) {
        match change {
            PartitionChange::Drop(name) => {
                dropped += 1;
                // The last partition is never dropped.
                let mut before_last = input.partitions.iter().zip(&ends).take(ends.len() - 1);
                let is_old = |(one, end): (&Described, &Option<u64>)| {
                    one.name == name && end.is_some_and(|end| end <= cut_off)
                };
                assert!(before_last.any(is_old), "{name}");
                let drop = drop_partition_statement(&TableName::default(), &name);
                assert_eq!(
                    names_in(&drop),
                    (
                        "ALTER TABLE N DROP PARTITION N".to_owned(),
                        vec!["new_mail".to_owned(), name]
                    )
                );
            }
            PartitionChange::Make { split, ends: made } => {
                assert!(!is_made);
                is_made = true;
                let last_end = ends.iter().flatten().max().expect("a day");
                assert!(
                    made.iter()
                        .all(|end| end > last_end && *end > today && *end - today <= 8)
                );
                assert!(made.windows(2).all(|pair| pair[0] + 1 == pair[1]) && !made.is_empty());
                let later = input
                    .partitions
                    .iter()
                    .zip(&ends)
                    .find(|(_, end)| end.is_none());
                assert_eq!(split.as_ref(), later.map(|(one, _)| &one.name));
                check_make_statement(split.as_deref(), &made);
            }
        }
    }
    let old = ends[..ends.len() - 1]
        .iter()
        .flatten()
        .filter(|end| **end <= cut_off);
    assert_eq!(dropped, old.count());
});

fn check_make_statement(split: Option<&str>, made: &[u64]) {
    let names: Vec<(String, u64)> = made.iter().map(|end| (format!("p{end}"), *end)).collect();
    let (text, found) = names_in(&make_partitions_statement(
        &TableName::default(),
        split,
        &names,
    ));
    let days = made
        .iter()
        .map(|end| format!("PARTITION N VALUES LESS THAN ({end})"));
    let days = days.collect::<Vec<_>>().join(", ");
    let mut want = vec!["new_mail".to_owned()];
    want.extend(split.map(str::to_owned));
    want.extend(names.into_iter().map(|(name, _)| name));
    want.extend(split.map(str::to_owned));
    assert_eq!(found, want);
    assert_eq!(
        text,
        match split {
            None => format!("ALTER TABLE N ADD PARTITION ({days})"),
            Some(_) => format!(
                "ALTER TABLE N REORGANIZE PARTITION N INTO ({days}, PARTITION N VALUES LESS THAN MAXVALUE)"
            ),
        }
    );
}

/// Returns a statement with `N` for each quoted name, and the names, as MySQL reads them.
fn names_in(statement: &str) -> (String, Vec<String>) {
    let (mut text, mut names) = (String::new(), Vec::new());
    let mut rest = statement;
    while let Some((before, quoted)) = rest.split_once('`') {
        text += before;
        text.push('N');
        let mut name = String::new();
        let mut chars = quoted.char_indices();
        loop {
            let (at, c) = chars.next().expect("the end of a name");
            let is_doubled = quoted[at..].starts_with("``");
            match c {
                '`' if !is_doubled => {
                    rest = &quoted[at + 1..];
                    break;
                }
                '`' => {
                    chars.next();
                    name.push('`');
                }
                c => name.push(c),
            }
        }
        names.push(name);
    }
    (text + rest, names)
}

type Row = (String, String, String, String, bool);

/// Returns what the database says about a partition; `None` for a row with NULL.
fn row(one: &Described, other: &str) -> Option<Row> {
    let end = match one.end {
        End::Day(day) => day.number().to_string(),
        End::MaxValue => "MAXVALUE".to_owned(),
        End::Other => other.to_owned(),
    };
    let (method, expression) = match one.kind {
        250 => (other, "to_days(`date`)"),
        251 => ("RANGE", other),
        _ => (
            "RANGE",
            ["to_days(`date`)", "TO_DAYS(`date`)"][usize::from(one.kind % 2)],
        ),
    };
    let is_whole = one.kind != 252;
    (one.kind < 253).then(|| {
        (
            one.name.clone(),
            end,
            method.to_owned(),
            expression.to_owned(),
            is_whole,
        )
    })
}

/// Returns the day before which a partition ends; `None` for MAXVALUE.
fn end(one: &Described, other: &str) -> Option<u64> {
    match one.end {
        End::Day(day) => Some(day.number()),
        End::MaxValue => None,
        End::Other => other.parse().ok(),
    }
}
