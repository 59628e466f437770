//! Members: the workers of a run, `Alive → Draining → Lost`.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Caller, Refusal};
use crate::ids::{SecretDigest, WorkerId};
use crate::mutation::{Mutation, planted};

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub name: String,
    pub device: String,
    pub address: String,
    pub secret: SecretDigest,
    pub state: MemberState,
    /// When it was last heard.
    pub heard_ms: u64,
    /// Whether an operator sent it away.
    pub sent_away: bool,
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
}

/// All workers that ever registered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    pub all: BTreeMap<WorkerId, Member>,
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
        let silent =
            |member: &Member| member.state != MemberState::Lost && now_ms.saturating_sub(member.heard_ms) >= lease_ms;
        self.all.iter().filter(|(_, member)| silent(member)).map(|(worker, _)| *worker).collect()
    }

    /// How many get work.
    pub fn alive(&self) -> usize {
        self.all.values().filter(|member| member.state == MemberState::Alive).count()
    }

    /// A worker's name for people, with its id.
    pub fn title(&self, worker: WorkerId) -> String {
        self.all.get(&worker).map_or_else(|| worker.to_string(), |member| format!("{worker} ({})", member.name))
    }

    pub fn absorb_state(&mut self, worker: WorkerId, state: MemberState) {
        self.all.get_mut(&worker).expect("a registered worker changes its state").state = state;
    }

    pub fn absorb_sent_away(&mut self, worker: WorkerId) {
        self.all.get_mut(&worker).expect("a registered worker is sent away").sent_away = true;
    }

    pub fn absorb_heard(&mut self, worker: WorkerId, at_ms: u64) {
        self.all.get_mut(&worker).expect("a registered worker is heard").heard_ms = at_ms;
    }

    /// Counts all members as heard at `at_ms`.
    pub fn absorb_restart(&mut self, at_ms: u64) {
        self.all.values_mut().for_each(|member| member.heard_ms = at_ms);
    }
}
