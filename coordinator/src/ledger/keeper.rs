//! The keeper: the machine and its journal as one value, without threads or a clock of its own.
//!
//! A turn decides and absorbs a batch of events one after the other, appends the durable records of all of them in one
//! transaction, and says what may be answered now that it is synced.
//!
//! When an append fails, nobody has heard anything yet: the machine is thrown away and rebuilt from the journal, and all
//! callers of the batch hear UNAVAILABLE. Until the journal takes records again, members are kept alive (a heartbeat
//! needs no journal) and nothing else happens.

use quern_machine::{
    Acceptance, Answer, Call, Chore, Config, Event, Machine, Mutation, Record, SettledShard, SettledTask, ShardTime,
    planted,
};

use crate::beside::Taken;
use crate::errors::CallError;
use crate::journal::{Journal, JournalError, Snapshot};

/// What the coordinator has to do beside answering, with all that it needs.
#[derive(Debug)]
pub enum Job {
    /// See [`Chore::Plan`].
    Plan,
    /// See [`Chore::ReadAcceptances`].
    ReadAcceptances,
    /// See [`Chore::KeepAcceptances`].
    KeepAcceptances {
        /// The number of the first one.
        first: u64,
        /// All that wait.
        acceptances: Vec<Acceptance>,
    },
    /// See [`Chore::WriteManifest`].
    WriteManifest {
        /// All that is done or given up of CapFilt.
        shards: Vec<SettledShard>,
        /// What was done with what was trained.
        tasks: Vec<SettledTask>,
        /// The parts that took longest.
        slowest: Vec<ShardTime>,
    },
}

/// Who owns the machine.
pub struct Keeper {
    config: Config,
    journal: Box<dyn Journal>,
    /// After how many records beyond a snapshot a new one is worth it.
    snapshot_after: u64,
    machine: Machine,
    /// Why nothing can be journalled now.
    outage: Option<String>,
    /// Whether the machine holds nothing but what is durable. (After a failed append it doesn't until it is rebuilt.)
    sound: bool,
    /// The chore that is being done.
    asked: Option<Chore>,
}

impl Keeper {
    /// Recovers the machine from the journal and takes the next incarnation, which `take` makes of what the journal
    /// says; a failed run is taken up again. When `snapshot_after` records or more had to be read, a snapshot is kept.
    ///
    /// # Errors
    /// When the journal can't be read, or doesn't take the record of this start; or what `take` says.
    pub fn open(
        config: Config,
        journal: Box<dyn Journal>,
        snapshot_after: u64,
        now_ms: u64,
        take: &mut dyn FnMut(&Machine) -> Result<Taken, JournalError>,
    ) -> Result<Self, JournalError> {
        let machine = Machine::new(config);
        let mut keeper = Keeper { config, journal, snapshot_after, machine, outage: None, sound: true, asked: None };
        keeper.rebuild()?;
        let taken = take(&keeper.machine)?;
        keeper.start(now_ms, true, taken)?;
        Ok(keeper)
    }

    /// Decides a batch, makes it durable, and says what may be answered, in the batch's order.
    pub fn turn(&mut self, now_ms: u64, batch: &[Event]) -> Vec<Result<Answer, CallError>> {
        if self.is_up(now_ms, batch) { self.decide(now_ms, batch) } else { self.keep_members_alive(batch) }
    }

    /// The machine, as it is to be shown while it [is sound](Keeper::is_sound).
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Whether the machine holds nothing but what is durable.
    pub(super) fn is_sound(&self) -> bool {
        self.sound
    }

    /// Why nothing can be journalled now.
    pub fn outage(&self) -> Option<&str> {
        self.outage.as_deref()
    }

    /// The job that has become due since this was last asked.
    pub fn next_job(&mut self) -> Option<Job> {
        if !self.sound || self.outage.is_some() || self.machine.chore() == self.asked {
            return None;
        }
        self.asked = self.machine.chore();
        self.asked.map(|chore| match chore {
            Chore::Plan => Job::Plan,
            Chore::ReadAcceptances => Job::ReadAcceptances,
            Chore::KeepAcceptances { first } => {
                Job::KeepAcceptances { first, acceptances: self.machine.unkept_acceptances() }
            }
            Chore::WriteManifest => Job::WriteManifest {
                shards: self.machine.settled_shards(),
                tasks: self.machine.settled_tasks(),
                slowest: self.machine.slowest_shards().to_vec(),
            },
        })
    }

    /// Whether the journal takes records, as far as is known; during an outage it is tried anew at every tick.
    fn is_up(&mut self, now_ms: u64, batch: &[Event]) -> bool {
        if self.outage.is_none() {
            return true;
        }
        if !batch.iter().any(|event| matches!(event, Event::Tick { .. })) {
            return false;
        }
        // The same process goes on: nothing of what wasn't durable has left it, so its incarnation is still its own.
        let same = Taken { incarnation: self.machine.incarnation(), behind: false };
        match self.rebuild().and_then(|()| self.start(now_ms, false, same)) {
            Ok(()) => {
                tracing::info!("the journal takes records again");
                self.outage = None;
                true
            }
            Err(error) => {
                self.outage = Some(error.to_string());
                false
            }
        }
    }

    fn decide(&mut self, now_ms: u64, batch: &[Event]) -> Vec<Result<Answer, CallError>> {
        let mut records = Vec::new();
        // The answer to a tick is nobody's.
        let _ = self.take(&Event::Tick { now_ms }, &mut records);
        let verdicts: Vec<_> = batch.iter().map(|event| self.take(event, &mut records)).collect();
        let durable: Vec<_> = records.iter().filter(|record| record.is_durable()).collect();
        if durable.is_empty() {
            return verdicts;
        }
        let append =
            tracing::info_span!("journal.append", records = durable.len() as i64, bytes = tracing::field::Empty);
        let Err(error) = append.in_scope(|| self.journal.append(&durable)) else { return verdicts };
        tracing::error!(%error, "the journal takes no records");
        self.outage = Some(error.to_string());
        self.sound = false;
        if let Err(error) = self.rebuild() {
            self.outage = Some(error.to_string());
        }
        if planted(Mutation::AnswerBeforeAppend) {
            return verdicts;
        }
        verdicts.into_iter().map(|_| Err(self.unavailable())).collect()
    }

    fn take(&mut self, event: &Event, records: &mut Vec<Record>) -> Result<Answer, CallError> {
        let decision = self.machine.decide(event);
        decision.records.iter().for_each(|record| self.machine.absorb(record));
        records.extend(decision.records);
        decision.after_durable.map_err(CallError::from)
    }

    /// During an outage: heartbeats are answered from what is durable, all else is put off.
    fn keep_members_alive(&mut self, batch: &[Event]) -> Vec<Result<Answer, CallError>> {
        let answer = |event: &Event| match event {
            Event::Call { call: Call::Heartbeat { .. }, .. } if self.sound => {
                self.machine.decide(event).after_durable.map_err(CallError::from)
            }
            _ => Err(self.unavailable()),
        };
        batch.iter().map(answer).collect()
    }

    /// Forgets all that isn't in the journal.
    fn rebuild(&mut self) -> Result<(), JournalError> {
        let snapshot = self.journal.snapshot()?;
        let kept = snapshot.and_then(|snapshot| Some((snapshot.machine(self.config)?, snapshot.records())));
        let (mut machine, kept) = kept.unwrap_or_else(|| (Machine::new(self.config), 0));
        let mut records = kept;
        let mut last = None;
        self.journal.replay(kept, &mut |record| {
            records += 1;
            if planted(Mutation::LoseTheLastRecord) {
                if let Some(before) = last.replace(record) {
                    machine.absorb(&before);
                }
            } else {
                machine.absorb(&record);
            }
        })?;
        if records - kept >= self.snapshot_after {
            let counted = records + u64::from(planted(Mutation::SnapshotAhead));
            // All that is in it is in the records, too.
            if let Err(error) = self.journal.keep_snapshot(&Snapshot::of(&machine, counted)) {
                tracing::warn!(%error, "no snapshot of the journal can be kept");
            }
        }
        self.machine = machine;
        self.sound = true;
        Ok(())
    }

    /// Goes on under an incarnation.
    fn start(&mut self, now_ms: u64, resume: bool, taken: Taken) -> Result<(), JournalError> {
        let Taken { incarnation, behind } = taken;
        let decision = self.machine.decide(&Event::Start { now_ms, resume, incarnation, behind });
        self.journal.append(&decision.records.iter().collect::<Vec<_>>())?;
        decision.records.iter().for_each(|record| self.machine.absorb(record));
        Ok(())
    }

    fn unavailable(&self) -> CallError {
        CallError::Unavailable(self.outage.clone().unwrap_or_else(|| "the coordinator is recovering".into()))
    }
}
