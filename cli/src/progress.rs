//! How far things are: bars on a terminal, a line per interval elsewhere.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use quern_proto::StatusReply;
use quern_telemetry::{LogFormat, say};

use crate::view;

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

/// A run's progress, told by its coordinator's statuses.
pub struct RunProgress {
    bars: Option<RunBars>,
    next_line: Instant,
    phase: String,
}

struct RunBars {
    all: MultiProgress,
    rows: ProgressBar,
    /// One per stage of the recipe, in order; they are known with the first status.
    stages: RefCell<Vec<ProgressBar>>,
    explanation: ProgressBar,
}

impl RunProgress {
    /// Nothing is known yet.
    pub fn new() -> Self {
        let bars = has_bars().then(|| {
            let all = MultiProgress::new();
            let explanation = ProgressBar::new_spinner();
            explanation.set_style(ProgressStyle::with_template("  {wide_msg:.dim}").expect("the template is fixed"));
            RunBars {
                rows: all.add(bar("captions", "rows", 0)),
                stages: RefCell::default(),
                explanation: all.add(explanation),
                all,
            }
        });
        RunProgress { bars, next_line: Instant::now(), phase: String::new() }
    }

    /// Shows `status`.
    pub fn show(&mut self, status: &StatusReply) {
        match &self.bars {
            Some(bars) => bars.show(status),
            None if Instant::now() >= self.next_line || status.phase != self.phase => {
                say(&view::line(status));
                self.next_line = Instant::now() + LINE_INTERVAL;
                self.phase.clone_from(&status.phase);
            }
            None => {}
        }
    }

    /// The run is over; bars stay as they are.
    pub fn finish(self) {
        if let Some(bars) = self.bars {
            bars.rows.abandon();
            bars.stages.borrow().iter().for_each(ProgressBar::abandon);
            bars.explanation.finish_and_clear();
        }
    }
}

impl RunBars {
    fn show(&self, status: &StatusReply) {
        self.rows.set_length(status.rows_total);
        self.rows.set_position(status.rows_done + status.rows_in_flight);
        let mut bars = self.stages.borrow_mut();
        for (index, stage) in status.stages.iter().enumerate() {
            if bars.len() <= index {
                let new = bar(view::title(stage), "steps", stage.steps);
                bars.push(self.all.insert_before(&self.explanation, new));
            }
            bars[index].set_position(stage.step);
            if let Some(losses) = &stage.last_losses {
                bars[index].set_message(view::losses(losses));
            }
        }
        self.explanation.set_message(status.explanation.clone());
    }
}

/// Whether someone sees bars: on a terminal, unless programs read what is written there.
fn has_bars() -> bool {
    std::io::stderr().is_terminal() && LogFormat::of_this_process() == LogFormat::Text
}

fn bar(label: &str, unit: &str, total: u64) -> ProgressBar {
    let template =
        format!("{{prefix:<12}} {{bar:32}} {{human_pos:>9}}/{{human_len}} {unit} {{elapsed:>5}} (eta {{eta}}) {{msg}}");
    let style = ProgressStyle::with_template(&template).expect("the template is fixed").progress_chars("━╸─");
    ProgressBar::new(total).with_style(style).with_prefix(label.to_owned())
}
