//! What is measured of one run around its machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quern_machine::{Answer, Epoch, Refusal, ShardId};

use super::histogram::{ANSWER_SECONDS, Histogram};
use super::journal::JournalMetrics;
use super::page::{Page, of, one};
use crate::access::Count;
use crate::errors::CallError;

/// Upper bounds for the seconds that a shard takes.
const SHARD_SECONDS: &[f64] =
    &[0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0];

/// Why commits are refused.
const REFUSALS: [&str; 6] = ["superseded", "stale", "stranger", "malformed", "unavailable", "other"];

/// One run's measurements.
#[derive(Debug)]
pub(crate) struct RunMetrics {
    pub lease_duration: Histogram,
    pub commit_duration: Histogram,
    pub journal: JournalMetrics,
    shard_duration: Histogram,
    refused_commits: [Count; REFUSALS.len()],
    shard_failures: Count,
    begun: Mutex<Begun>,
}

/// When the attempts began that were granted by this process, in the run's milliseconds. A settled shard has none; so
/// there are never more than shards in the plan, times attempts.
type Begun = BTreeMap<ShardId, BTreeMap<Epoch, u64>>;

impl RunMetrics {
    /// Of a run with this journal.
    pub fn new(journal: PathBuf) -> Self {
        RunMetrics {
            lease_duration: Histogram::new(ANSWER_SECONDS),
            commit_duration: Histogram::new(ANSWER_SECONDS),
            journal: JournalMetrics::new(journal),
            shard_duration: Histogram::new(SHARD_SECONDS),
            refused_commits: Default::default(),
            shard_failures: Count::default(),
            begun: Mutex::default(),
        }
    }

    /// An attempt at a shard begins.
    pub fn granted(&self, shard: &ShardId, epoch: Epoch, now_ms: u64) {
        self.begun().entry(shard.clone()).or_default().entry(epoch).or_insert(now_ms);
    }

    /// A shard's part was offered, and answered so.
    pub fn offered(&self, shard: &ShardId, epoch: Epoch, now_ms: u64, answer: &Result<Answer, CallError>) {
        let Some(refusal) = refusal(answer) else {
            // A repeated commit is accepted again, and finds none.
            let begun_ms = self.begun().remove(shard).and_then(|attempts| attempts.get(&epoch).copied());
            if let Some(begun_ms) = begun_ms {
                self.shard_duration.observe(now_ms.saturating_sub(begun_ms) as f64 / 1e3);
            }
            return;
        };
        let index = REFUSALS.iter().position(|known| *known == refusal).expect("all are listed");
        self.refused_commits[index].add();
    }

    /// An attempt was handed back as failed.
    pub fn failed(&self, shard: &ShardId, epoch: Epoch) {
        self.shard_failures.add();
        if let Some(attempts) = self.begun().get_mut(shard) {
            attempts.remove(&epoch);
        }
    }

    pub fn tell(&self, page: &mut Page) {
        let help = "Time in the coordinator to answer a worker that asks for work.";
        page.histogram("quern_lease_duration_seconds", help, &self.lease_duration);
        let help = "Time in the coordinator to answer a commit of a shard.";
        page.histogram("quern_commit_duration_seconds", help, &self.commit_duration);
        let help = "Time from a shard's lease to its accepted commit.";
        page.histogram("quern_shard_duration_seconds", help, &self.shard_duration);
        let failures = one(self.shard_failures.get() as f64);
        page.counter("quern_shard_failures_total", "Attempts at shards that workers gave up as failed.", failures);
        let refused = std::array::from_fn::<_, { REFUSALS.len() }, _>(|index| {
            ([("reason", REFUSALS[index])], self.refused_commits[index].get() as f64)
        });
        page.counter("quern_commits_refused_total", "Commits of shards that were refused, by reason.", of(&refused));
        self.journal.tell(page);
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One word for why a commit was refused; `None`: it was accepted.
fn refusal(answer: &Result<Answer, CallError>) -> Option<&'static str> {
    match answer {
        Ok(Answer::Superseded { .. }) => Some("superseded"),
        Ok(_) => None,
        Err(CallError::Refused(refusal)) => Some(match refusal {
            Refusal::StaleAttempt { .. } => "stale",
            Refusal::NotAMember(_) | Refusal::WrongSecret(_) | Refusal::Denied { .. } => "stranger",
            Refusal::UnknownShard(_) | Refusal::Malformed(_) => "malformed",
            _ => "other",
        }),
        Err(CallError::Unavailable(_)) => Some("unavailable"),
        Err(_) => Some("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> RunMetrics {
        RunMetrics::new("nowhere".into())
    }

    #[test]
    fn a_shard_takes_from_its_lease_to_its_first_accepted_commit() {
        let (metrics, shard) = (metrics(), ShardId("s".into()));
        metrics.granted(&shard, Epoch(1), 1_000);
        metrics.granted(&shard, Epoch(2), 5_000);
        metrics.offered(&shard, Epoch(2), 7_500, &Ok(Answer::Accepted));
        metrics.offered(&shard, Epoch(2), 9_000, &Ok(Answer::Accepted));
        metrics.offered(&shard, Epoch(1), 9_500, &Ok(Answer::Superseded { reason: "late".into() }));
        assert_eq!((metrics.shard_duration.seen().sum, metrics.shard_duration.count()), (2.5, 1));
        assert_eq!(metrics.refused_commits.each_ref().map(Count::get), [1, 0, 0, 0, 0, 0]);
        assert!(metrics.begun().is_empty());
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let (metrics, shard) = (metrics(), ShardId("s".into()));
        let stale = Refusal::StaleAttempt { shard: shard.clone(), epoch: Epoch(1) };
        let errors = [stale.into(), CallError::Unavailable("full".into()), CallError::NoCredentials];
        for error in errors {
            metrics.offered(&shard, Epoch(1), 0, &Err(error));
        }
        assert_eq!(metrics.refused_commits.each_ref().map(Count::get), [0, 1, 0, 0, 1, 1]);
    }
}
