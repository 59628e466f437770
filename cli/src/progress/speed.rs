//! How fast rows come, and when all of them will be there. Times are counted from the first look; nothing here has a clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quern_proto::{DatasetStatus, StatusReply};

/// Over how long rows are counted: long enough for batches and loading to even out, short enough to see a change.
const WINDOW: Duration = Duration::from_secs(60);
/// Before so long, nothing can be said.
const ENOUGH: Duration = Duration::from_secs(2);
/// Counts closer to each other than this are one.
const GRAIN: Duration = Duration::from_secs(1);

/// What rises, over the last [`WINDOW`].
#[derive(Debug, Default)]
struct Counted(VecDeque<(Duration, u64)>);

impl Counted {
    fn add(&mut self, at: Duration, count: u64) {
        // The first one in the window is what later ones are measured by: it stays as it is.
        if self.0.len() > 1 && self.0.get(self.0.len() - 2).is_some_and(|(before, _)| at < *before + GRAIN) {
            self.0.pop_back();
        }
        self.0.push_back((at, count));
        while self.0.get(1).is_some_and(|(next, _)| *next + WINDOW <= at) {
            self.0.pop_front();
        }
    }

    /// Per second; `None`: it isn't known yet. What was lost, as with a worker, counts against it.
    fn per_second(&self, at: Duration) -> Option<f64> {
        let ((since, before), (_, now)) = (self.0.front()?, self.0.back()?);
        let span = at.saturating_sub(*since);
        (span >= ENOUGH).then(|| now.saturating_sub(*before) as f64 / span.as_secs_f64())
    }
}

/// The counts of a run's statuses.
#[derive(Debug, Default)]
pub struct Speeds {
    total: Counted,
    datasets: BTreeMap<String, Counted>,
    workers: BTreeMap<String, Counted>,
}

/// How far a data set is, or all of them are.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing<'a> {
    /// The data set; `None`: all of them.
    pub dataset: Option<&'a str>,
    /// Rows that are through, in parts and in live attempts.
    pub rows: u64,
    /// All rows.
    pub rows_total: u64,
    /// Rows with captions chosen by CapFilt, in parts.
    pub kept: u64,
    /// Rows in quarantine.
    pub quarantined: u64,
    /// Rows in parts or given up: what those in quarantine are a share of.
    pub settled: u64,
    /// Shards that are done or given up.
    pub shards: u64,
    /// All shards.
    pub shards_total: u64,
    /// Rows per second; `None`: it isn't known yet.
    pub rows_per_second: Option<f64>,
}

impl Standing<'_> {
    /// The time until all rows are through, at this speed; `None`: nobody knows.
    pub fn eta(&self) -> Option<Duration> {
        let left = self.rows_total.saturating_sub(self.rows);
        match self.rows_per_second {
            _ if left == 0 && self.rows_total > 0 => Some(Duration::ZERO),
            Some(speed) if speed > 0.0 => Duration::try_from_secs_f64(left as f64 / speed).ok(),
            _ => None,
        }
    }

    /// The share of settled rows that is in quarantine; `None`: none are settled.
    pub fn quarantine_rate(&self) -> Option<f64> {
        (self.settled > 0).then(|| self.quarantined as f64 / self.settled as f64)
    }
}

impl Speeds {
    /// Takes a status into account.
    pub fn add(&mut self, at: Duration, status: &StatusReply) {
        self.total.add(at, all(status).rows);
        for of in &status.datasets {
            self.datasets.entry(of.name.clone()).or_default().add(at, one(of).rows);
        }
        self.workers.retain(|id, _| status.workers.iter().any(|worker| worker.id == *id));
        for worker in &status.workers {
            self.workers.entry(worker.id.clone()).or_default().add(at, worker.rows);
        }
    }

    /// How far each data set is, in the status's order, and at last all of them.
    pub fn standings<'a>(&self, at: Duration, status: &'a StatusReply) -> Vec<Standing<'a>> {
        let speed = |name: &str| self.datasets.get(name).and_then(|rows| rows.per_second(at));
        let each = status.datasets.iter().map(|of| Standing { rows_per_second: speed(&of.name), ..one(of) });
        let all = Standing { rows_per_second: self.total.per_second(at), ..all(status) };
        each.chain([all]).collect()
    }

    /// A worker's rows per second; `None`: it isn't known yet.
    pub fn of_worker(&self, at: Duration, id: &str) -> Option<f64> {
        self.workers.get(id)?.per_second(at)
    }
}

fn one(of: &DatasetStatus) -> Standing<'_> {
    let settled = of.rows_kept + of.rows_passed + of.rows_quarantined;
    Standing {
        dataset: Some(&of.name),
        rows: settled + of.rows_in_flight,
        rows_total: of.rows_total,
        kept: of.rows_kept,
        quarantined: of.rows_quarantined,
        settled,
        shards: of.shards_done + of.shards_quarantined,
        shards_total: of.shards_total,
        rows_per_second: None,
    }
}

fn all(status: &StatusReply) -> Standing<'_> {
    let settled = status.rows_kept + status.rows_passed + status.rows_quarantined;
    Standing {
        dataset: None,
        rows: settled + status.rows_in_flight,
        rows_total: status.rows_total,
        kept: status.rows_kept,
        quarantined: status.rows_quarantined,
        settled,
        shards: status.shards_done + status.shards_quarantined,
        shards_total: status.shards_total,
        rows_per_second: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_speed_is_known_after_a_while_and_over_a_window() {
        let mut counted = Counted::default();
        assert_eq!(counted.per_second(s(9)), None);
        counted.add(s(0), 100);
        assert_eq!(counted.per_second(s(1)), None, "too early");
        assert_eq!(counted.per_second(s(4)), Some(0.0), "nothing has come");
        counted.add(s(4), 180);
        assert_eq!(counted.per_second(s(4)), Some(20.0), "what was there at first is nobody's speed");
        assert_eq!(counted.per_second(s(8)), Some(10.0), "nothing more has come");
        for at in 5..=200 {
            counted.add(s(at), 180 + 5 * (at - 4));
        }
        assert_eq!(counted.per_second(s(200)), Some(5.0), "the window has moved on");
        counted.add(s(201), 0);
        assert_eq!(counted.per_second(s(201)), Some(0.0), "lost, not gained");
    }

    #[test]
    fn counts_come_often_and_few_are_kept() {
        let mut counted = Counted::default();
        for at in 0..100_000 {
            counted.add(Duration::from_millis(at * 10), at);
        }
        assert!(counted.0.len() < 70, "{}", counted.0.len());
        assert!((counted.per_second(Duration::from_millis(999_990)).unwrap() - 100.0).abs() < 0.1);
    }

    #[test]
    fn the_rest_takes_as_long_as_the_speed_says() {
        let nothing = StatusReply::default();
        let standing = Standing { rows: 40, rows_total: 100, ..all(&nothing) };
        let eta = |rows, rows_per_second| Standing { rows, rows_per_second, ..standing.clone() }.eta();
        assert_eq!(eta(40, Some(20.0)), Some(s(3)));
        assert_eq!((eta(40, None), eta(40, Some(0.0))), (None, None));
        assert_eq!(eta(100, None), Some(s(0)));
        assert_eq!(Standing { rows: 0, rows_total: 0, ..standing.clone() }.eta(), None, "nothing is planned yet");
        assert_eq!(standing.quarantine_rate(), None);
    }
}
