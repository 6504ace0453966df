//! Compression of mails compared with libdeflate alone, in alternating runs. Prints a Markdown table; takes some seconds.
//!
//! Run `cargo bench --bench compression`, or `cargo bench --bench compression -- FILTER` for the rows whose name contains
//! FILTER. The times are those of the thread's processor time, medians of nine runs. Each row has many different mails of one
//! kind, at least 1 MB in total: with a single short mail, the branch predictor of the processor would predict every branch.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use goguerrilla::internals::mail::zlib_stream;
use libdeflater::{CompressionLvl, Compressor};
use nix::time::{ClockId, clock_gettime};
use testkit::sample_mails;

fn main() {
    // Cargo passes `--bench` to a program without a harness.
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    println!(
        "| mails | octets each | libdeflate: ratio | µs | goguerrilla: ratio | µs | size | time |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let is_selected = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    if is_selected("tests/corpus") {
        println!("{}", row("tests/corpus", &corpus()));
    }
    for kind in sample_mails::kinds()
        .iter()
        .filter(|kind| is_selected(kind.name))
    {
        println!("{}", row(kind.name, &kind.mails()));
    }
}

/// Measures all mails of a kind with both compressors and returns a row of the table.
fn row(name: &str, mails: &[Vec<u8>]) -> String {
    let mut compressor = Compressor::new(CompressionLvl::new(1).expect("a level"));
    let mut buffer = Vec::new();
    let mut alone = |plain: &[u8]| {
        buffer.resize(compressor.zlib_compress_bound(plain.len()), 0);
        let length = compressor.zlib_compress(plain, &mut buffer);
        // The server returns an allocation of its own for each mail as well.
        buffer[..length.expect("room")].to_vec()
    };
    let mut ours = |plain: &[u8]| zlib_stream(b"", plain).expect("memory");
    let (mut alone_times, mut our_times) = (Vec::new(), Vec::new());
    let (mut alone_octets, mut our_octets) = (0, 0);
    for _ in 0..RUNS {
        let (octets, time) = measure(mails, &mut alone);
        alone_octets = octets;
        alone_times.push(time);
        let (octets, time) = measure(mails, &mut ours);
        our_octets = octets;
        our_times.push(time);
    }
    let plain: usize = mails.iter().map(Vec::len).sum();
    let (alone_time, our_time) = (median(alone_times), median(our_times));
    format!(
        "| {name} | {} | {:.4} | {alone_time:.1} | {:.4} | {our_time:.1} | {:+.2} % | {:.2} × |",
        plain / mails.len(),
        alone_octets as f64 / plain as f64,
        our_octets as f64 / plain as f64,
        (our_octets as f64 / alone_octets as f64 - 1.0) * 100.0,
        our_time / alone_time,
    )
}

/// Returns the compressed octets of all mails and the microseconds of processor time for one.
fn measure(mails: &[Vec<u8>], compress: &mut dyn FnMut(&[u8]) -> Vec<u8>) -> (usize, f64) {
    let plain: usize = mails.iter().map(Vec::len).sum();
    let rounds = (OCTETS_PER_RUN / plain.max(1)).max(1);
    let mut octets = 0;
    let start = processor_time();
    for _ in 0..rounds {
        octets = 0;
        for mail in mails {
            octets += black_box(compress(mail)).len();
        }
    }
    let nanoseconds = processor_time() - start;
    (
        octets,
        nanoseconds as f64 / 1e3 / (rounds * mails.len()) as f64,
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the processor time of this thread in nanoseconds.
fn processor_time() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// Returns all mails in tests/corpus.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = fs::read_dir(folder).expect("the corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
    paths.sort();
    let read = |path| fs::read(path).expect("a file");
    paths.into_iter().map(read).collect()
}

const RUNS: usize = 9;
const OCTETS_PER_RUN: usize = 2_000_000;
