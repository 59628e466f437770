//! Random histories: whatever workers, time and restarts do, the promises hold.
//!
//! The oracle is outside the machine: it knows only what was answered and which records were made, and keeps its own
//! books of which attempts and worlds are over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use quern_machine::*;

const WORKERS: usize = 5;
const SHARDS: usize = 4;
const ROWS: u64 = 10;
const CONFIG: Config = Config {
    stage1: Some(StageConfig { ranks: 2, steps: 10 }),
    stage2: Some(StageConfig { ranks: 1, steps: 10 }),
    worker_failures: 2,
    ..Config::new(100, 2)
};

/// One thing that happens. Numbers choose among what there is at the time.
#[derive(Debug, Clone)]
enum Op {
    Register,
    Pass { ms: u64 },
    Heartbeat { worker: usize },
    Lease { worker: usize },
    Commit { attempt: usize, by_another: bool, digest: u8 },
    Fail { attempt: usize, permanent: bool },
    Drain { worker: usize },
    ManifestWritten,
    Join { worker: usize },
    Steps { world: usize, worker: usize, step: u64 },
    Checkpoint { world: usize, worker: usize, step: u64, last: bool },
    Leave { world: usize, worker: usize },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let worker = 0..WORKERS;
    let world = 0..8_usize;
    prop_oneof![
        2 => Just(Op::Register),
        4 => (1..70_u64).prop_map(|ms| Op::Pass { ms }),
        6 => worker.clone().prop_map(|worker| Op::Heartbeat { worker }),
        8 => worker.clone().prop_map(|worker| Op::Lease { worker }),
        8 => (0..64_usize, prop::bool::weighted(0.1), 0..3_u8)
            .prop_map(|(attempt, by_another, digest)| Op::Commit { attempt, by_another, digest }),
        1 => (0..64_usize, prop::bool::weighted(0.1)).prop_map(|(attempt, permanent)| Op::Fail { attempt, permanent }),
        1 => worker.clone().prop_map(|worker| Op::Drain { worker }),
        3 => Just(Op::ManifestWritten),
        8 => worker.clone().prop_map(|worker| Op::Join { worker }),
        4 => (world.clone(), worker.clone(), 1..10_u64)
            .prop_map(|(world, worker, step)| Op::Steps { world, worker, step }),
        4 => (world.clone(), worker.clone(), 1..10_u64, prop::bool::weighted(0.05))
            .prop_map(|(world, worker, step, last)| Op::Checkpoint { world, worker, step, last }),
        2 => (world, worker).prop_map(|(world, worker)| Op::Leave { world, worker }),
        1 => Just(Op::Restart),
    ]
}

/// What the oracle knows of one attempt.
#[derive(Debug, Clone)]
struct Granted {
    worker: WorkerId,
    shard: ShardId,
    token: ShardToken,
}

struct History {
    machine: Machine,
    now_ms: u64,
    workers: Vec<WorkerId>,
    journal: Vec<String>,
    granted: Vec<Granted>,
    over: BTreeSet<Epoch>,
    worlds: Vec<(WorldToken, Vec<WorkerId>)>,
    worlds_over: BTreeSet<Generation>,
    accepted: BTreeMap<ShardId, (ShardToken, String)>,
    quarantined: BTreeSet<ShardId>,
    last_epoch: u64,
    last_generation: u64,
    last_checkpoint: u64,
    finished: bool,
    /// What this history has reached.
    marks: BTreeSet<String>,
}

fn secret_of(worker: WorkerId) -> SecretDigest {
    SecretDigest(format!("secret of {worker}"))
}

fn part(shard: &ShardId, digest: &str) -> PartSummary {
    PartSummary {
        data: Some(format!("data/{shard}-{digest}.parquet")),
        quarantine: None,
        digest: digest.into(),
        rows: ROWS,
        kept: ROWS,
        passed: 0,
        quarantined: 0,
        bytes: 1,
        ..PartSummary::default()
    }
}

impl History {
    fn new() -> Self {
        let mut history = History {
            machine: Machine::new(CONFIG),
            now_ms: 0,
            workers: Vec::new(),
            journal: Vec::new(),
            granted: Vec::new(),
            over: BTreeSet::new(),
            worlds: Vec::new(),
            worlds_over: BTreeSet::new(),
            accepted: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            last_epoch: 0,
            last_generation: 0,
            last_checkpoint: 0,
            finished: false,
            marks: BTreeSet::new(),
        };
        let incarnation = Incarnation(1);
        history.decide(Event::Start { now_ms: 0, resume: true, incarnation, behind: false }).unwrap();
        let shards = (0..SHARDS).map(|n| ShardPlan {
            shard: ShardId(format!("s{n}")),
            dataset: "toy".into(),
            file: "f.parquet".into(),
            row_start: n as u64 * ROWS,
            rows: ROWS,
        });
        history.decide(Event::Planned { shards: shards.collect(), unreadable: Vec::new() }).unwrap();
        history
    }

    /// Decides and absorbs one event, and books what its records say.
    fn decide(&mut self, event: Event) -> Result<Answer, Refusal> {
        let Decision { records, after_durable } = self.machine.decide(&event);
        assert!(after_durable.is_ok() || records.is_empty(), "a refusal changes nothing: {event:?}");
        for record in &records {
            self.machine.absorb(record);
            if let Err(violation) = self.machine.invariants() {
                // Between the records of one decision only the last state counts.
                assert!(record != records.last().unwrap(), "{violation} after {event:?}");
            }
            if record.is_durable() {
                self.journal.push(serde_json::to_string(record).unwrap());
            }
            self.book(record);
        }
        after_durable
    }

    fn book(&mut self, record: &Record) {
        self.marks.insert(serde_json::to_value(record).unwrap()["record"].as_str().unwrap().to_owned());
        match record {
            Record::LeaseGranted { shard, epoch, incarnation, worker, .. } => {
                assert!(epoch.0 > self.last_epoch, "epochs only rise");
                self.last_epoch = epoch.0;
                assert!(!self.accepted.contains_key(shard) && !self.quarantined.contains(shard));
                let token = ShardToken { incarnation: *incarnation, epoch: *epoch };
                let mut live = self.granted.iter().filter(|granted| !self.over.contains(&granted.token.epoch));
                if live.any(|granted| granted.shard == *shard) {
                    self.mark("a second attempt beside a live one");
                }
                self.granted.push(Granted { worker: *worker, shard: shard.clone(), token });
            }
            Record::LeaseExpired { epoch, .. }
            | Record::LeaseReturned { epoch, .. }
            | Record::AttemptFailed { epoch, .. } => assert!(self.over.insert(*epoch), "an attempt ends once"),
            Record::ShardCommitted { shard, epoch, part, .. } => {
                assert!(!self.over.contains(epoch), "the commit of an attempt that was over was accepted");
                let granted = self.granted.iter().find(|granted| granted.token.epoch == *epoch).unwrap();
                assert_eq!(granted.shard, *shard);
                let token = granted.token;
                let before = self.accepted.insert(shard.clone(), (token, part.digest.clone()));
                assert_eq!(before, None, "one accepted part per shard");
                self.end_shard(shard);
            }
            Record::ShardQuarantined { shard, .. } => {
                assert!(self.quarantined.insert(shard.clone()));
                assert!(!self.accepted.contains_key(shard));
                self.end_shard(shard);
            }
            Record::WorldFormed { generation, incarnation, ranks } => {
                assert!(generation.0 > self.last_generation, "generations only rise");
                self.last_generation = generation.0;
                let token = WorldToken { incarnation: *incarnation, generation: *generation };
                self.worlds.push((token, ranks.clone()));
            }
            Record::WorldBroken { generation, .. } => assert!(self.worlds_over.insert(*generation)),
            Record::CheckpointAccepted { generation, step, .. } => {
                assert!(!self.worlds_over.contains(generation), "a checkpoint of a stale generation was accepted");
                assert!(*step > self.last_checkpoint || self.last_checkpoint == 0, "accepted steps rise");
                self.last_checkpoint = *step;
            }
            Record::StepsReported { generation, .. } => {
                assert!(!self.worlds_over.contains(generation), "a step of a stale generation was accepted");
            }
            Record::Stage2Started { .. } => {
                self.worlds_over.extend(self.worlds.last().map(|(token, _)| token.generation));
                self.last_checkpoint = 0;
            }
            Record::RunFinished => self.finished = true,
            _ => {}
        }
    }

    fn mark(&mut self, mark: &str) {
        self.marks.insert(mark.into());
    }

    fn end_shard(&mut self, shard: &ShardId) {
        let ended = self.granted.iter().filter(|granted| granted.shard == *shard);
        self.over.extend(ended.map(|granted| granted.token.epoch));
    }

    fn call(&mut self, worker: WorkerId, call: Call) -> Result<Answer, Refusal> {
        self.decide(Event::Call { caller: Caller { worker, secret: secret_of(worker) }, call })
    }

    fn worker(&self, index: usize) -> Option<WorkerId> {
        // The latest few: the older ones are mostly lost.
        self.workers.iter().rev().nth(index).copied()
    }

    fn register(&mut self) -> WorkerId {
        let worker = WorkerId(self.workers.len() as u64 + 1);
        let registration = Registration {
            name: worker.to_string(),
            device: "cpu".into(),
            address: format!("{worker}:1"),
            secret: secret_of(worker),
            host: String::new(),
            memory_bytes: 0,
        };
        let Ok(Answer::Registered { worker: named, .. }) = self.decide(Event::Register(registration)) else {
            panic!("a registration is refused");
        };
        assert_eq!(named, worker);
        self.workers.push(worker);
        worker
    }

    fn commit(&mut self, granted: &Granted, worker: WorkerId, digest: &str) {
        let Granted { shard, token, .. } = granted.clone();
        let was_over = self.over.contains(&token.epoch);
        let before = self.accepted.get(&shard).cloned();
        let answer = self.call(worker, Call::Commit { part: part(&shard, digest), shard: shard.clone(), token });
        match answer {
            Ok(Answer::Accepted) => {
                let repeated = before == Some((token, digest.into()));
                assert!(repeated || !was_over, "a stale epoch is refused");
                assert_eq!(self.accepted[&shard], (token, digest.into()));
            }
            Ok(Answer::Superseded { .. }) => {
                assert!(before.is_some());
                self.mark("a commit was superseded");
            }
            Ok(other) => panic!("{other:?} to a commit"),
            Err(refusal) => {
                assert_eq!(self.accepted.get(&shard).cloned(), before);
                if matches!(refusal, Refusal::StaleAttempt { .. }) {
                    self.mark("a stale commit was refused");
                }
            }
        }
    }

    fn happen(&mut self, op: &Op) {
        match *op {
            Op::Register => {
                self.register();
            }
            Op::Pass { ms } => {
                self.now_ms += ms;
                self.decide(Event::Tick { now_ms: self.now_ms }).unwrap();
            }
            Op::Heartbeat { worker } => {
                let Some(worker) = self.worker(worker) else { return };
                let own: Vec<_> = self.granted.iter().filter(|granted| granted.worker == worker).cloned().collect();
                let progress = own.iter().map(|Granted { shard, token, .. }| ShardProgress {
                    shard: shard.clone(),
                    token: *token,
                    rows_done: 1,
                });
                let progress = progress.collect();
                if let Ok(Answer::Heard { revoked, .. }) =
                    self.call(worker, Call::Heartbeat { progress, warm: BTreeSet::new() })
                {
                    let over = own.iter().filter(|granted| self.over.contains(&granted.token.epoch));
                    let over: Vec<_> = over.map(|granted| granted.shard.clone()).collect();
                    assert_eq!(revoked, over, "what is over is revoked, and nothing else");
                }
            }
            Op::Lease { worker } => {
                let Some(worker) = self.worker(worker) else { return };
                if let Ok(Answer::Work(Work::Shard { plan, token, .. })) = self.call(worker, Call::Lease) {
                    let live = self.granted.iter().any(|granted| {
                        granted.worker == worker && granted.shard == plan.shard && granted.token == token
                    });
                    assert!(live && !self.over.contains(&token.epoch), "only a live attempt is handed out");
                }
            }
            Op::Commit { attempt, by_another, digest } => {
                let Some(granted) = pick(&self.granted, attempt).cloned() else { return };
                let worker = if by_another { self.workers[0] } else { granted.worker };
                self.commit(&granted, worker, &format!("d{digest}"));
            }
            Op::Fail { attempt, permanent } => {
                let Some(Granted { worker, shard, token }) = pick(&self.granted, attempt).cloned() else { return };
                let was_over = self.over.contains(&token.epoch);
                let answer = self.call(worker, Call::Fail { shard, token, reason: "scripted".into(), permanent });
                assert!(answer.is_err() || !was_over, "the failure of a stale attempt counted");
            }
            Op::Drain { worker } => {
                let Some(worker) = self.worker(worker) else { return };
                // A lost worker's drain is refused: it has nothing left to hand back.
                let _ = self.call(worker, Call::Drain { reason: "scripted".into() });
            }
            Op::ManifestWritten => {
                self.decide(Event::ManifestWritten).unwrap();
            }
            Op::Join { worker } => {
                let Some(worker) = self.worker(worker) else { return };
                let Ok(Answer::Work(Work::World(generation))) = self.call(worker, Call::Lease) else { return };
                if let Ok(Answer::Seat(Seat::Taken { token, rank, addresses, .. })) =
                    self.call(worker, Call::JoinWorld { generation })
                {
                    assert!(!self.worlds_over.contains(&token.generation));
                    assert_eq!(addresses[rank.0 as usize], format!("{worker}:1"), "a rank finds itself in its world");
                }
            }
            Op::Steps { world, worker, step } => {
                let Some((token, worker)) = self.speaker(world, worker) else { return };
                let losses = StepLosses { step, losses: Losses::Stage2 { lm: 1.0 }, lr: 0.0, seconds: 0.0 };
                let answer = self.call(worker, Call::ReportSteps { token, losses });
                assert!(answer.is_err() || !self.worlds_over.contains(&token.generation));
                self.mark_stale(&answer);
            }
            Op::Checkpoint { world, worker, step, last } => {
                let Some((token, worker)) = self.speaker(world, worker) else { return };
                let checkpoint = Checkpoint { step, path: format!("stage1/step-{step}"), digest: "d".into() };
                // What may be accepted is checked where the record is booked.
                let answer = self.call(worker, Call::CommitCheckpoint { token, checkpoint, last });
                self.mark_stale(&answer);
            }
            Op::Leave { world, worker } => {
                let Some((token, worker)) = self.speaker(world, worker) else { return };
                let answer = self.call(worker, Call::LeaveWorld { token, reason: "scripted".into() });
                assert!(answer.is_err() || self.finished || self.worlds_over.contains(&token.generation));
            }
            Op::Restart => self.restart(),
        }
    }

    fn mark_stale(&mut self, answer: &Result<Answer, Refusal>) {
        if matches!(answer, Err(Refusal::StaleWorld { .. })) {
            self.mark("a stale step or checkpoint was refused");
        }
    }

    fn speaker(&self, world: usize, worker: usize) -> Option<(WorldToken, WorkerId)> {
        let (token, ranks) = pick(&self.worlds, world)?;
        Some((*token, ranks[worker % ranks.len()]))
    }

    /// Replays the journal into a new machine: after the start that both then see, it is the same machine.
    fn restart(&mut self) {
        let mut replayed = Machine::new(CONFIG);
        for line in &self.journal {
            replayed.absorb(&serde_json::from_str(line).unwrap());
        }
        let incarnation = self.machine.incarnation().next();
        let start = Event::Start { now_ms: self.now_ms, resume: true, incarnation, behind: false };
        for record in replayed.decide(&start).records {
            replayed.absorb(&record);
        }
        self.decide(start).unwrap();
        assert_eq!(replayed, self.machine, "replay gives an equal machine");
        self.machine = replayed;
    }

    /// A worker makes all parts that are left.
    fn mill(&mut self, worker: WorkerId) {
        for _ in 0..=SHARDS {
            if let Ok(Answer::Work(Work::Shard { plan, token, .. })) = self.call(worker, Call::Lease) {
                self.commit(&Granted { worker, shard: plan.shard, token }, worker, "d0");
            }
        }
    }

    /// Begins with stage 1.
    fn mill_everything(&mut self) {
        let worker = self.register();
        self.mill(worker);
        self.decide(Event::ManifestWritten).unwrap();
    }

    /// From wherever the history has led, healthy workers bring the run to its end.
    fn finish(&mut self) {
        self.restart();
        self.now_ms += CONFIG.lease_ms;
        self.decide(Event::Tick { now_ms: self.now_ms }).unwrap();
        // Losing everyone at once may have failed the run: it is taken up again.
        self.restart();
        let (first, second) = (self.register(), self.register());
        self.mill(first);
        if !self.finished {
            assert_eq!(self.accepted.len() + self.quarantined.len(), SHARDS, "every shard is settled");
        }
        self.decide(Event::ManifestWritten).unwrap();
        if self.accepted.is_empty() {
            assert!(matches!(self.machine.end(), Some(End::Failed { .. })), "there is nothing to train on");
            return;
        }
        while !self.finished {
            for worker in [first, second] {
                if let Ok(Answer::Work(Work::World(generation))) = self.call(worker, Call::Lease) {
                    self.call(worker, Call::JoinWorld { generation }).unwrap();
                }
            }
            let (token, ranks) = self.worlds.last().unwrap().clone();
            let checkpoint = Checkpoint { step: 10, path: "step-10".into(), digest: "d".into() };
            let answer = self.call(ranks[0], Call::CommitCheckpoint { token, checkpoint, last: true });
            assert_eq!(answer, Ok(Answer::Accepted));
        }
        assert_eq!(self.machine.end(), Some(&End::Done));
    }
}

fn pick<T>(from: &[T], index: usize) -> Option<&T> {
    // The latest few are the interesting ones.
    from.iter().rev().nth(index % from.len().max(1))
}

/// Situations that the histories must reach, or the promises would hold for want of trying.
const MARKS: [&str; 11] = [
    "lease_expired",
    "lease_returned",
    "a second attempt beside a live one",
    "a stale commit was refused",
    "a commit was superseded",
    "shard_quarantined",
    "world_broken",
    "a stale step or checkpoint was refused",
    "checkpoint_accepted",
    "stage2_started",
    "run_resumed",
];

#[test]
fn promises_hold_in_every_history() {
    let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let marks = RefCell::new(BTreeMap::<String, u32>::new());
    let outcome = runner.run(&(any::<bool>(), prop::collection::vec(op(), 1..160)), |(from_stage1, ops)| {
        let mut history = History::new();
        if from_stage1 {
            history.mill_everything();
        }
        ops.iter().for_each(|op| history.happen(op));
        history.finish();
        for mark in history.marks {
            *marks.borrow_mut().entry(mark).or_default() += 1;
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let marks = marks.into_inner();
    for mark in MARKS {
        assert!(marks.get(mark).is_some_and(|histories| *histories >= 20), "too rare: {mark} in {marks:?}");
    }
}
