//! Counters, gauges and histograms, each with its form on the page.

use std::fmt::{Display, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Whatever a counter tells apart; `()` is a counter without a label.
pub trait Label: Copy {
    /// How many values there are.
    const VALUES: usize;
    /// Which of them this is, below `VALUES`.
    fn index(self) -> usize;
    /// A value as it stands between the braces.
    fn text(index: usize) -> String;
}

/// Counts that only grow, one for each value of its label.
pub struct Counter<L: Label = ()> {
    name: &'static str,
    help: &'static str,
    counts: [AtomicU64; MAX_VALUES],
    label: PhantomData<fn(L)>,
}

/// A figure that goes up and down; not shown before it was set.
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    /// As it stands between the braces.
    label: &'static str,
    /// So many of the value are one of the unit that is shown.
    parts: u64,
    value: AtomicU64,
}

/// How many observations were at most how large.
pub struct Histogram {
    name: &'static str,
    help: &'static str,
    /// Upper ends of the buckets, the last of which has none, in parts of the unit.
    bounds: &'static [u64],
    /// So many of them are one of the unit that is shown.
    parts: u64,
    buckets: [AtomicU64; MAX_BUCKETS],
    sum: AtomicU64,
}

impl Label for () {
    const VALUES: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn text(_: usize) -> String {
        String::new()
    }
}

impl<A: Label, B: Label> Label for (A, B) {
    const VALUES: usize = A::VALUES * B::VALUES;

    fn index(self) -> usize {
        self.0.index() * B::VALUES + self.1.index()
    }

    fn text(index: usize) -> String {
        let (first, second) = (index / B::VALUES, index % B::VALUES);
        format!("{},{}", A::text(first), B::text(second))
    }
}

impl<L: Label> Counter<L> {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Counter<L> {
        const { assert!(L::VALUES <= MAX_VALUES) };
        Counter {
            name,
            help,
            counts: [const { AtomicU64::new(0) }; MAX_VALUES],
            label: PhantomData,
        }
    }

    /// One more of these.
    pub fn count(&self, label: L) {
        self.add(label, 1);
    }

    /// So many more of these.
    #[expect(
        clippy::indexing_slicing,
        reason = "an index is below VALUES, which `new` holds to MAX_VALUES"
    )]
    pub fn add(&self, label: L, more: usize) {
        self.counts[label.index()].fetch_add(more as u64, Relaxed);
    }
}

impl Gauge {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Gauge {
        Gauge::labelled(name, help, "")
    }

    pub(super) const fn labelled(
        name: &'static str,
        help: &'static str,
        label: &'static str,
    ) -> Gauge {
        let value = AtomicU64::new(UNSET);
        Gauge {
            name,
            help,
            label,
            parts: 1,
            value,
        }
    }

    /// Makes a gauge of a figure between 0 and 1.
    pub(super) const fn of_ratio(name: &'static str, help: &'static str) -> Gauge {
        let mut gauge = Gauge::new(name, help);
        gauge.parts = RATIO_PARTS;
        gauge
    }

    /// What it is now.
    pub fn set(&self, value: u64) {
        self.value.store(value, Relaxed);
    }

    /// Sets `part` of `whole`; more than the whole counts as the whole.
    pub fn set_ratio(&self, part: u64, whole: u64) {
        let ratio = part.min(whole) as f64 / whole.max(1) as f64;
        self.set((ratio * self.parts as f64) as u64);
    }

    /// Takes the figure off the page until it is set again.
    pub fn unset(&self) {
        self.set(UNSET);
    }
}

impl Histogram {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        bounds: &'static [u64],
        parts: u64,
    ) -> Histogram {
        assert!(bounds.len() < MAX_BUCKETS);
        Histogram {
            name,
            help,
            bounds,
            parts,
            buckets: [const { AtomicU64::new(0) }; MAX_BUCKETS],
            sum: AtomicU64::new(0),
        }
    }

    /// One more observation, in parts of the unit.
    #[expect(
        clippy::indexing_slicing,
        reason = "`new` sees to it that there are more buckets than bounds"
    )]
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// One more duration, where the parts are microseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_micros() as u64);
    }
}

/// What can stand on the page.
pub trait Family: Sync {
    /// Appends its HELP, its TYPE and its samples.
    fn write_to(&self, page: &mut String);
}

impl<L: Label> Family for Counter<L> {
    fn write_to(&self, page: &mut String) {
        begin(page, self.name, self.help, "counter");
        for (index, count) in self.counts.iter().enumerate().take(L::VALUES) {
            sample(page, self.name, "", &L::text(index), count.load(Relaxed));
        }
    }
}

impl Family for Gauge {
    fn write_to(&self, page: &mut String) {
        let value = self.value.load(Relaxed);
        if value != UNSET {
            begin(page, self.name, self.help, "gauge");
            match self.parts {
                1 => sample(page, self.name, "", self.label, value),
                parts => sample(page, self.name, "", self.label, value as f64 / parts as f64),
            }
        }
    }
}

impl Family for Histogram {
    fn write_to(&self, page: &mut String) {
        begin(page, self.name, self.help, "histogram");
        let in_units = |parts: u64| parts as f64 / self.parts as f64;
        let mut so_far = 0;
        for (index, bucket) in self.buckets.iter().enumerate().take(self.bounds.len() + 1) {
            so_far += bucket.load(Relaxed);
            let label = match self.bounds.get(index) {
                Some(bound) => format!("le=\"{}\"", in_units(*bound)),
                None => "le=\"+Inf\"".to_owned(),
            };
            sample(page, self.name, "_bucket", &label, so_far);
        }
        sample(
            page,
            self.name,
            "_sum",
            "",
            in_units(self.sum.load(Relaxed)),
        );
        sample(page, self.name, "_count", "", so_far);
    }
}

// Writing to a String cannot fail.
fn begin(page: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(page: &mut String, name: &str, suffix: &str, label: &str, value: impl Display) {
    let _ = match label {
        "" => writeln!(page, "{name}{suffix} {value}"),
        label => writeln!(page, "{name}{suffix}{{{label}}} {value}"),
    };
}

/// Values of one counter.
const MAX_VALUES: usize = 64;
/// Buckets of one histogram.
const MAX_BUCKETS: usize = 16;
/// Steps of a ratio.
const RATIO_PARTS: u64 = 1_000_000_000;
/// What no gauge is ever set to.
const UNSET: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::super::{Handshake, ListenerKind};
    use super::*;

    fn shown(family: &dyn Family) -> String {
        let mut page = String::new();
        family.write_to(&mut page);
        page
    }

    #[test]
    fn each_metric_type_renders_in_prometheus_format() {
        let plain: Counter = Counter::new("a_total", "A.");
        plain.add((), 3);
        let head = "# HELP a_total A.\n# TYPE a_total counter\n";
        assert_eq!(shown(&plain), format!("{head}a_total 3\n"));

        let paired: Counter<(ListenerKind, Handshake)> = Counter::new("b_total", "B.");
        paired.count((ListenerKind::Smtps, Handshake::Tls12));
        let page = shown(&paired);
        assert_eq!(page.lines().count(), 2 + 2 * 3);
        assert!(page.contains("b_total{listener=\"smtp\",outcome=\"TLSv1_2\"} 0\n"));
        assert!(page.contains("b_total{listener=\"smtps\",outcome=\"TLSv1_2\"} 1\n"));

        let gauge = Gauge::labelled("c", "C.", "d=\"e\"");
        assert_eq!(shown(&gauge), "");
        gauge.set(0);
        assert!(shown(&gauge).ends_with("# TYPE c gauge\nc{d=\"e\"} 0\n"));

        let ratio = Gauge::of_ratio("r", "R.");
        for (part, whole, want) in [
            (0, 127, "r 0\n"),
            (1 << 62, (1 << 63) - 1, "r 0.5\n"),
            (1_073_741_824, 2_147_483_647, "r 0.5\n"),
            (128, 127, "r 1\n"),
            (u64::MAX, u64::MAX, "r 1\n"),
            (0, 0, "r 0\n"),
        ] {
            ratio.set_ratio(part, whole);
            assert!(shown(&ratio).ends_with(want), "{part}/{whole}");
        }
        ratio.unset();
        assert_eq!(shown(&ratio), "");
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::new("h_seconds", "H.", &[500, 1_000_000], 1_000_000);
        for micros in [0, 500, 501, 1_000_000, 2_000_000] {
            histogram.observe_time(Duration::from_micros(micros));
        }
        assert_eq!(
            shown(&histogram).lines().skip(2).collect::<Vec<_>>(),
            [
                "h_seconds_bucket{le=\"0.0005\"} 2",
                "h_seconds_bucket{le=\"1\"} 4",
                "h_seconds_bucket{le=\"+Inf\"} 5",
                "h_seconds_sum 3.001001",
                "h_seconds_count 5",
            ]
        );
    }
}
