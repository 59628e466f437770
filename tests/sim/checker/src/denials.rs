//! Who fails again and again: a model of its own of whom the coordinator must deny work, and whom it must not.

use std::collections::{BTreeMap, BTreeSet};

use quern_machine::{Place, ShardId};

use crate::{Verdict, ensure};

/// A place's failures since it last succeeded.
#[derive(Debug, Default)]
struct Row {
    shards: BTreeSet<ShardId>,
    others_succeeded: bool,
}

/// Failures in a row, and what came of them.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    rows: BTreeMap<Place, Row>,
    pub denied: BTreeSet<Place>,
    /// Places that must be denied work before the turn ends.
    owed: BTreeSet<Place>,
    /// Denied places that an operator asked to give work again: an append that failed may have written it all the same, and
    /// whether that is durable shows only later.
    pub pardoned: BTreeSet<Place>,
}

impl Denials {
    /// A place failed at a shard while workers are at these places.
    pub fn failed(&mut self, place: &Place, shard: &ShardId, working: &BTreeSet<Place>, limit: usize) {
        self.rows.entry(place.clone()).or_default().shards.insert(shard.clone());
        if !self.denied.contains(place) && self.is_due(place, working, limit) {
            self.owed.insert(place.clone());
        }
    }

    pub fn succeeded(&mut self, place: &Place) {
        self.rows.remove(place);
        self.rows.values_mut().for_each(|row| row.others_succeeded = true);
    }

    /// A place is denied work.
    ///
    /// # Errors
    /// When it may not be.
    pub fn denied(&mut self, place: &Place, working: &BTreeSet<Place>, limit: usize) -> Verdict {
        ensure(!self.denied.contains(place), || format!("{place} is denied work twice"))?;
        ensure(self.is_due(place, working, limit), || format!("{place} is denied work without cause"))?;
        self.denied.insert(place.clone());
        self.pardoned.remove(place);
        // With one fewer to go on, another place may no longer be denied work.
        let mut owed = std::mem::take(&mut self.owed);
        owed.retain(|other| other != place && self.is_due(other, working, limit));
        self.owed = owed;
        Ok(())
    }

    /// An operator lifted that.
    ///
    /// # Errors
    /// When there was nothing to lift.
    pub fn allowed(&mut self, place: &Place) -> Verdict {
        self.pardoned.remove(place);
        self.rows.remove(place);
        ensure(self.denied.remove(place), || format!("{place} is given work again, which it was not denied"))
    }

    /// A worker comes there.
    ///
    /// # Errors
    /// When it must not be let in.
    pub fn may_come(&self, place: &Place) -> Verdict {
        ensure(!self.denied.contains(place), || format!("a worker comes to {place}, which is denied work"))
    }

    /// A worker there is given something.
    ///
    /// # Errors
    /// When it must not be.
    pub fn may_begin(&self, place: &Place) -> Verdict {
        ensure(!self.denied.contains(place), || format!("{place} is denied work, and begins something"))
    }

    /// What must be so between transactions.
    ///
    /// # Errors
    /// When somebody still gets work that should not.
    pub fn at_rest(&self) -> Verdict {
        ensure(self.owed.is_empty(), || format!("{:?} fail again and again, and are not denied work", self.owed))
    }

    fn is_due(&self, place: &Place, working: &BTreeSet<Place>, limit: usize) -> bool {
        let row = self.rows.get(place);
        let is_enough = row.is_some_and(|row| row.others_succeeded && row.shards.len() >= limit);
        is_enough && working.iter().any(|other| other != place && !self.denied.contains(other))
    }
}
