//! Facts: the only thing that changes a machine.

use std::collections::BTreeSet;

use crate::acceptances::Acceptance;
use crate::ids::{Generation, Place, ShardToken};
use crate::machine::Machine;
use crate::members::{Member, MemberState};
use crate::mutation::{Mutation, planted};
use crate::record::Record;
use crate::run::{End, Phase, Stage};
use crate::tasks::TaskAttempt;
use crate::training::{Checkpoint, World};

impl Machine {
    /// Makes a record true. Decides nothing.
    ///
    /// # Panics
    /// When the record contradicts those before, such as a commit of a shard that nobody planned: the journal is not one
    /// that a machine wrote.
    pub fn absorb(&mut self, record: &Record) {
        match record {
            Record::CoordinatorStarted { incarnation, at_ms, until_ms, behind } => {
                self.incarnation = *incarnation;
                self.acceptances.absorb_restart(*at_ms, *behind);
                self.now_ms = *at_ms;
                self.run.delay = None;
                let terms_begin_anew = !planted(Mutation::ForgetNewTerms);
                self.members.absorb_restart(*at_ms, terms_begin_anew);
                if terms_begin_anew {
                    self.shards.absorb_renewal_of_all(*until_ms);
                }
                self.shards.absorb_restart(*at_ms);
                self.training.absorb_restart(*at_ms);
            }
            Record::Planned { shards } => {
                self.shards.absorb_plan(shards);
                self.run.phase = Phase::CapFilt;
                self.run.delay = None;
            }
            Record::ShardsAdded { shards } => {
                self.shards.absorb_added(shards);
                self.run.end = None;
            }
            Record::ShardsRetried { reasons, shards } => {
                shards.iter().for_each(|shard| self.shards.absorb_retried(shard, reasons));
                self.run.end = None;
            }
            Record::ShardRestored { shard, .. } => self.shards.absorb_restored(shard),
            Record::ShardReplaced { shard, part } => self.shards.absorb_replaced(shard, part),
            Record::WorkerRegistered { worker, name, device, address, secret, at_ms, host, memory_bytes } => {
                let member = Member {
                    place: Place::of(host, device, name),
                    memory_bytes: *memory_bytes,
                    warm: BTreeSet::new(),
                    waits_since_ms: None,
                    name: name.clone(),
                    device: device.clone(),
                    address: address.clone(),
                    secret: secret.clone(),
                    state: MemberState::Alive,
                    heard_ms: *at_ms,
                    sent_away: false,
                    rows: 0,
                };
                self.members.absorb_registered(*worker, member);
            }
            Record::WorkerDraining { worker, .. } => self.members.absorb_state(*worker, MemberState::Draining),
            Record::WorkerSentAway { worker, .. } => self.members.absorb_sent_away(*worker),
            Record::WorkerLost { worker } => self.members.absorb_state(*worker, MemberState::Lost),
            Record::PlaceDenied { place, reason } => self.denylist.absorb_denied(place, reason),
            Record::PlaceAllowed { place } => self.denylist.absorb_allowed(place),
            Record::LeaseGranted { shard, epoch, incarnation, worker, until_ms } => {
                let token = ShardToken { incarnation: *incarnation, epoch: *epoch };
                self.members.absorb_waiting(*worker, None);
                self.shards.absorb_grant(shard, token, *worker, self.now_ms, *until_ms);
            }
            Record::LeaseReturned { shard, epoch } => self.shards.absorb_end(shard, *epoch, None),
            Record::LeaseExpired { shard, epoch } | Record::AttemptFailed { shard, epoch, .. } => {
                self.absorb_failure(record);
                let held = self.shards.attempt(shard, *epoch);
                let place = held.and_then(|attempt| self.members.place(attempt.worker)).cloned();
                self.shards.absorb_end(shard, *epoch, Some(place.unwrap_or_default()));
            }
            Record::ShardCommitted { shard, epoch, part, took_ms } => {
                let made = self.shards.attempt(shard, *epoch).map(|attempt| attempt.worker);
                if let Some(member) = made.and_then(|worker| self.members.all.get_mut(&worker)) {
                    member.rows += part.rows;
                    self.denylist.absorb_success(&member.place);
                    self.shards.absorb_time(shard, *took_ms, &member.name);
                }
                self.shards.absorb_commit(shard, *epoch, part, self.now_ms);
                let file = self.shards.all[shard].plan.file.clone();
                let accepted = Acceptance::Part { shard: shard.clone(), file, part: part.clone() };
                self.acceptances.absorb(self.now_ms, accepted);
            }
            Record::ShardQuarantined { shard, reason } => self.shards.absorb_quarantine(shard, reason),
            Record::AcceptancesKept { count } => {
                self.acceptances.absorb_kept(*count);
                self.run.delay = None;
            }
            Record::AcceptancesRead { acceptances } => self.absorb_acceptances_read(acceptances),
            Record::ManifestWritten | Record::CaptionsTaken { .. } => self.run.delay = None,
            Record::Stage1Started { generation } => self.absorb_stage(Stage::One, *generation),
            Record::Stage2Started { generation } => self.absorb_stage(Stage::Two, *generation),
            Record::TaskStarted { task } => {
                self.run.phase = Phase::Task(*task);
                self.training.absorb_end();
                self.tasks.absorb_start();
            }
            Record::TaskGranted { epoch, incarnation, worker, .. } => {
                let token = ShardToken { incarnation: *incarnation, epoch: *epoch };
                self.shards.last_epoch = self.shards.last_epoch.max(*epoch);
                self.tasks.attempt = Some(TaskAttempt { token, worker: *worker });
            }
            Record::TaskReturned { .. } => self.tasks.absorb_end(None),
            Record::TaskExpired { .. } => self.tasks.absorb_end(Some("its worker was lost")),
            Record::TaskFailed { reason, .. } => self.tasks.absorb_end(Some(reason)),
            Record::TaskDone { task, result, .. } => self.tasks.absorb_done(*task, result),
            Record::WorldJoined { worker, .. } => {
                if let World::Forming { joined, .. } = &mut self.training.world {
                    joined.insert(*worker);
                }
            }
            Record::WorldLeft { worker, .. } => {
                if let World::Forming { joined, .. } = &mut self.training.world {
                    joined.remove(worker);
                }
            }
            Record::WorldFormed { generation, incarnation, ranks } => {
                self.training.absorb_formed(*generation, *incarnation, ranks);
            }
            Record::WorldBroken { generation, reason, fruitless } => {
                self.training.absorb_broken(*generation, reason, *fruitless, self.now_ms);
            }
            Record::CheckpointAccepted { step, path, digest, .. } => {
                let checkpoint = Checkpoint { step: *step, path: path.clone(), digest: digest.clone() };
                let stage = self.training.stage;
                self.acceptances.absorb(self.now_ms, Acceptance::Checkpoint { stage, checkpoint: checkpoint.clone() });
                self.training.absorb_checkpoint(checkpoint);
            }
            Record::RunFinished => self.run.end = Some(End::Done),
            Record::RunFailed { cause } => self.run.end = Some(End::Failed { cause: cause.clone() }),
            Record::RunPaused { reason } => self.run.paused = Some(reason.clone()),
            Record::RunUnpaused => self.run.paused = None,
            Record::RunCancelled { reason } => self.run.end = Some(End::Cancelled { reason: reason.clone() }),
            Record::RunResumed => {
                self.run.end = None;
                self.training.fruitless = 0;
                self.tasks.failures = 0;
            }
            Record::TimePassed { now_ms } => self.now_ms = *now_ms,
            Record::WorkerHeard { worker, at_ms, until_ms } => {
                self.members.absorb_heard(*worker, *at_ms);
                self.shards.absorb_renewal(*worker, *until_ms);
            }
            Record::WorkerWaits { worker, at_ms } => self.members.absorb_waiting(*worker, Some(*at_ms)),
            Record::WorkerWarmed { worker, warm } => self.members.absorb_warm(*worker, warm),
            Record::ShardProgressed { shard, epoch, rows_done } => {
                self.shards.absorb_progress(shard, *epoch, *rows_done);
            }
            Record::StepsReported { losses, .. } => {
                self.training.step = losses.step;
                self.training.losses = Some(*losses);
            }
            Record::ChoreDelayed { reason } => self.run.delay = Some(reason.clone()),
        }
    }

    fn absorb_stage(&mut self, stage: Stage, generation: Generation) {
        self.run.phase = Phase::Training(stage);
        self.training.absorb_stage(stage, generation, self.now_ms);
        self.absorb_recovered_checkpoint();
    }

    /// Whoever failed is remembered for it.
    fn absorb_failure(&mut self, record: &Record) {
        if let Some((place, what, why)) = self.blamed_by(record).map(|(place, what, why)| (place.clone(), what, why)) {
            self.denylist.absorb_failure(&place, &what, &why);
        }
    }
}
