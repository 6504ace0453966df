//! The series of measurements, whether it is flat, and its files.

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use testkit::note;
use testkit::report::{Table, whole};

use super::machine;

/// What was measured at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Mails acknowledged so far.
    pub mails: usize,
    pub resident_kib: u64,
    pub threads: usize,
    pub descriptors: usize,
    /// Rows in the table.
    pub rows: usize,
}

/// All samples of a run, each with the mails per second since the one before.
pub struct Samples {
    samples: Vec<(Sample, f64)>,
    last: (Instant, usize),
    load_at_start: String,
}

impl Samples {
    /// Begins the series.
    pub fn new() -> Samples {
        Samples {
            samples: Vec::new(),
            last: (Instant::now(), 0),
            load_at_start: machine::load(),
        }
    }

    /// Appends a sample.
    pub fn push(&mut self, sample: Sample) {
        let (at, before) = self.last;
        let rate = (sample.mails - before) as f64 / at.elapsed().as_secs_f64();
        self.samples.push((sample, rate));
        self.last = (Instant::now(), sample.mails);
    }

    /// Describes the last sample in a line.
    pub fn describe_last(&self) -> String {
        let last = self.samples.last();
        last.map_or_else(String::new, |(sample, rate)| {
            format!("{sample:?}, {rate:.0} mails/s")
        })
    }

    /// Asserts that the last tenth needs no more than the second one. The first one fills caches.
    pub fn assert_flat(&self) {
        let [early, late] = [1, 9].map(|tenth| self.tenth(tenth));
        let median = |samples: &[Sample]| {
            let mut resident: Vec<u64> = samples.iter().map(|one| one.resident_kib).collect();
            resident.sort_unstable();
            resident[resident.len() / 2]
        };
        let (before, after) = (median(&early), median(&late));
        note!("resident: {before} KiB in the second tenth, {after} KiB in the last one");
        assert!(after <= before + before / 10 + SMALL_GROWTH_KIB);
        let most = |samples: &[Sample], of: fn(&Sample) -> usize| samples.iter().map(of).max();
        let threads = [&early, &late].map(|samples| most(samples, |one| one.threads));
        let descriptors = [&early, &late].map(|samples| most(samples, |one| one.descriptors));
        note!("most threads and descriptors in the same tenths: {threads:?}, {descriptors:?}");
        assert!(threads[1] <= threads[0].map(|most| most + THREADS_OF_A_BURST));
        assert!(descriptors[1] <= descriptors[0].map(|most| most + FILES_OF_A_ROUND));
    }

    fn tenth(&self, number: usize) -> Vec<Sample> {
        let count = self.samples.len();
        let range = count * number / 10..count * (number + 1) / 10;
        self.samples[range]
            .iter()
            .map(|(sample, _)| *sample)
            .collect()
    }

    /// Writes the values, the picture and the text to `target/bench`, or to the folder that benchmarks write to.
    pub fn publish(&self, goal: usize) {
        let columns = [
            "mails",
            "resident MiB",
            "threads",
            "descriptors",
            "rows in the table",
            "mails/s",
        ];
        let title = format!("{} mails through one process", whole(goal as f64));
        let mut table = Table::new("endurance", &title, &columns, &columns[1..]);
        table.is_series = true;
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        table.measured = format!("{}, {}", today.date(), machine::description());
        table.command = format!("make endurance MAILS={goal}");
        table.note(format!(
            "Load average of the machine at the start: {}.",
            self.load_at_start
        ));
        for (sample, rate) in &self.samples {
            table.push(vec![
                whole(sample.mails as f64),
                format!("{:.2}", sample.resident_kib as f64 / 1_024.0),
                sample.threads.to_string(),
                sample.descriptors.to_string(),
                whole(sample.rows as f64),
                whole(*rate),
            ]);
        }
        let folder = env::var_os("GOGUERRILLA_BENCH_FOLDER").filter(|folder| !folder.is_empty());
        let folder = folder.map_or_else(|| testkit::cache().with_file_name("bench"), PathBuf::from);
        table
            .publish(&folder)
            .expect("a folder that can be written");
    }
}

/// The cache of the connection that removes old rows, which may first do so after the second tenth.
const SMALL_GROWTH_KIB: u64 = 4_096;
/// A thread is kept for each connection that a burst needed, and a client may open its next session before the server has ended
/// the one before. How many clients do so at once differs from run to run.
const THREADS_OF_A_BURST: usize = 4;
/// The files of that connection, which are open only while it removes rows.
const FILES_OF_A_ROUND: usize = 2;
