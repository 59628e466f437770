//! Places that fail again and again while others succeed: they get no work any more, under whatever name their worker
//! comes back.
//!
//! What counts is failures in a row, each at another shard, so that a shard which fails wherever it is tried blames
//! nobody twice; a shard that can't be read for good blames nobody at all. A place is denied work only when another place
//! has succeeded meanwhile and somebody is there to go on: a lone worker is never denied.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::Refusal;
use crate::ids::{Place, WorkerId};
use crate::machine::Machine;
use crate::mutation::{Mutation, planted};
use crate::record::Record;

/// A place's failures since it last succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Streak {
    /// What it failed at.
    pub failed: BTreeSet<String>,
    /// The last failure, in one sentence.
    pub last: String,
    /// Whether another place has succeeded since it began.
    pub others_succeeded: bool,
}

/// Who fails, and who gets no work for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Denylist {
    pub streaks: BTreeMap<Place, Streak>,
    /// Why each gets no work.
    pub denied: BTreeMap<Place, String>,
}

impl Denylist {
    /// Why this place gets no work, if so.
    pub fn reason(&self, place: &Place) -> Option<&str> {
        self.denied.get(place).map(String::as_str)
    }

    pub fn absorb_failure(&mut self, place: &Place, what: &str, why: &str) {
        let streak = self.streaks.entry(place.clone()).or_default();
        streak.failed.insert(what.into());
        streak.last = why.into();
    }

    pub fn absorb_success(&mut self, place: &Place) {
        self.streaks.remove(place);
        self.streaks.values_mut().for_each(|streak| streak.others_succeeded = true);
    }

    pub fn absorb_denied(&mut self, place: &Place, reason: &str) {
        self.denied.insert(place.clone(), reason.into());
    }

    pub fn absorb_allowed(&mut self, place: &Place) {
        self.denied.remove(place);
        self.streaks.remove(place);
    }
}

/// Why a lost attempt ended, for people.
pub(crate) const FELL_SILENT: &str = "it fell silent";

impl Machine {
    /// Why a worker's place gets no work, if so.
    pub(crate) fn denial(&self, worker: WorkerId) -> Option<&str> {
        self.denylist.reason(self.members.place(worker)?)
    }

    /// The records that deny work to places which these records' failures are too many for.
    pub(crate) fn denials(&self, ended: &[Record]) -> Vec<Record> {
        if self.config.worker_failures == 0 || planted(Mutation::NeverDeny) {
            return Vec::new();
        }
        let mut streaks: BTreeMap<&Place, Streak> = BTreeMap::new();
        let mut lost = BTreeSet::new();
        for record in ended {
            if let Record::WorkerLost { worker } = record {
                lost.insert(*worker);
            }
            if let Some((place, what, why)) = self.blamed_by(record) {
                let known = || self.denylist.streaks.get(place).cloned().unwrap_or_default();
                let streak = streaks.entry(place).or_insert_with(known);
                streak.failed.insert(what);
                streak.last = why;
            }
        }
        let is_enough = |streak: &Streak| streak.failed.len() >= self.config.worker_failures as usize;
        let mut denials = Vec::new();
        let mut denied = BTreeSet::new();
        for (place, streak) in streaks {
            let is_denied = self.denylist.denied.contains_key(place);
            if is_denied || !streak.others_succeeded || !is_enough(&streak) {
                continue;
            }
            let goes_on = |worker: WorkerId, other: &Place| {
                !lost.contains(&worker) && other != place && !denied.contains(other) && self.denial(worker).is_none()
            };
            if self.members.here().any(|(worker, member)| member.gets_work() && goes_on(worker, &member.place)) {
                denied.insert(place.clone());
                let reason = format!("{} failures in a row, the last one: {}", streak.failed.len(), streak.last);
                denials.push(Record::PlaceDenied { place: place.clone(), reason });
            }
        }
        denials
    }

    /// Whom a record blames: the place, what it failed at, and how.
    pub(crate) fn blamed_by(&self, record: &Record) -> Option<(&Place, String, String)> {
        let (shard, epoch, why) = match record {
            Record::AttemptFailed { shard, epoch, reason, permanent: false } => (shard, epoch, reason.as_str()),
            Record::LeaseExpired { shard, epoch } => (shard, epoch, FELL_SILENT),
            _ => return None,
        };
        let attempt = self.shards.attempt(shard, *epoch)?;
        Some((self.members.place(attempt.worker)?, shard.0.clone(), why.into()))
    }

    /// Gives work again to what an operator names: a place, its host, or a worker's id or name.
    pub(crate) fn allow(&self, name: &str) -> Result<Vec<Record>, Refusal> {
        let named = |place: &Place| {
            let of_it = |(worker, member): (&WorkerId, &crate::members::Member)| {
                member.place == *place && (member.name == name || worker.to_string() == name)
            };
            place.0 == name || place.host() == name || self.members.all.iter().any(of_it)
        };
        let meant: Vec<_> = self.denylist.denied.keys().filter(|place| named(place)).collect();
        if meant.is_empty() {
            return Err(Refusal::NotDenied(name.into()));
        }
        Ok(meant.into_iter().map(|place| Record::PlaceAllowed { place: place.clone() }).collect())
    }

    /// Places that would be denied work if others were there, each with its last failure.
    pub(crate) fn lone_failures(&self) -> impl Iterator<Item = (&Place, &Streak)> {
        let limit = self.config.worker_failures as usize;
        let is_enough = move |streak: &Streak| limit > 0 && streak.failed.len() >= limit;
        let denied = &self.denylist.denied;
        self.denylist.streaks.iter().filter(move |(place, streak)| !denied.contains_key(place) && is_enough(streak))
    }
}
