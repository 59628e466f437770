//! Members: the workers of a run, `Alive → Draining → Lost`, and what each is able to do.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::{Caller, Refusal};
use crate::ids::{Place, SecretDigest, WorkerId};
use crate::mutation::{Mutation, planted};
use crate::run::Stage;

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It gets work.
    Alive,
    /// It said that it is going away.
    Draining,
    /// It was silent for too long.
    Lost,
}

impl MemberState {
    /// `alive`, `draining`, `lost`.
    pub fn name(self) -> &'static str {
        match self {
            MemberState::Alive => "alive",
            MemberState::Draining => "draining",
            MemberState::Lost => "lost",
        }
    }
}

/// Work that a worker has its models at hand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmth {
    /// The captioner and the ranker.
    #[serde(rename = "capfilt")]
    CapFilt,
    /// What stage 1 freezes.
    Stage1,
    /// What stage 2 freezes.
    Stage2,
}

impl Warmth {
    /// For a stage of training.
    pub fn of(stage: Stage) -> Self {
        match stage {
            Stage::One => Warmth::Stage1,
            Stage::Two => Warmth::Stage2,
        }
    }

    /// `capfilt`, `stage1`, `stage2`; `None`: another version's word.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "capfilt" => Some(Warmth::CapFilt),
            "stage1" => Some(Warmth::Stage1),
            "stage2" => Some(Warmth::Stage2),
            _ => None,
        }
    }
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub name: String,
    pub device: String,
    pub address: String,
    pub secret: SecretDigest,
    pub place: Place,
    /// Of its device; 0: it said nothing of it.
    pub memory_bytes: u64,
    pub state: MemberState,
    /// When it was last heard.
    pub heard_ms: u64,
    /// Whether an operator sent it away.
    pub sent_away: bool,
    /// What it has its models at hand for, as it said last.
    pub warm: BTreeSet<Warmth>,
    /// When it last asked for work in vain, if it got none since.
    pub waits_since_ms: Option<u64>,
    /// Of its parts that were accepted.
    pub rows: u64,
}

impl Member {
    /// Whether it is going away, by itself or because an operator sent it.
    pub fn is_leaving(&self) -> bool {
        match self.state {
            MemberState::Alive => self.sent_away,
            MemberState::Draining => true,
            MemberState::Lost => false,
        }
    }

    /// Whether it may be given work.
    pub fn gets_work(&self) -> bool {
        self.state == MemberState::Alive && !self.sent_away
    }
}

/// All workers that ever registered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Members {
    pub all: BTreeMap<WorkerId, Member>,
    /// Those that are not lost, by when they were last heard.
    heard: BTreeSet<(u64, WorkerId)>,
    alive: usize,
}

impl Members {
    /// The name that the next worker gets.
    pub fn next_id(&self) -> WorkerId {
        self.all.last_key_value().map_or(WorkerId(1), |(last, _)| last.next())
    }

    /// The member that calls.
    ///
    /// # Errors
    /// When there is no such member (any more), or the secret isn't its own.
    pub fn authenticate(&self, caller: &Caller) -> Result<&Member, Refusal> {
        let member = self.all.get(&caller.worker).ok_or(Refusal::NotAMember(caller.worker))?;
        if member.secret != caller.secret && !planted(Mutation::SkipSecretCheck) {
            return Err(Refusal::WrongSecret(caller.worker));
        }
        if member.state == MemberState::Lost {
            return Err(Refusal::NotAMember(caller.worker));
        }
        Ok(member)
    }

    /// Members that have been silent for `lease_ms` at `now_ms`.
    pub fn silent(&self, now_ms: u64, lease_ms: u64) -> BTreeSet<WorkerId> {
        let Some(since_ms) = now_ms.checked_sub(lease_ms) else { return BTreeSet::new() };
        self.heard.range(..=(since_ms, WorkerId(u64::MAX))).map(|(_, worker)| *worker).collect()
    }

    /// How many are here and stay.
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// How many were lost.
    pub fn lost(&self) -> usize {
        self.all.len() - self.heard.len()
    }

    /// Members that are not lost.
    pub fn here(&self) -> impl Iterator<Item = (WorkerId, &Member)> {
        self.heard.iter().map(|(_, worker)| (*worker, &self.all[worker]))
    }

    /// A worker's name for people, with its id.
    pub fn title(&self, worker: WorkerId) -> String {
        self.all.get(&worker).map_or_else(|| worker.to_string(), |member| format!("{worker} ({})", member.name))
    }

    /// Where a worker runs.
    pub fn place(&self, worker: WorkerId) -> Option<&Place> {
        self.all.get(&worker).map(|member| &member.place)
    }

    pub fn absorb_registered(&mut self, worker: WorkerId, member: Member) {
        self.alive += 1;
        self.heard.insert((member.heard_ms, worker));
        self.all.insert(worker, member);
    }

    pub fn absorb_state(&mut self, worker: WorkerId, state: MemberState) {
        let member = self.all.get_mut(&worker).expect("a registered worker changes its state");
        self.alive -= usize::from(member.state == MemberState::Alive && state != MemberState::Alive);
        (member.state, member.waits_since_ms) = (state, None);
        if state == MemberState::Lost {
            self.heard.remove(&(member.heard_ms, worker));
        }
    }

    pub fn absorb_sent_away(&mut self, worker: WorkerId) {
        self.all.get_mut(&worker).expect("a registered worker is sent away").sent_away = true;
    }

    pub fn absorb_heard(&mut self, worker: WorkerId, at_ms: u64) {
        let member = self.all.get_mut(&worker).expect("a registered worker is heard");
        let before_ms = std::mem::replace(&mut member.heard_ms, at_ms);
        if self.heard.remove(&(before_ms, worker)) {
            self.heard.insert((at_ms, worker));
        }
    }

    pub fn absorb_warm(&mut self, worker: WorkerId, warm: &BTreeSet<Warmth>) {
        self.all.get_mut(&worker).expect("a registered worker is warm").warm.clone_from(warm);
    }

    /// It asked for work at this time and got none; `None`: it has something to do now.
    pub fn absorb_waiting(&mut self, worker: WorkerId, since_ms: Option<u64>) {
        self.all.get_mut(&worker).expect("a registered worker asks for work").waits_since_ms = since_ms;
    }

    /// Counts all members as heard at `at_ms`, and forgets what only they know.
    pub fn absorb_restart(&mut self, at_ms: u64, terms_begin_anew: bool) {
        for member in self.all.values_mut() {
            member.warm.clear();
            member.waits_since_ms = None;
            if terms_begin_anew {
                member.heard_ms = at_ms;
            }
        }
        let here = self.all.iter().filter(|(_, member)| member.state != MemberState::Lost);
        self.heard = here.map(|(worker, member)| (member.heard_ms, *worker)).collect();
    }
}
