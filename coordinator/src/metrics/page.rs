//! The text format: metric families, each told once with the samples of all runs.

use std::fmt::Write;

use super::histogram::Histogram;

/// The format's media type.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels of one sample.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A sample without labels of its own.
pub(crate) fn one<'a>(value: f64) -> [(Labels<'a>, f64); 1] {
    [(&[], value)]
}

/// Samples with labels of a fixed number, as those of any.
pub(crate) fn of<'a, const N: usize>(
    samples: &'a [([(&'a str, &'a str); N], f64)],
) -> impl Iterator<Item = (Labels<'a>, f64)> {
    samples.iter().map(|(labels, value)| (labels.as_slice(), *value))
}

/// Metric families in the order in which they were first told.
#[derive(Default)]
pub(crate) struct Page {
    /// The run whose samples are being told; `None`: they are the whole coordinator's.
    run: Option<String>,
    families: Vec<Family>,
}

struct Family {
    name: String,
    /// The `# HELP` and `# TYPE` lines.
    header: String,
    samples: String,
}

impl Page {
    /// Samples are this run's from here on.
    pub fn tell_of_run(&mut self, run: &str) {
        self.run = Some(run.into());
    }

    pub fn gauge<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        self.add(name, "gauge", help, samples);
    }

    pub fn counter<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        self.add(name, "counter", help, samples);
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let seen = histogram.seen();
        let run = self.run_label();
        let samples = &mut self.family(name, "histogram", help).samples;
        let mut count = 0;
        for (bound, below) in histogram.cumulated(&seen) {
            let bound = number(bound);
            push(samples, &format!("{name}_bucket"), &run, &[("le", &bound)], below as f64);
            count = below;
        }
        push(samples, &format!("{name}_sum"), &run, &[], seen.sum);
        push(samples, &format!("{name}_count"), &run, &[], count as f64);
    }

    fn add<'a>(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        let run = self.run_label();
        let family = self.family(name, kind, help);
        for (labels, value) in samples {
            push(&mut family.samples, name, &run, labels, value);
        }
    }

    fn run_label(&self) -> Option<String> {
        self.run.as_ref().map(|run| format!("run=\"{}\"", escaped(run)))
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Family {
        let known = self.families.iter().position(|family| family.name == name);
        let index = known.unwrap_or_else(|| {
            let header = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            self.families.push(Family { name: name.into(), header, samples: String::new() });
            self.families.len() - 1
        });
        &mut self.families[index]
    }

    pub fn text(self) -> String {
        self.families.into_iter().map(|family| family.header + &family.samples).collect()
    }
}

/// Adds one sample's line.
fn push(text: &mut String, name: &str, run: &Option<String>, labels: Labels<'_>, value: f64) {
    let own = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
    let all: Vec<String> = run.iter().cloned().chain(own).collect();
    let all = if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) };
    writeln!(text, "{name}{all} {}", number(value)).expect("a String takes all");
}

/// A number as the format wants it.
fn number(value: f64) -> String {
    if value.is_infinite() { format!("{}Inf", if value > 0.0 { '+' } else { '-' }) } else { value.to_string() }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_once_with_the_samples_of_all_runs() {
        let histogram = Histogram::new(&[0.5]);
        histogram.observe(0.25);
        histogram.observe(2.0);
        let mut page = Page::default();
        page.gauge("a", "First.", one(1.5));
        for run in ["r1", "r\"2"] {
            page.tell_of_run(run);
            page.counter("b_total", "Second.", of(&[([("x", "1\\2")], f64::INFINITY)]));
        }
        page.histogram("c", "Third.", &histogram);
        assert_eq!(
            page.text(),
            r#"# HELP a First.
# TYPE a gauge
a 1.5
# HELP b_total Second.
# TYPE b_total counter
b_total{run="r1",x="1\\2"} +Inf
b_total{run="r\"2",x="1\\2"} +Inf
# HELP c Third.
# TYPE c histogram
c_bucket{run="r\"2",le="0.5"} 1
c_bucket{run="r\"2",le="+Inf"} 2
c_sum{run="r\"2"} 2.25
c_count{run="r\"2"} 2
"#
        );
    }
}
