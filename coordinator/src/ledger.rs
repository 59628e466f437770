//! The ledger: one thread that owns the machine and its journal.
//!
//! Calls queue up as events. The thread takes all that are there, decides and absorbs them one after the other, appends
//! the durable records of the whole batch in one transaction, and answers once that is synced: under load, one sync
//! serves many calls.
//!
//! When an append fails, nobody has heard anything yet: the machine is thrown away and rebuilt from the journal, and all
//! callers of the batch hear UNAVAILABLE. Until the journal takes records again, members are kept alive (a heartbeat
//! needs no journal) and nothing else happens.

use std::sync::Arc;
use std::thread::JoinHandle;

use quern_machine::{Answer, Call, Chore, Config, Event, Machine, Record, SettledShard};
use quern_proto::StatusReply;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::errors::CallError;
use crate::journal::{Journal, JournalError};
use crate::status::Describe;

/// Calls that wait for the ledger at most; more wait outside.
const QUEUE: usize = 1024;
/// Events per transaction at most.
const BATCH: usize = 512;

/// An event that waits for its answer.
struct Entry {
    event: Event,
    answer: oneshot::Sender<Result<Answer, CallError>>,
}

/// What the coordinator has to do beside answering, with all that it needs.
#[derive(Debug)]
pub(crate) enum Job {
    /// See [`Chore::Plan`].
    Plan,
    /// See [`Chore::WriteManifest`].
    WriteManifest(Vec<SettledShard>),
}

/// A handle on the ledger; its thread ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Ledger {
    inbox: mpsc::Sender<Entry>,
}

impl Ledger {
    /// Tells an event and waits for the answer.
    ///
    /// # Errors
    /// When the machine refuses, or when nothing happened since the journal can't be written.
    pub async fn tell(&self, event: Event) -> Result<Answer, CallError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || CallError::Unavailable("the coordinator is stopping".into());
        self.inbox.send(Entry { event, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// What a ledger is opened with.
pub(crate) struct Opening {
    pub config: Config,
    pub journal: Box<dyn Journal>,
    pub clock: Arc<dyn Clock>,
    pub describe: Describe,
}

/// An open ledger and what comes out of it.
pub(crate) struct Opened {
    pub ledger: Ledger,
    pub jobs: mpsc::UnboundedReceiver<Job>,
    pub status: watch::Receiver<StatusReply>,
    pub thread: JoinHandle<()>,
}

/// Recovers the machine from the journal and starts the ledger's thread.
///
/// # Errors
/// When the journal can't be read, or doesn't take the record of this start.
pub(crate) fn open(opening: Opening) -> Result<Opened, JournalError> {
    let Opening { config, mut journal, clock, describe } = opening;
    let mut machine = rebuild(config, journal.as_mut())?;
    start(&mut machine, journal.as_mut(), clock.as_ref(), true)?;
    let (status_sender, status) = watch::channel(describe.status(&machine, None));
    let (job_sender, jobs) = mpsc::unbounded_channel();
    let (inbox, entries) = mpsc::channel(QUEUE);
    let mut keeper = Keeper {
        config,
        journal,
        clock,
        describe,
        machine,
        outage: None,
        sound: true,
        asked: None,
        status_sender,
        job_sender,
    };
    let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || {
        keeper.publish();
        keeper.keep(entries);
    });
    let thread =
        thread.map_err(|error| JournalError::Io { path: "ledger thread".into(), reason: error.to_string() })?;
    Ok(Opened { ledger: Ledger { inbox }, jobs, status, thread })
}

fn rebuild(config: Config, journal: &mut dyn Journal) -> Result<Machine, JournalError> {
    let mut machine = Machine::new(config);
    journal.replay(&mut |record| machine.absorb(&record))?;
    Ok(machine)
}

/// Takes the next incarnation.
fn start(
    machine: &mut Machine,
    journal: &mut dyn Journal,
    clock: &dyn Clock,
    resume: bool,
) -> Result<(), JournalError> {
    let decision = machine.decide(&Event::Start { now_ms: clock.now_ms(), resume });
    journal.append(&decision.records.iter().collect::<Vec<_>>())?;
    decision.records.iter().for_each(|record| machine.absorb(record));
    Ok(())
}

/// The thread's own: who owns the machine.
struct Keeper {
    config: Config,
    journal: Box<dyn Journal>,
    clock: Arc<dyn Clock>,
    describe: Describe,
    machine: Machine,
    /// Why nothing can be journalled now.
    outage: Option<String>,
    /// Whether the machine holds nothing but what is durable. (After a failed append it doesn't until it is rebuilt.)
    sound: bool,
    /// The chore that is being done.
    asked: Option<Chore>,
    status_sender: watch::Sender<StatusReply>,
    job_sender: mpsc::UnboundedSender<Job>,
}

type Verdict = (oneshot::Sender<Result<Answer, CallError>>, Result<Answer, CallError>);

impl Keeper {
    fn keep(&mut self, mut entries: mpsc::Receiver<Entry>) {
        while let Some(first) = entries.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = entries.try_recv()
            {
                batch.push(next);
            }
            let verdicts = if self.is_up(&batch) { self.turn(batch) } else { self.keep_members_alive(batch) };
            self.publish();
            for (caller, verdict) in verdicts {
                // A caller that has gone away doesn't care.
                let _ = caller.send(verdict);
            }
        }
    }

    /// Whether the journal takes records, as far as is known; during an outage it is tried anew at every tick.
    fn is_up(&mut self, batch: &[Entry]) -> bool {
        if self.outage.is_none() {
            return true;
        }
        if !batch.iter().any(|entry| matches!(entry.event, Event::Tick { .. })) {
            return false;
        }
        let back = self.rebuild();
        match back.and_then(|()| start(&mut self.machine, self.journal.as_mut(), self.clock.as_ref(), false)) {
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

    /// Decides a batch, makes it durable, and says what may be answered.
    fn turn(&mut self, batch: Vec<Entry>) -> Vec<Verdict> {
        let mut records = Vec::new();
        let mut verdicts = Vec::with_capacity(batch.len());
        let tick = Event::Tick { now_ms: self.clock.now_ms() };
        // The answer to a tick is nobody's.
        let _ = self.take(&tick, &mut records);
        for Entry { event, answer } in batch {
            let verdict = self.take(&event, &mut records);
            verdicts.push((answer, verdict));
        }
        let durable: Vec<_> = records.iter().filter(|record| record.is_durable()).collect();
        if durable.is_empty() {
            return verdicts;
        }
        let Err(error) = self.journal.append(&durable) else { return verdicts };
        tracing::error!(%error, "the journal takes no records");
        self.outage = Some(error.to_string());
        self.sound = false;
        if let Err(error) = self.rebuild() {
            self.outage = Some(error.to_string());
        }
        verdicts.into_iter().map(|(caller, _)| (caller, Err(self.unavailable()))).collect()
    }

    fn rebuild(&mut self) -> Result<(), JournalError> {
        self.machine = rebuild(self.config, self.journal.as_mut())?;
        self.sound = true;
        Ok(())
    }

    fn take(&mut self, event: &Event, records: &mut Vec<Record>) -> Result<Answer, CallError> {
        let decision = self.machine.decide(event);
        decision.records.iter().for_each(|record| self.machine.absorb(record));
        records.extend(decision.records);
        decision.after_durable.map_err(CallError::from)
    }

    /// During an outage: heartbeats are answered from what is durable, all else is put off.
    fn keep_members_alive(&mut self, batch: Vec<Entry>) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(batch.len());
        for Entry { event, answer } in batch {
            let verdict = match &event {
                Event::Call { call: Call::Heartbeat { .. }, .. } if self.sound => {
                    self.machine.decide(&event).after_durable.map_err(CallError::from)
                }
                _ => Err(self.unavailable()),
            };
            verdicts.push((answer, verdict));
        }
        verdicts
    }

    fn unavailable(&self) -> CallError {
        CallError::Unavailable(self.outage.clone().unwrap_or_else(|| "the coordinator is recovering".into()))
    }

    /// Tells the watchers what changed and hands out the chore that is due.
    fn publish(&mut self) {
        if !self.sound {
            return;
        }
        let status = self.describe.status(&self.machine, self.outage.as_deref());
        self.status_sender.send_if_modified(|known| self.describe.replace(known, status));
        if self.outage.is_some() {
            return;
        }
        let due = self.machine.chore();
        if due == self.asked {
            return;
        }
        self.asked = due;
        let job = due.map(|chore| match chore {
            Chore::Plan => Job::Plan,
            Chore::WriteManifest => Job::WriteManifest(self.machine.settled_shards()),
        });
        if let Some(job) = job {
            // Nobody takes jobs any more when the coordinator is stopping.
            let _ = self.job_sender.send(job);
        }
    }
}

#[cfg(test)]
mod tests;
