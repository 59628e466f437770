//! The machine: its state, and what the coordinator's own events decide. What members' calls decide is in
//! `membership`, `leasing` and `ranks`; what records change, in `absorb`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::acceptances::Acceptances;
use crate::config::{Config, StageConfig};
use crate::denylist::Denylist;
use crate::event::{Call, Caller, Decision, Event, Refusal, UnreadableFile};
use crate::ids::{Epoch, Incarnation, WorkerId};
use crate::members::{Member, MemberState, Members};
use crate::mutation::{Mutation, planted};
use crate::part::PartSummary;
use crate::record::Record;
use crate::run::{Chore, End, Phase, Run, Stage};
use crate::shards::{Ending, SettledShard, ShardPlan, Shards, Standing};
use crate::slowest::ShardTime;
use crate::tasks::Tasks;
use crate::training::{Loss, Training};

/// How the state is laid out and what it means. To be raised whenever either changes: a snapshot of another state is not
/// used, the records are replayed instead.
pub const STATE: u32 = 2;

/// The state of one run. It is the records absorbed so far: what they come to may be kept and taken up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub(crate) config: Config,
    pub(crate) now_ms: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) run: Run,
    pub(crate) shards: Shards,
    pub(crate) members: Members,
    pub(crate) denylist: Denylist,
    pub(crate) tasks: Tasks,
    pub(crate) training: Training,
    pub(crate) acceptances: Acceptances,
}

impl Machine {
    /// A run of which nothing has happened yet.
    pub fn new(config: Config) -> Self {
        Machine {
            config,
            now_ms: 0,
            incarnation: Incarnation(0),
            run: Run::default(),
            shards: Shards::default(),
            members: Members::default(),
            denylist: Denylist::default(),
            tasks: Tasks::default(),
            training: Training::default(),
            acceptances: Acceptances::default(),
        }
    }

    /// Takes up a state that was kept; what the recipe says of the cluster guides decisions from now on.
    pub fn under(self, config: Config) -> Self {
        Machine { config, ..self }
    }

    /// What the coordinator has to do now, beside answering.
    pub fn chore(&self) -> Option<Chore> {
        self.acceptance_chore().or(self.phase_chore())
    }

    fn phase_chore(&self) -> Option<Chore> {
        match (&self.run.end, self.run.phase) {
            (None, Phase::Planning) => Some(Chore::Plan),
            (None, Phase::CapFilt) if self.shards.settled() => Some(Chore::WriteManifest),
            (None, Phase::Task(task)) if self.tasks.is_done(task) => Some(Chore::WriteManifest),
            _ => None,
        }
    }

    /// How the run ended.
    pub fn end(&self) -> Option<&End> {
        self.run.end.as_ref()
    }

    /// What the run is at, or was when it ended.
    pub fn phase(&self) -> Phase {
        self.run.phase
    }

    /// The coordinator's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// All shards that are done or given up, in shard order.
    pub fn settled_shards(&self) -> Vec<SettledShard> {
        self.shards.settled_shards()
    }

    /// The accepted parts that took longest, the slowest first.
    pub fn slowest_shards(&self) -> &[ShardTime] {
        self.shards.slowest.all()
    }

    /// All shards in order, with where they stand.
    pub fn standings(&self) -> impl Iterator<Item = (&ShardPlan, Standing)> {
        self.shards.standings()
    }

    /// The accepted part with data whose attempt began last before `before`, if that says one.
    pub fn last_part(&self, before: Option<Epoch>) -> Option<(Epoch, &ShardPlan, &PartSummary)> {
        self.shards.last_part(before)
    }

    /// Decides what an event makes true. Changes nothing.
    pub fn decide(&self, event: &Event) -> Decision {
        match event {
            Event::Start { now_ms, resume, incarnation, behind } => self.start(*now_ms, *resume, *incarnation, *behind),
            Event::Tick { now_ms } => self.tick(*now_ms),
            Event::Planned { shards, unreadable } => self.planned(shards, unreadable),
            Event::Extended { shards, unreadable } => self.extended(shards, unreadable),
            Event::CaptionsFound { rows } => self.captions_found(*rows),
            // What comes of a chore that is no longer due is old news.
            Event::ChoreFailed { .. } | Event::ChoreDelayed { .. } if self.chore().is_none() => {
                Decision::noted(Vec::new())
            }
            Event::ChoreFailed { cause } => Decision::noted(vec![Record::RunFailed { cause: cause.clone() }]),
            Event::ChoreDelayed { reason } => Decision::noted(vec![Record::ChoreDelayed { reason: reason.clone() }]),
            Event::AcceptancesKept { count } => self.acceptances_kept(*count),
            Event::AcceptancesRead { acceptances } => self.acceptances_read(acceptances),
            Event::ManifestWritten => self.manifest_written(),
            Event::Control(control) => self.control(control),
            Event::Register(registration) => self.register(registration),
            Event::Call { caller, call } => match self.members.authenticate(caller) {
                Ok(member) => self.call(caller, member, call).unwrap_or_else(Decision::refuse),
                Err(refusal) => Decision::refuse(refusal),
            },
        }
    }

    fn call(&self, caller: &Caller, member: &Member, call: &Call) -> Result<Decision, Refusal> {
        let worker = caller.worker;
        match call {
            Call::Heartbeat { progress, warm } => Ok(self.heartbeat(worker, member, progress, warm)),
            Call::Drain { reason } => Ok(self.drain(worker, member, reason)),
            Call::Lease | Call::JoinWorld { .. } if member.state == MemberState::Draining => {
                Err(Refusal::Draining(worker))
            }
            Call::JoinWorld { generation }
                if self.is_unwanted(worker) && self.training.world.rank(worker).is_none() =>
            {
                Err(Refusal::StaleWorld { given: *generation })
            }
            Call::Lease => Ok(self.lease(worker, member)),
            Call::JoinWorld { generation } => self.join_world(worker, member, *generation),
            Call::Commit { shard, token, part } => self.commit(worker, shard, *token, part),
            Call::Fail { shard, token, reason, permanent } => self.fail(worker, shard, *token, reason, *permanent),
            Call::CommitTask { task, token, result } => self.commit_task(worker, *task, *token, result),
            Call::FailTask { task, token, reason } => self.fail_task(worker, *task, *token, reason),
            Call::ReportSteps { token, losses } => self.report_steps(worker, *token, losses),
            Call::CommitCheckpoint { token, checkpoint, last } => {
                self.commit_checkpoint(worker, *token, checkpoint, *last)
            }
            Call::LeaveWorld { token, reason } => self.leave_world(worker, *token, reason),
        }
    }

    // ---- the coordinator's own events ----

    fn start(&self, now_ms: u64, resume: bool, incarnation: Incarnation, behind: bool) -> Decision {
        let until_ms = now_ms + self.config.lease_ms;
        let mut records = vec![Record::CoordinatorStarted { incarnation, at_ms: now_ms, until_ms, behind }];
        if resume && matches!(self.run.end, Some(End::Failed { .. })) {
            records.push(Record::RunResumed);
        }
        Decision::noted(records)
    }

    fn tick(&self, now_ms: u64) -> Decision {
        if now_ms <= self.now_ms {
            return Decision::noted(Vec::new());
        }
        let mut lost = self.members.silent(now_ms, self.config.lease_ms);
        if planted(Mutation::NeverLoseTheSilent) {
            lost.clear();
        }
        let mut records = vec![Record::TimePassed { now_ms }];
        records.extend(lost.iter().map(|worker| Record::WorkerLost { worker: *worker }));
        records.extend(self.overdue(now_ms, &lost));
        records.extend(self.denials(&records));
        records.extend(self.take_task_from(&lost, true));
        records.extend(self.part_with(&lost, Loss::Blamed, "a rank fell silent"));
        Decision::noted(records)
    }

    /// The records that end attempts of those who are lost, and attempts whose term is over.
    fn overdue(&self, now_ms: u64, lost: &BTreeSet<WorkerId>) -> Vec<Record> {
        if planted(Mutation::KeepLeasesOfTheLost) {
            return Vec::new();
        }
        let held = lost.iter().flat_map(|worker| self.shards.holdings.of(*worker));
        let ended = held.chain(self.shards.holdings.overdue(now_ms));
        let endings = ended.map(|(epoch, shard)| ((shard.clone(), epoch), Ending::Expired)).collect();
        self.shards.end_attempts(self.config.attempts, endings)
    }

    fn planned(&self, shards: &[ShardPlan], unreadable: &[UnreadableFile]) -> Decision {
        if self.phase_chore() != Some(Chore::Plan) {
            return Decision::noted(Vec::new());
        }
        if shards.is_empty() {
            let cause = match unreadable.first() {
                None => "the data sets hold no rows".into(),
                Some(first) => {
                    format!("no file of the data sets can be read, the first is {}: {}", first.shard.file, first.reason)
                }
            };
            return Decision::noted(vec![Record::RunFailed { cause }]);
        }
        let all = shards.iter().chain(unreadable.iter().map(|file| &file.shard)).cloned().collect();
        let mut records = vec![Record::Planned { shards: all }];
        records.extend(
            unreadable
                .iter()
                .map(|file| Record::ShardQuarantined { shard: file.shard.shard.clone(), reason: file.reason.clone() }),
        );
        Decision::noted(records)
    }

    fn manifest_written(&self) -> Decision {
        if self.phase_chore() != Some(Chore::WriteManifest) {
            return Decision::noted(Vec::new());
        }
        if let Phase::Task(task) = self.run.phase {
            return Decision::noted(vec![Record::ManifestWritten, self.next_task(Some(task))]);
        }
        let totals = &self.shards.totals;
        let records = match self.config.first_stage() {
            None => vec![Record::ManifestWritten, Record::RunFinished],
            Some(_) if totals.rows_kept + totals.rows_passed == 0 => {
                let cause = format!("all {} rows were quarantined, there is nothing to train on", totals.rows);
                vec![Record::RunFailed { cause }]
            }
            Some(stage) => vec![Record::ManifestWritten, self.begun(stage)],
        };
        Decision::noted(records)
    }

    fn captions_found(&self, rows: u64) -> Decision {
        if self.phase_chore() != Some(Chore::Plan) {
            return Decision::noted(Vec::new());
        }
        Decision::noted(match self.config.first_stage() {
            Some(stage) if rows > 0 => vec![Record::CaptionsTaken { rows }, self.begun(stage)],
            _ => vec![Record::RunFailed { cause: "there is nothing to train, or no caption to train on".into() }],
        })
    }

    pub(crate) fn begun(&self, stage: Stage) -> Record {
        let generation = self.training.next_generation();
        match stage {
            Stage::One => Record::Stage1Started { generation },
            Stage::Two => Record::Stage2Started { generation },
        }
    }

    /// What the recipe says about the stage that the run is at.
    pub(crate) fn stage_config(&self) -> Option<StageConfig> {
        self.config.stage(self.training.stage)
    }
}
