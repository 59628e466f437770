//! How a run came along since this coordinator started, for curves: bounded, thinned out evenly as it grows.

use quern_proto::{StatusReply, StepLosses};
use serde::Serialize;

/// Points that a series holds at most.
const POINTS: usize = 1_000;

/// What happened so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct History {
    rows: Series<RowsPoint>,
    stage1: Series<StepLosses>,
    stage2: Series<StepLosses>,
}

/// Rows that were through at a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct RowsPoint {
    at_ms: u64,
    rows: u64,
}

/// Points at even distances: of the points that came, every `stride`-th, and the last.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Series<T> {
    points: Vec<T>,
    last: Option<T>,
    #[serde(skip)]
    stride: usize,
    #[serde(skip)]
    skipped: usize,
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Series { points: Vec::new(), last: None, stride: 1, skipped: 0 }
    }
}

impl<T: Copy> Series<T> {
    fn add(&mut self, point: T) {
        self.last = Some(point);
        self.skipped += 1;
        if self.skipped < self.stride {
            return;
        }
        self.skipped = 0;
        self.points.push(point);
        if self.points.len() >= POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

impl History {
    /// Takes in what the status says at `at_ms`.
    pub fn add(&mut self, at_ms: u64, status: &StatusReply) {
        let rows = status.rows_done + status.rows_in_flight;
        if status.rows_total > 0 && self.rows.last.is_none_or(|last| last.rows != rows) {
            self.rows.add(RowsPoint { at_ms, rows });
        }
        for stage in &status.stages {
            let series = if stage.stage == "stage2" { &mut self.stage2 } else { &mut self.stage1 };
            if let Some(losses) = stage.last_losses
                && series.last.is_none_or(|last| last.step != losses.step)
            {
                series.add(losses);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quern_proto::StageStatus;

    use super::*;

    fn at(step: u64) -> StatusReply {
        let last_losses = Some(StepLosses { step, itc: 1.0, ..StepLosses::default() });
        let stage = StageStatus { stage: "stage1".into(), step, steps: 9_000, last_losses, ..StageStatus::default() };
        StatusReply { rows_total: 10, rows_done: 10, stages: vec![stage], ..StatusReply::default() }
    }

    #[test]
    fn a_long_run_is_thinned_out_evenly_and_keeps_its_ends() {
        let mut history = History::default();
        (1..=5_000).for_each(|step| history.add(step * 10, &at(step)));
        let steps: Vec<u64> = history.stage1.points.iter().map(|losses| losses.step).collect();
        assert!(steps.len() < POINTS && steps.len() > POINTS / 4, "{}", steps.len());
        assert_eq!((steps[0], history.stage1.last.map(|last| last.step)), (1, Some(5_000)));
        let gaps: Vec<u64> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap <= history.stage1.stride as u64 * 2), "{gaps:?}");
        assert_eq!(history.rows.points.len(), 1, "rows that stand still are one point");
    }
}
