//! PURE. What Prometheus reads: text format 0.0.4, one family after another, each with its help and its type.

use std::fmt::{Display, Write};

mod port;

pub use port::MetricsPort;

use crate::process::Process;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub const COUNTER: &str = "counter";
pub const GAUGE: &str = "gauge";

/// As Prometheus wants times: in seconds.
pub fn seconds(milliseconds: u64) -> impl Display {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// A page in the making.
#[derive(Debug)]
pub struct Page {
    /// Every name begins with it.
    prefix: &'static str,
    text: String,
}

impl Page {
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, text: String::with_capacity(16 * 1024) }
    }

    pub fn into_text(self) -> String {
        self.text
    }

    /// One family of one value without labels.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help, [("", value)]);
    }

    /// What the kernel says about the process: the same names for every server of ours.
    pub fn process(&mut self, process: &Process) {
        self.one("resident_memory_bytes", GAUGE, "Memory in use.", process.resident);
        let peak = process.resident_peak;
        self.one("resident_memory_peak_bytes", GAUGE, "The most memory that was ever in use.", peak);
        self.one("open_files", GAUGE, "Open file descriptors.", process.open_files);
        self.one("threads", GAUGE, "Threads.", process.threads);
        let time = seconds(process.cpu_milliseconds);
        self.one("cpu_seconds_total", COUNTER, "Processor time used.", time);
    }

    /// One family; each value with its labels, written as they are read: `a="b",c="d"`.
    pub fn family<L: AsRef<str>, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in values {
            self.value(name, labels.as_ref(), value);
        }
    }

    /// One family of histograms, each with its labels.
    pub fn histograms<'h, L: AsRef<str>, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (L, &'h Histogram<N>)>,
    ) {
        self.head(name, "histogram", help);
        for (labels, histogram) in histograms {
            let labels = labels.as_ref();
            let bucket = |bound: String| match labels {
                "" => label("le", bound),
                labels => format!("{labels},{}", label("le", bound)),
            };
            let (buckets, count) = (format!("{name}_bucket"), histogram.count());
            for (bound, within) in histogram.cumulated() {
                self.value(&buckets, &bucket(bound.to_string()), within);
            }
            self.value(&buckets, &bucket("+Inf".to_owned()), count);
            self.value(&format!("{name}_sum"), labels, histogram.sum);
            self.value(&format!("{name}_count"), labels, count);
        }
    }

    // Writing to a String cannot fail.

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let Self { prefix, text } = self;
        let _ = writeln!(text, "# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let Self { prefix, text } = self;
        let _ = match labels {
            "" => writeln!(text, "{prefix}_{name} {value}"),
            labels => writeln!(text, "{prefix}_{name}{{{labels}}} {value}"),
        };
    }
}

/// One label as a page has it.
pub fn label(name: &str, value: impl Display) -> String {
    let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// How many values there were up to each bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    within: [u64; N],
    above: u64,
    sum: u64,
}

impl<const N: usize> Histogram<N> {
    /// The bounds grow; each belongs to what is below it.
    pub const fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, within: [0; N], above: 0, sum: 0 }
    }

    pub fn observe(&mut self, value: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        *bucket.map_or(&mut self.above, |bucket| &mut self.within[bucket]) += 1;
        self.sum = self.sum.saturating_add(value);
    }

    pub fn count(&self) -> u64 {
        self.within.iter().sum::<u64>() + self.above
    }

    /// Each bound with how many values are not above it.
    fn cumulated(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.bounds.iter().zip(&self.within).scan(0, |sum, (bound, within)| {
            *sum += within;
            Some((*bound, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(label("node", "a\"b\\c\nd"), r#"node="a\"b\\c\nd""#);
    }

    #[test]
    fn a_family_has_its_help_its_type_and_its_values() {
        let mut page = Page::new("nsd");
        page.family("x_total", COUNTER, "Some.", [(label("a", 1), 2), (String::new(), 3)]);
        assert_eq!(
            page.into_text(),
            "# HELP nsd_x_total Some.\n# TYPE nsd_x_total counter\nnsd_x_total{a=\"1\"} 2\nnsd_x_total 3\n"
        );
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, 500].into_iter().for_each(|value| histogram.observe(value));
        let mut page = Page::new("nsd");
        page.histograms(
            "age",
            "Ages.",
            [(label("a", "b"), &histogram), (String::new(), &Histogram::new(&[1, 2]))],
        );
        let expected = "# HELP nsd_age Ages.\n# TYPE nsd_age histogram\n\
                        nsd_age_bucket{a=\"b\",le=\"1\"} 2\nnsd_age_bucket{a=\"b\",le=\"10\"} 4\n\
                        nsd_age_bucket{a=\"b\",le=\"+Inf\"} 6\nnsd_age_sum{a=\"b\"} 524\nnsd_age_count{a=\"b\"} 6\n\
                        nsd_age_bucket{le=\"1\"} 0\nnsd_age_bucket{le=\"2\"} 0\nnsd_age_bucket{le=\"+Inf\"} 0\n\
                        nsd_age_sum 0\nnsd_age_count 0\n";
        assert_eq!(page.into_text(), expected);
    }
}
