//! Counters, gauges and histograms, which can be written in the text format of Prometheus.

use std::fmt::{Display, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// The label of a counter. A counter without a label uses `()`.
pub trait MetricLabel: Copy {
    /// Number of values of the label.
    const VALUES: usize;
    /// Returns the index of this value, less than `VALUES`.
    fn index(self) -> usize;
    /// Returns the text between the braces for the value with this index: `name="value"`.
    fn text(index: usize) -> String;
}

/// Counts that only grow: one count for each label value.
pub struct Counter<L: MetricLabel = ()> {
    name: &'static str,
    help: &'static str,
    counts: [AtomicU64; MAX_VALUES],
    label: PhantomData<fn(L)>,
}

/// A value that can rise and fall. A gauge is omitted from the metrics page until it is set.
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    /// Text of the label between the braces; empty if there is no label.
    label: &'static str,
    /// The value on the metrics page is the stored value divided by this number.
    scale: u64,
    value: AtomicU64,
}

/// Counts of observations, in buckets by the observed value.
pub struct Histogram {
    name: &'static str,
    help: &'static str,
    /// Inclusive upper bounds of the buckets, in the unit of the observed values. One more bucket has no upper bound.
    bounds: &'static [u64],
    /// The value on the metrics page is the stored value divided by this number.
    scale: u64,
    buckets: [AtomicU64; MAX_BUCKETS],
    sum: AtomicU64,
}

impl MetricLabel for () {
    const VALUES: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn text(_: usize) -> String {
        String::new()
    }
}

impl<A: MetricLabel, B: MetricLabel> MetricLabel for (A, B) {
    const VALUES: usize = A::VALUES * B::VALUES;

    fn index(self) -> usize {
        self.0.index() * B::VALUES + self.1.index()
    }

    fn text(index: usize) -> String {
        let (first, second) = (index / B::VALUES, index % B::VALUES);
        format!("{},{}", A::text(first), B::text(second))
    }
}

impl<L: MetricLabel> Counter<L> {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Counter<L> {
        const { assert!(L::VALUES <= MAX_VALUES) };
        Counter {
            name,
            help,
            counts: [const { AtomicU64::new(0) }; MAX_VALUES],
            label: PhantomData,
        }
    }

    /// Counts one event with this label value.
    pub fn count(&self, label: L) {
        self.add(label, 1);
    }

    /// Counts `count` events with this label value.
    #[expect(
        clippy::indexing_slicing,
        reason = "an index is less than VALUES, which `new` limits to MAX_VALUES"
    )]
    pub fn add(&self, label: L, count: usize) {
        self.counts[label.index()].fetch_add(count as u64, Relaxed);
    }

    /// Returns how many events with this label value were counted.
    #[expect(
        clippy::indexing_slicing,
        reason = "an index is less than VALUES, which `new` limits to MAX_VALUES"
    )]
    pub fn value(&self, label: L) -> u64 {
        self.counts[label.index()].load(Relaxed)
    }

    /// Returns how many events were counted, with any label value.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl Gauge {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Gauge {
        Gauge::new_labelled_gauge(name, help, "")
    }

    pub(super) const fn new_labelled_gauge(
        name: &'static str,
        help: &'static str,
        label: &'static str,
    ) -> Gauge {
        let value = AtomicU64::new(UNSET);
        Gauge {
            name,
            help,
            label,
            scale: 1,
            value,
        }
    }

    /// Returns a gauge for a value between 0 and 1.
    pub(super) const fn new_ratio_gauge(name: &'static str, help: &'static str) -> Gauge {
        let mut gauge = Gauge::new(name, help);
        gauge.scale = RATIO_SCALE;
        gauge
    }

    /// Sets the current value.
    pub fn set(&self, value: u64) {
        self.value.store(value, Relaxed);
    }

    /// Adds 1 to the value, which must be set.
    pub fn increment(&self) {
        self.value.fetch_add(1, Relaxed);
    }

    /// Subtracts 1 from the value, which must be set and more than 0.
    pub fn decrement(&self) {
        self.value.fetch_sub(1, Relaxed);
    }

    /// Sets the value to a time, in seconds since 1970.
    pub fn set_to_unix_seconds(&self, time: SystemTime) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        self.set(since.unwrap_or_default().as_secs());
    }

    /// Sets the value to `part / whole`, at most 1.
    pub fn set_ratio(&self, part: u64, whole: u64) {
        let ratio = part.min(whole) as f64 / whole.max(1) as f64;
        self.set((ratio * self.scale as f64) as u64);
    }

    /// Returns the stored value; `None` if the gauge is not set.
    pub fn value(&self) -> Option<u64> {
        Some(self.value.load(Relaxed)).filter(|value| *value != UNSET)
    }

    /// Omits the gauge from the metrics page until it is set again.
    pub fn hide_until_set(&self) {
        self.set(UNSET);
    }
}

impl Histogram {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        bounds: &'static [u64],
        scale: u64,
    ) -> Histogram {
        assert!(bounds.len() < MAX_BUCKETS);
        Histogram {
            name,
            help,
            bounds,
            scale,
            buckets: [const { AtomicU64::new(0) }; MAX_BUCKETS],
            sum: AtomicU64::new(0),
        }
    }

    /// Records one observation; `value` is in the unit of the bounds given to `new`.
    #[expect(
        clippy::indexing_slicing,
        reason = "`new` asserts that there are more buckets than bounds"
    )]
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Returns the number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// Returns the sum of all observations, in the unit of the metrics page.
    pub fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / self.scale as f64
    }

    /// Returns the number of observations in each bucket; the last bucket has no upper bound.
    pub fn bucket_counts(&self) -> impl Iterator<Item = u64> {
        let used = self.buckets.iter().take(self.bounds.len() + 1);
        used.map(|bucket| bucket.load(Relaxed))
    }

    /// Returns the inclusive upper bounds of the buckets, in the unit of the metrics page.
    pub fn bounds_in_metric_units(&self) -> impl Iterator<Item = f64> {
        self.bounds
            .iter()
            .map(|bound| *bound as f64 / self.scale as f64)
    }

    /// Records one duration; the bounds given to `new` must be in microseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_micros() as u64);
    }
}

/// A metric that can be written to the metrics page.
pub trait WritableMetric: Sync {
    /// Appends the HELP line, the TYPE line and the samples of this metric to `page`.
    fn write_to(&self, page: &mut String);
}

impl<L: MetricLabel> WritableMetric for Counter<L> {
    fn write_to(&self, page: &mut String) {
        write_help_and_type(page, self.name, self.help, "counter");
        for (index, count) in self.counts.iter().enumerate().take(L::VALUES) {
            write_sample(page, self.name, "", &L::text(index), count.load(Relaxed));
        }
    }
}

impl WritableMetric for Gauge {
    fn write_to(&self, page: &mut String) {
        if let Some(value) = self.value() {
            write_help_and_type(page, self.name, self.help, "gauge");
            match self.scale {
                1 => write_sample(page, self.name, "", self.label, value),
                scale => write_sample(page, self.name, "", self.label, value as f64 / scale as f64),
            }
        }
    }
}

impl WritableMetric for Histogram {
    fn write_to(&self, page: &mut String) {
        write_help_and_type(page, self.name, self.help, "histogram");
        let in_units = |stored: u64| stored as f64 / self.scale as f64;
        let mut cumulative = 0;
        for (index, bucket) in self.buckets.iter().enumerate().take(self.bounds.len() + 1) {
            cumulative += bucket.load(Relaxed);
            let label = match self.bounds.get(index) {
                Some(bound) => format!("le=\"{}\"", in_units(*bound)),
                None => "le=\"+Inf\"".to_owned(),
            };
            write_sample(page, self.name, "_bucket", &label, cumulative);
        }
        write_sample(page, self.name, "_sum", "", self.sum());
        write_sample(page, self.name, "_count", "", cumulative);
    }
}

// The result of `writeln!` is ignored, because writing to a String cannot fail.
fn write_help_and_type(page: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn write_sample(page: &mut String, name: &str, suffix: &str, label: &str, value: impl Display) {
    let _ = match label {
        "" => writeln!(page, "{name}{suffix} {value}"),
        label => writeln!(page, "{name}{suffix}{{{label}}} {value}"),
    };
}

/// Maximum number of label values of a counter; more is a compile error.
const MAX_VALUES: usize = 64;
/// Maximum number of buckets of a histogram, including the one without an upper bound. `new` panics if there are more.
const MAX_BUCKETS: usize = 16;
/// A gauge of a ratio stores the ratio multiplied by this number.
const RATIO_SCALE: u64 = 1_000_000_000;
/// Stored value of a gauge that is not set.
const UNSET: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::super::{Handshake, ListenerKind};
    use super::*;

    fn rendered_metric_family(family: &dyn WritableMetric) -> String {
        let mut page = String::new();
        family.write_to(&mut page);
        page
    }

    #[test]
    fn each_metric_type_renders_in_prometheus_format() {
        let plain: Counter = Counter::new("a_total", "A.");
        plain.add((), 3);
        let head = "# HELP a_total A.\n# TYPE a_total counter\n";
        assert_eq!(rendered_metric_family(&plain), format!("{head}a_total 3\n"));

        let paired: Counter<(ListenerKind, Handshake)> = Counter::new("b_total", "B.");
        paired.count((ListenerKind::Smtps, Handshake::Tls12));
        let page = rendered_metric_family(&paired);
        assert_eq!(page.lines().count(), 2 + 2 * 3);
        assert!(page.contains("b_total{listener=\"smtp\",outcome=\"TLSv1_2\"} 0\n"));
        assert!(page.contains("b_total{listener=\"smtps\",outcome=\"TLSv1_2\"} 1\n"));

        let gauge = Gauge::new_labelled_gauge("c", "C.", "d=\"e\"");
        assert_eq!(rendered_metric_family(&gauge), "");
        gauge.set(0);
        assert!(rendered_metric_family(&gauge).ends_with("# TYPE c gauge\nc{d=\"e\"} 0\n"));

        let ratio = Gauge::new_ratio_gauge("r", "R.");
        for (part, whole, want) in [
            (0, 127, "r 0\n"),
            (1 << 62, (1 << 63) - 1, "r 0.5\n"),
            (1_073_741_824, 2_147_483_647, "r 0.5\n"),
            (128, 127, "r 1\n"),
            (u64::MAX, u64::MAX, "r 1\n"),
            (0, 0, "r 0\n"),
        ] {
            ratio.set_ratio(part, whole);
            assert!(
                rendered_metric_family(&ratio).ends_with(want),
                "{part}/{whole}"
            );
        }
        ratio.hide_until_set();
        assert_eq!(rendered_metric_family(&ratio), "");
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::new("h_seconds", "H.", &[500, 1_000_000], 1_000_000);
        for micros in [0, 500, 501, 1_000_000, 2_000_000] {
            histogram.observe_time(Duration::from_micros(micros));
        }
        assert_eq!(
            rendered_metric_family(&histogram)
                .lines()
                .skip(2)
                .collect::<Vec<_>>(),
            [
                "h_seconds_bucket{le=\"0.0005\"} 2",
                "h_seconds_bucket{le=\"1\"} 4",
                "h_seconds_bucket{le=\"+Inf\"} 5",
                "h_seconds_sum 3.001001",
                "h_seconds_count 5",
            ]
        );
        assert_eq!(histogram.bucket_counts().collect::<Vec<_>>(), [2, 2, 1]);
        let bounds: Vec<f64> = histogram.bounds_in_metric_units().collect();
        assert_eq!(bounds, [0.0005, 1.0]);
    }
}
