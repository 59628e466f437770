//! The scheduler, its virtual time, and the network between workers and coordinator.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use quern_machine::{Call, Caller, Config, Event, MemoryNeeds, Registration, StageConfig};
use quern_sim_checker::{Checker, Output, Terms, Told, Verdict};

use crate::coordinator::Coordinator;
use crate::dice::Dice;
use crate::disk::Disk;
use crate::log::Log;
use crate::worker::{Timer, Traits, Worker};
use crate::{Options, Report};

pub(crate) const LEASE_MS: u64 = 1_000;
pub(crate) const HEARTBEAT_MS: u64 = 250;
/// Faults stop here, if the run is not over by then.
pub(crate) const QUIET_MS: u64 = 20_000;
/// From then on the run must be over within this time.
pub(crate) const BOUND_MS: u64 = 30_000;
/// Device memory that every phase asks for.
pub(crate) const MEMORY_BYTES: u64 = 8 << 30;
/// Failures in a row after which a place gets no work.
pub(crate) const WORKER_FAILURES: u32 = 3;
/// What follows the end: late answers, and workers that hear of it.
const EPILOGUE_MS: u64 = 1_000;

/// What a worker asks.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Register(Registration),
    Call(Caller, Call),
}

impl Ask {
    pub fn event(&self) -> Event {
        match self {
            Ask::Register(registration) => Event::Register(registration.clone()),
            Ask::Call(caller, call) => Event::Call { caller: caller.clone(), call: call.clone() },
        }
    }
}

/// A request on its way.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub worker: usize,
    pub process: u64,
    pub id: u64,
    pub ask: Ask,
}

/// What is to happen.
#[derive(Debug)]
pub(crate) enum What {
    Arrive(Request),
    Turn { life: u64 },
    Tick { life: u64 },
    Job { life: u64, event: Event },
    StartCoordinator,
    Reply { worker: usize, process: u64, id: u64, told: Told },
    Timer { worker: usize, process: u64, timer: Timer },
    StartWorker { worker: usize },
    Fault,
    DiskHeals,
    PowerCut,
}

struct Scheduled {
    at_ms: u64,
    seq: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.seq).cmp(&(other.at_ms, other.seq))
    }
}

/// Everything.
pub(crate) struct Cluster {
    pub now_ms: u64,
    pub dice: Dice,
    pub log: Log,
    pub config: Config,
    pub checker: Checker,
    pub output: Output,
    pub disk: Disk,
    pub coordinator: Coordinator,
    pub workers: Vec<Worker>,
    pub faults: BTreeMap<&'static str, u64>,
    events: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
}

/// Runs a seed to its end or to the first broken promise.
pub fn run(options: Options) -> Report {
    let mut dice = Dice::new(options.seed);
    let workers = dice.between(5, 8) as usize;
    let mut stage = || StageConfig { ranks: dice.between(2, 4) as u32, steps: dice.between(20, 60) };
    let (stage1, second) = (stage(), stage());
    let stage2 = dice.per_mille(400).then_some(second);
    let memory = MemoryNeeds { capfilt_bytes: MEMORY_BYTES, stage1_bytes: MEMORY_BYTES, stage2_bytes: MEMORY_BYTES };
    let worker_failures = WORKER_FAILURES;
    let (evaluate, export) = (dice.per_mille(600), dice.per_mille(600));
    let config =
        Config { evaluate, export, worker_failures, memory, stage1: Some(stage1), stage2, ..Config::new(LEASE_MS, 5) };
    let ranks = [stage1.ranks as usize, stage2.map_or(0, |stage| stage.ranks as usize)];
    let workers = Traits::draw(&mut dice, workers).into_iter().map(Worker::new).collect();
    let terms = Terms {
        lease_ms: LEASE_MS,
        ranks,
        worker_failures: WORKER_FAILURES as usize,
        memory_bytes: MEMORY_BYTES,
        tasks: [evaluate, export],
    };
    let mut cluster = Cluster {
        now_ms: 0,
        dice,
        log: Log::new(options.trace),
        config,
        checker: Checker::new(terms),
        output: Output::default(),
        disk: Disk::new(options.sqlite),
        coordinator: Coordinator::default(),
        workers,
        faults: BTreeMap::new(),
        events: 0,
        queue: BinaryHeap::new(),
        seq: 0,
    };
    let verdict = catch_unwind(AssertUnwindSafe(|| cluster.live()));
    let verdict = verdict.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("a panic: {}", text.unwrap_or_else(|| "its message is in the standard error".into())))
    });
    Report {
        seed: options.seed,
        sqlite: options.sqlite,
        events: cluster.events,
        digest: cluster.log.digest(),
        violation: verdict.err(),
        virtual_ms: cluster.now_ms,
        marks: cluster.checker.marks().clone(),
        faults: cluster.faults,
    }
}

impl Cluster {
    fn live(&mut self) -> Verdict {
        self.after(0, What::StartCoordinator);
        for worker in 0..self.workers.len() {
            self.after(10, What::StartWorker { worker });
        }
        self.after(300, What::Fault);
        let mut done_ms = None;
        while let Some(Reverse(Scheduled { at_ms, what, .. })) = self.queue.pop() {
            self.now_ms = at_ms;
            self.events += 1;
            if let Err(what) = self.happen(what) {
                self.log.add(self.now_ms, format_args!("violation: {what}"));
                return Err(what);
            }
            // A journal that is set back may not know of the end any more.
            done_ms = if self.checker.is_done() { done_ms.or(Some(at_ms)) } else { None };
            match done_ms {
                Some(done_ms) if at_ms > done_ms + EPILOGUE_MS => break,
                None if at_ms > QUIET_MS + BOUND_MS => {
                    return Err(format!("the run is not over {BOUND_MS} ms after the last fault"));
                }
                _ => {}
            }
        }
        if done_ms.is_some() { self.checker.files(&self.output) } else { Err("the run stands still".into()) }
    }

    fn happen(&mut self, what: What) -> Verdict {
        match what {
            What::Arrive(request) => self.arrive(request),
            What::Turn { life } => return self.turn(life),
            What::Tick { life } => self.tick(life),
            What::Job { life, event } => self.job_done(life, event),
            What::StartCoordinator => return self.start_coordinator(),
            What::Reply { worker, process, id, told } => self.hear(worker, process, id, told),
            What::Timer { worker, process, timer } => self.ring(worker, process, timer),
            What::StartWorker { worker } => self.start_worker(worker),
            What::Fault => self.next_fault(),
            What::DiskHeals => self.disk_heals(),
            What::PowerCut => self.cut_power(),
        }
        Ok(())
    }

    /// Lets something happen later.
    pub fn after(&mut self, in_ms: u64, what: What) {
        self.seq += 1;
        self.queue.push(Reverse(Scheduled { at_ms: self.now_ms + in_ms, seq: self.seq, what }));
    }

    /// Whether faults may happen.
    pub fn is_rough(&self) -> bool {
        self.now_ms < QUIET_MS
    }

    /// Counts a fault.
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
        self.log.add(self.now_ms, format_args!("fault: {kind}"));
    }

    /// A worker's request goes into the network.
    pub fn send(&mut self, request: Request) {
        match &request.ask {
            Ask::Register(registration) => self.checker.registering(registration),
            Ask::Call(caller, call) => self.checker.calling(caller, call),
        }
        self.log.add(self.now_ms, format_args!("{} asks {} {:?}", request.worker, request.id, request.ask));
        let cut = self.workers[request.worker].mute_until_ms > self.now_ms;
        for delay_ms in self.fates(cut) {
            self.after(delay_ms, What::Arrive(request.clone()));
        }
    }

    /// An answer goes into the network.
    pub fn reply(&mut self, request: &Request, told: Told) {
        let Request { worker, process, id, .. } = *request;
        self.log.add(self.now_ms, format_args!("{worker} is answered {id} {told:?}"));
        let cut = self.workers[worker].deaf_until_ms > self.now_ms;
        for delay_ms in self.fates(cut) {
            self.after(delay_ms, What::Reply { worker, process, id, told: told.clone() });
        }
    }

    /// How often, and after how long, a message arrives. Delays differ, so messages overtake each other.
    fn fates(&mut self, cut: bool) -> Vec<u64> {
        let usual_ms = self.dice.between(1, 8);
        if !self.is_rough() {
            return vec![usual_ms];
        }
        if cut {
            self.fault("message cut off");
            return Vec::new();
        }
        match self.dice.between(0, 99) {
            0..2 => {
                self.fault("message lost");
                Vec::new()
            }
            2..5 => {
                self.fault("message doubled");
                vec![usual_ms, self.dice.between(1, 2 * LEASE_MS)]
            }
            5..8 => {
                self.fault("message delayed");
                vec![self.dice.between(10, 2 * LEASE_MS)]
            }
            _ => vec![usual_ms],
        }
    }
}
