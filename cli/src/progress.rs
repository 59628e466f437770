//! How far things are: a live view on a terminal, lines elsewhere.

mod lines;
mod meter;
mod screen;
mod speed;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use quern_proto::StatusReply;
use quern_telemetry::{LogFormat, say};

pub use meter::Meter;
use speed::Speeds;

/// How a run's progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct ProgressOptions {
    /// How progress is shown on stderr: auto is bars on a terminal and lines elsewhere.
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    progress: How,
    /// Seconds between lines.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
}

impl Default for ProgressOptions {
    fn default() -> Self {
        ProgressOptions { progress: How::Auto, interval: 10 }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum How {
    #[default]
    Auto,
    /// A live view, where stderr is a terminal.
    Bars,
    /// Lines of key=value fields: one per data set and one for all.
    Lines,
    /// Not at all.
    None,
}

/// A run's progress, told by its coordinator's statuses.
pub struct RunProgress {
    since: Instant,
    speeds: Speeds,
    last: Option<StatusReply>,
    shown: Shown,
}

enum Shown {
    Live(Live),
    Lines(Pacer),
    Not,
}

impl RunProgress {
    /// Nothing is known yet.
    pub fn new(options: ProgressOptions) -> Self {
        let shown = match options.progress {
            How::Auto | How::Bars if has_bars() => Shown::Live(Live::default()),
            How::Auto | How::Bars | How::Lines => Shown::Lines(Pacer::new(Duration::from_secs(options.interval))),
            How::None => Shown::Not,
        };
        RunProgress { since: Instant::now(), speeds: Speeds::default(), last: None, shown }
    }

    /// Shows `status`.
    pub fn show(&mut self, status: &StatusReply) {
        if matches!(self.shown, Shown::Not) {
            return;
        }
        self.speeds.add(self.since.elapsed(), status);
        self.last = Some(status.clone());
        self.refresh();
    }

    /// Returns when what is shown has to be shown again, though nothing new is known: times go on.
    pub async fn due(&self) {
        let (Some(_), Some(at)) = (&self.last, self.shown.next(self.since.elapsed())) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until((self.since + at).into()).await;
    }

    /// Shows the last status again.
    pub fn refresh(&mut self) {
        let at = self.since.elapsed();
        let Some(status) = &self.last else { return };
        match &mut self.shown {
            Shown::Live(live) => live.draw(&screen::screen(at, status, &self.speeds)),
            Shown::Lines(pacer) => {
                if pacer.is_due(at, status) {
                    lines::lines(at, status, &self.speeds).iter().for_each(|line| say(line));
                }
            }
            Shown::Not => {}
        }
    }

    /// The run is over; the live view stays as it is.
    pub fn finish(self) {
        if let Shown::Live(live) = self.shown {
            live.lines.iter().for_each(ProgressBar::abandon);
        }
    }
}

impl Shown {
    /// When it is to be shown again, counted as `at` is.
    fn next(&self, at: Duration) -> Option<Duration> {
        match self {
            Shown::Live(_) => Some(at + Duration::from_secs(1)),
            Shown::Lines(pacer) => pacer.next.or(Some(at)),
            Shown::Not => None,
        }
    }
}

/// When lines are due: at every interval, and when another phase begins.
struct Pacer {
    interval: Duration,
    /// `None`: at once.
    next: Option<Duration>,
    phase: String,
}

impl Pacer {
    fn new(interval: Duration) -> Self {
        Pacer { interval, next: None, phase: String::new() }
    }

    fn is_due(&mut self, at: Duration, status: &StatusReply) -> bool {
        let is_due = self.next.is_none_or(|next| at >= next) || self.phase != status.phase;
        if is_due {
            self.next = Some(at + self.interval);
            self.phase.clone_from(&status.phase);
        }
        is_due
    }
}

/// Lines of text that are drawn again in place; the terminal's size is looked up at each drawing.
#[derive(Default)]
struct Live {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Live {
    fn draw(&mut self, text: &[String]) {
        for gone in self.lines.drain(text.len().min(self.lines.len())..) {
            gone.finish_and_clear();
            self.all.remove(&gone);
        }
        while self.lines.len() < text.len() {
            let style = ProgressStyle::with_template("{wide_msg}").expect("the template is fixed");
            self.lines.push(self.all.add(ProgressBar::new_spinner().with_style(style)));
        }
        for (line, text) in self.lines.iter().zip(text) {
            line.set_message(text.clone());
        }
    }
}

/// Whether someone sees bars: on a terminal, unless programs read what is written there.
fn has_bars() -> bool {
    std::io::stderr().is_terminal() && LogFormat::of_this_process() == LogFormat::Text
}

#[cfg(test)]
mod tests {
    use quern_proto::{DatasetStatus, WorkerStatus};

    use super::*;

    /// A run over `laion` and `web`, of whose shards of 100 rows so many are done, five rows of each in quarantine.
    pub(super) fn status(done: u64) -> StatusReply {
        let in_flight = if done > 0 { 50 } else { 0 };
        let laion = DatasetStatus {
            name: "laion".into(),
            shards_total: 6,
            shards_done: done,
            rows_total: 600,
            rows_done: done * 100,
            rows_in_flight: in_flight,
            rows_kept: done * 95,
            rows_quarantined: done * 5,
            ..DatasetStatus::default()
        };
        let web =
            DatasetStatus { name: "web \u{1b}".into(), shards_total: 4, rows_total: 400, ..DatasetStatus::default() };
        StatusReply {
            name: "demo".into(),
            phase: "capfilt".into(),
            explanation: "it mills".into(),
            shards_total: 10,
            shards_done: done,
            rows_total: 1_000,
            rows_done: done * 100,
            rows_in_flight: in_flight,
            rows_kept: done * 95,
            rows_quarantined: done * 5,
            datasets: vec![laion, web],
            workers: vec![WorkerStatus {
                id: "w1".into(),
                name: "host-\u{7}".into(),
                device: "cuda:0".into(),
                state: "alive".into(),
                doing: format!("capfilt laion-{done}"),
                rows: done * 100 + in_flight,
                ..WorkerStatus::default()
            }],
            ..StatusReply::default()
        }
    }

    #[test]
    fn lines_are_due_at_every_interval_and_with_every_phase() {
        let mut pacer = Pacer::new(Duration::from_secs(10));
        let mut status = status(0);
        let mut due = |seconds, status: &StatusReply| pacer.is_due(Duration::from_secs(seconds), status);
        assert!(due(0, &status) && !due(9, &status) && due(10, &status) && !due(19, &status));
        status.phase = "stage1".into();
        assert!(due(19, &status) && !due(20, &status) && due(29, &status));
    }
}
