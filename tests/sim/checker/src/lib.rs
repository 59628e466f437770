//! The outside judge of a simulated run.
//!
//! A [`Checker`] sees what anyone outside the coordinator can see: the calls that workers make, the answers that leave
//! the coordinator, the files under the output and the journal's records. It never sees the machine's state, so that it
//! can't share the machine's mistakes. It keeps a model of its own ([`Ledger`]), small enough to be checked by reading.
//!
//! After every turn of the coordinator it is shown the journal first and the answers second: what an answer promises
//! must be in the journal by then.

#![forbid(unsafe_code)]

mod answers;
mod denials;
mod journal;
mod output;
mod tasks;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use quern_machine::{
    Acceptance, Call, Caller, Checkpoint, Place, Record, Registration, SecretDigest, ShardId, WorkerId,
};

pub use answers::Told;
pub use journal::Ledger;
pub use output::{Output, PartFile};

/// What a run is like, as its recipe says.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long a worker may be silent.
    pub lease_ms: u64,
    /// Ranks of stage 1's and stage 2's world; 0: there is no such stage.
    pub ranks: [usize; 2],
    /// Failures in a row, each at another shard, after which a place gets no work while others succeed.
    pub worker_failures: usize,
    /// Device memory that every phase asks for.
    pub memory_bytes: u64,
    /// Whether what was trained is evaluated, and exported.
    pub tasks: [bool; 2],
}

/// A promise that was broken, in one sentence.
pub type Verdict = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

/// The judge of one run.
#[derive(Debug)]
pub struct Checker {
    terms: Terms,
    records: Vec<Record>,
    ledger: Ledger,
    /// Secrets of registrations, and offers of workers: nothing else may be accepted.
    registrations: BTreeMap<String, SecretDigest>,
    offers: BTreeMap<ShardId, Vec<(Caller, Call)>>,
    checkpoints: Vec<(Caller, Call)>,
    results: Vec<(Caller, Call)>,
    secrets: BTreeMap<WorkerId, SecretDigest>,
    /// All that was ever accepted: nothing else may be read beside the output.
    accepted: HashSet<Acceptance>,
    /// When each member was last heard, as far as it was told.
    heard_ms: BTreeMap<WorkerId, u64>,
    last_step_generation: u64,
    last_heard_generation: u64,
    /// Attempts and worlds that were live when the turn began.
    before: answers::Before,
}

impl Checker {
    /// A judge of a run of which nothing has happened yet.
    pub fn new(terms: Terms) -> Self {
        Checker {
            terms,
            records: Vec::new(),
            ledger: Ledger::default(),
            registrations: BTreeMap::new(),
            offers: BTreeMap::new(),
            checkpoints: Vec::new(),
            results: Vec::new(),
            secrets: BTreeMap::new(),
            accepted: HashSet::new(),
            heard_ms: BTreeMap::new(),
            last_step_generation: 0,
            last_heard_generation: 0,
            before: answers::Before::default(),
        }
    }

    /// A worker introduces itself.
    pub fn registering(&mut self, registration: &Registration) {
        self.registrations.insert(registration.address.clone(), registration.secret.clone());
    }

    /// A worker makes a call. Offers are remembered: only what was offered may turn up in the journal.
    pub fn calling(&mut self, caller: &Caller, call: &Call) {
        match call {
            Call::Commit { shard, .. } => {
                self.offers.entry(shard.clone()).or_default().push((caller.clone(), call.clone()));
            }
            Call::CommitTask { .. } => self.results.push((caller.clone(), call.clone())),
            Call::CommitCheckpoint { .. } => self.checkpoints.push((caller.clone(), call.clone())),
            _ => {}
        }
    }

    /// What the journal holds at this time of the coordinator's clock. After a replay (`again`) all of it is compared
    /// with what was known.
    ///
    /// # Errors
    /// When it lost, changed or gained what it must not.
    pub fn read(&mut self, now_ms: u64, records: &[Record], again: bool) -> Verdict {
        let known = self.records.len();
        ensure(records.len() >= known, || format!("the journal shrank from {known} to {} records", records.len()))?;
        if again && let Some(at) = (0..known).find(|at| records[*at] != self.records[*at]) {
            return Err(format!("record {at} was {:?} and is now {:?}", self.records[at], records[at]));
        }
        self.before = answers::Before::of(&self.ledger);
        for record in &records[known..] {
            self.note_time(now_ms, record)?;
            self.match_offer(record)?;
            self.ledger.absorb(record, &self.terms).map_err(|what| format!("{what}, in {record:?}"))?;
            self.accepted.extend(self.acceptance(record));
            self.records.push(record.clone());
            self.before.add(record, &self.ledger);
        }
        if let Some(before) = self.ledger.incarnation_before.take() {
            let now = self.ledger.incarnation;
            ensure(now > before, || format!("a process goes on under incarnation {now}, which is not new"))?;
        }
        self.ledger.at_rest()
    }

    /// An operator asks to give a place work again.
    pub fn pardon_asked(&mut self, place: Place) {
        self.ledger.denials.pardoned.insert(place);
    }

    /// A coordinator's process starts.
    pub fn process_starts(&mut self) {
        self.ledger.incarnation_before = Some(self.ledger.incarnation);
    }

    /// A sync had lied, so the journal may have lost its end: it now holds these records. All are those of before, up to
    /// where it was set back; what follows is a start, which is judged with all that is new by [`Checker::read`].
    ///
    /// # Errors
    /// When something else is missing, or anything was changed.
    pub fn set_back(&mut self, records: &[Record]) -> Verdict {
        let same = self.records.iter().zip(records).take_while(|(before, now)| before == now).count();
        if same == self.records.len() {
            return Ok(());
        }
        let start = records.get(same);
        let goes_on = matches!(start, Some(Record::CoordinatorStarted { .. }));
        ensure(goes_on, || format!("record {same} was {:?} and is now {start:?}", self.records[same]))?;
        let incarnation_before = self.ledger.incarnation_before.or(Some(self.ledger.incarnation));
        let marks = std::mem::take(&mut self.ledger.marks);
        self.ledger = Ledger::default();
        self.records.truncate(same);
        self.secrets.clear();
        for record in &self.records {
            self.ledger.absorb(record, &self.terms)?;
            if let Record::WorkerRegistered { worker, secret, .. } = record {
                self.secrets.insert(*worker, secret.clone());
            }
        }
        self.heard_ms = self.secrets.keys().map(|worker| (*worker, 0)).collect();
        (self.last_step_generation, self.last_heard_generation) = (0, 0);
        self.ledger.incarnation_before = incarnation_before;
        self.ledger.marks = marks;
        self.ledger.mark("journal set back");
        Ok(())
    }

    /// Whether the run is paused, as the journal says.
    pub fn is_paused(&self) -> bool {
        self.ledger.paused
    }

    /// How often what is rare happened: a promise that is never put to the test is none.
    pub fn marks(&self) -> &BTreeMap<&'static str, u64> {
        &self.ledger.marks
    }

    /// Places that get no work, by the journal.
    pub fn denied(&self) -> impl Iterator<Item = &Place> {
        self.ledger.denials.denied.iter()
    }

    /// Whether the run is done, by the journal.
    pub fn is_done(&self) -> bool {
        self.ledger.done
    }

    /// Whether the run has failed and was not taken up again, by the journal.
    pub fn has_failed(&self) -> bool {
        self.ledger.failed
    }

    /// The end: the files must hold every row once.
    ///
    /// # Errors
    /// When a row is missing or there twice.
    pub fn files(&self, output: &Output) -> Verdict {
        output::check(&self.ledger, output)
    }

    fn note_time(&mut self, now_ms: u64, record: &Record) -> Verdict {
        match record {
            Record::CoordinatorStarted { at_ms, .. } => {
                self.heard_ms.values_mut().for_each(|heard| *heard = *at_ms);
            }
            Record::WorkerRegistered { worker, address, secret, at_ms, .. } => {
                self.heard_ms.insert(*worker, *at_ms);
                let given = self.registrations.get(address);
                ensure(given == Some(secret), || format!("{worker} is registered, which nobody asked for"))?;
                self.secrets.insert(*worker, secret.clone());
            }
            Record::WorkerLost { worker } => {
                let silent_ms = now_ms.saturating_sub(self.heard_ms[worker]);
                let what = || format!("{worker} is given up after {silent_ms} ms of silence at {now_ms} ms");
                ensure(silent_ms >= self.terms.lease_ms, what)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Only what a worker offered, under the very token that it was given, may be accepted.
    fn match_offer(&self, record: &Record) -> Verdict {
        match record {
            Record::AcceptancesRead { acceptances } => {
                let foreign = acceptances.iter().find(|acceptance| !self.accepted.contains(acceptance));
                ensure(foreign.is_none(), || format!("{foreign:?} is read, which nobody has accepted"))
            }
            Record::ShardCommitted { shard, epoch, part, .. } => {
                let grant = self.ledger.grant(*epoch).ok_or_else(|| format!("epoch {epoch} was never granted"))?;
                let offered = self.offers.get(shard).into_iter().flatten().any(|(caller, call)| {
                    let Call::Commit { token, part: offered, .. } = call else { return false };
                    self.is_genuine(caller) && caller.worker == grant.worker && *token == grant.token && offered == part
                });
                ensure(offered, || format!("{shard} is committed at {:?}, which nobody offered", grant.token))
            }
            Record::TaskDone { task, epoch, result } => {
                let grant =
                    self.ledger.tasks.grant(*epoch).ok_or_else(|| format!("epoch {epoch} was never granted"))?;
                let offered = self.results.iter().any(|(caller, call)| {
                    let Call::CommitTask { task: of, token, result: offered } = call else { return false };
                    let is_its = self.is_genuine(caller) && caller.worker == grant.worker && *token == grant.token;
                    is_its && of == task && offered == result
                });
                ensure(offered, || format!("{result:?} is accepted, which nobody offered"))
            }
            Record::CheckpointAccepted { generation, step, path, digest, last } => {
                let world = self.ledger.world.as_ref().ok_or("a checkpoint is accepted without a world")?;
                ensure(world.token.generation == *generation, || {
                    format!("a checkpoint of generation {generation} is accepted in {:?}", world.token)
                })?;
                let offered = self.checkpoints.iter().any(|(caller, call)| {
                    let Call::CommitCheckpoint { token, checkpoint, last: is_last } = call else { return false };
                    self.is_genuine(caller)
                        && Some(&caller.worker) == world.ranks.first()
                        && *token == world.token
                        && (checkpoint.step, &checkpoint.path, &checkpoint.digest) == (*step, path, digest)
                        && is_last == last
                });
                ensure(offered, || {
                    format!("checkpoint {path} is accepted in {:?}, where nobody offered it", world.token)
                })
            }
            _ => Ok(()),
        }
    }

    /// What a record accepts that is to be written beside the output.
    fn acceptance(&self, record: &Record) -> Option<Acceptance> {
        match record {
            Record::ShardCommitted { shard, part, .. } => {
                let file = self.ledger.plans.get(shard)?.file.clone();
                Some(Acceptance::Part { shard: shard.clone(), file, part: part.clone() })
            }
            Record::CheckpointAccepted { step, path, digest, .. } => {
                let checkpoint = Checkpoint { step: *step, path: path.clone(), digest: digest.clone() };
                Some(Acceptance::Checkpoint { stage: self.ledger.stage(), checkpoint })
            }
            _ => None,
        }
    }

    fn is_genuine(&self, caller: &Caller) -> bool {
        self.secrets.get(&caller.worker) == Some(&caller.secret)
    }

    /// Members, by the journal: registered and not lost.
    fn members(&self) -> BTreeSet<WorkerId> {
        self.ledger.members.iter().filter(|(_, state)| !state.is_lost()).map(|(worker, _)| *worker).collect()
    }
}
