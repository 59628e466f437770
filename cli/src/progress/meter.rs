//! A count that rises to a total: a bar on a terminal, now and then a line elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use quern_telemetry::say;

use super::has_bars;

/// Time between lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// A count that rises to a total.
pub struct Meter {
    bar: Option<ProgressBar>,
    label: String,
    unit: &'static str,
    total: u64,
    next_line: Instant,
}

impl Meter {
    /// A meter of `total` things named `unit`.
    pub fn new(label: &str, total: u64, unit: &'static str) -> Self {
        let bar = has_bars().then(|| bar(label, unit, total));
        Meter { bar, label: label.into(), unit, total, next_line: Instant::now() + LINE_INTERVAL }
    }

    /// `done` of the total are done.
    pub fn set(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if Instant::now() >= self.next_line => {
                say(&format!("{}: {done} of {} {}", self.label, self.total, self.unit));
                self.next_line = Instant::now() + LINE_INTERVAL;
            }
            None => {}
        }
    }

    /// All is done; the bar stays as it is.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.abandon();
        }
    }

    /// All is done, and the bar disappears.
    pub fn clear(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(label: &str, unit: &str, total: u64) -> ProgressBar {
    let template =
        format!("{{prefix:<12}} {{bar:32}} {{human_pos:>9}}/{{human_len}} {unit} {{elapsed:>5}} (eta {{eta}})");
    let style = ProgressStyle::with_template(&template).expect("the template is fixed").progress_chars("━╸─");
    ProgressBar::new(total).with_style(style).with_prefix(label.to_owned())
}
