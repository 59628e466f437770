//! Workers: what the production agent says and when it says it again, without its models.
//!
//! A worker has one call of its main work under way, and one heartbeat. A call that isn't answered, or is answered
//! UNAVAILABLE, is made again; every call of the protocol may be.

use std::collections::BTreeSet;

use quern_machine::{
    Answer, Call, Caller, Checkpoint, Generation, Losses, PartSummary, Rank, Refusal, Registration, Seat, SecretDigest,
    ShardId, ShardPlan, ShardProgress, ShardToken, Stage, StepLosses, Task as RunTask, TaskResult, Warmth, Work,
    WorldToken,
};
use quern_sim_checker::{PartFile, Told};

use crate::cluster::{Ask, Cluster, HEARTBEAT_MS, MEMORY_BYTES, Request, What};
use crate::dice::Dice;

const ANSWER_MS: u64 = 300;
const FIRST_PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 800;
/// How often a call is made before the worker gives up.
const PATIENCE: u32 = 40;
const RETRY_MS: u64 = 50;
const STEP_MS: u64 = 15;
/// How often a rank looks for its peers before it leaves the world.
const PEER_PATIENCE: u32 = 20;
const CHECKPOINT_STEPS: u64 = 5;

/// Wakes a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Timer {
    /// The call may have to be made again.
    Again(u64),
    /// It is time for a heartbeat.
    Beat,
    /// The main work goes on, unless it has become another one.
    Work(u64),
}

#[derive(Debug)]
struct Pending {
    id: u64,
    ask: Ask,
    tries: u32,
    pause_ms: u64,
}

#[derive(Debug, Clone, Default)]
enum Task {
    /// Asks for work.
    #[default]
    Idle,
    Shard(ShardPlan, ShardToken),
    Joining(Generation),
    World(Place),
    /// Something is done with what was trained.
    After(RunTask, ShardToken),
}

/// A place in a running world.
#[derive(Debug, Clone)]
struct Place {
    token: WorldToken,
    rank: Rank,
    addresses: Vec<String>,
    stage: Stage,
    step: u64,
    waits: u32,
}

/// What a worker's machine is like, whatever process runs there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traits {
    memory_bytes: u64,
    /// Its device is broken: of a thousand shards, so many fail there.
    fails_per_mille: u64,
    /// Of a thousand shards, so many take a hundred times as long as others.
    slow_per_mille: u64,
}

impl Traits {
    /// Four are large enough, as many as the largest world has ranks; in every second cluster one is broken.
    pub fn draw(dice: &mut Dice, workers: usize) -> Vec<Self> {
        let broken = dice.between(0, 2 * workers as u64 - 1) as usize;
        let mut draw = |worker: usize| Traits {
            memory_bytes: if worker >= 4 && dice.per_mille(400) { MEMORY_BYTES / 2 } else { MEMORY_BYTES * 2 },
            fails_per_mille: if worker == broken { 900 } else { 25 },
            slow_per_mille: dice.between(0, 40),
        };
        (0..workers).map(&mut draw).collect()
    }
}

/// A worker, which is one process after another.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    traits: Traits,
    /// Counts processes; 0: none yet.
    process: u64,
    is_alive: bool,
    has_finished: bool,
    paused_until_ms: u64,
    /// What it sends is lost until then.
    pub mute_until_ms: u64,
    /// What is sent to it is lost until then.
    pub deaf_until_ms: u64,
    /// It was told to leave.
    pub leave: bool,
    pub caller: Option<Caller>,
    secret: String,
    main: Option<Pending>,
    heart: Option<Pending>,
    task: Task,
    /// Counts what it works on.
    work: u64,
    drained: bool,
    run_is_paused: bool,
    /// What it has its models at hand for.
    warm: BTreeSet<Warmth>,
    /// The coordinator no longer wants its shard.
    stop: bool,
    /// It was told that it is no member any more.
    lost: bool,
    generation: u64,
    /// It came back from a pause in a world: it goes on as if nothing had been.
    blind: bool,
    /// A part that it never handed in, for it was lost meanwhile.
    old: Option<(ShardId, ShardToken, PartSummary)>,
    /// The world that it led and left: its training thread may not know yet.
    old_place: Option<Place>,
}

impl Worker {
    pub fn new(traits: Traits) -> Self {
        Worker { traits, ..Worker::default() }
    }

    pub fn pause(&mut self, until_ms: u64) {
        self.paused_until_ms = until_ms;
        self.blind = true;
    }
}

impl Cluster {
    pub(crate) fn start_worker(&mut self, worker: usize) {
        let it = &mut self.workers[worker];
        if it.is_alive || it.has_finished {
            return;
        }
        *it = Worker {
            traits: it.traits,
            process: it.process + 1,
            is_alive: true,
            paused_until_ms: it.paused_until_ms,
            mute_until_ms: it.mute_until_ms,
            deaf_until_ms: it.deaf_until_ms,
            old: it.old.take(),
            ..Worker::default()
        };
        self.register(worker);
    }

    pub(crate) fn crash_worker(&mut self, worker: usize) {
        self.workers[worker].is_alive = false;
        let away_ms = self.dice.between(50, 2_000);
        self.after(away_ms, What::StartWorker { worker });
    }

    // ---- calls ----

    fn register(&mut self, worker: usize) {
        let secret = format!("secret-{}", self.dice.between(0, u64::MAX - 1));
        let it = &mut self.workers[worker];
        if let Task::Shard(plan, token) = std::mem::take(&mut it.task) {
            let part = part_of(&plan, token, worker);
            it.old = Some((plan.shard, token, part));
        }
        (it.caller, it.heart, it.lost, it.secret) = (None, None, false, secret.clone());
        let registration = Registration {
            // A new one for every process: it is known again by its host.
            name: format!("worker-{worker}-{}", it.process),
            device: "cpu".into(),
            // One of its own for every registration: the judge tells them apart by it.
            address: format!("worker-{worker}:{}:{}", it.process, it.work),
            secret: SecretDigest(secret),
            host: format!("host-{worker}"),
            memory_bytes: it.traits.memory_bytes,
        };
        self.ask(worker, Ask::Register(registration));
    }

    fn ask(&mut self, worker: usize, ask: Ask) {
        let id = self.dice.between(1, u64::MAX - 1);
        self.workers[worker].work += 1;
        self.workers[worker].main = Some(Pending { id, ask, tries: 0, pause_ms: FIRST_PAUSE_MS });
        self.try_call(worker, id);
    }

    fn call(&mut self, worker: usize, call: Call) {
        match self.workers[worker].caller.clone() {
            Some(caller) => self.ask(worker, Ask::Call(caller, call)),
            None => self.register(worker),
        }
    }

    fn try_call(&mut self, worker: usize, id: u64) {
        let it = &mut self.workers[worker];
        let process = it.process;
        let Some(pending) = it.main.iter_mut().chain(&mut it.heart).find(|pending| pending.id == id) else { return };
        pending.tries += 1;
        if pending.tries > PATIENCE {
            return self.crash_worker(worker);
        }
        let ask = pending.ask.clone();
        self.send(Request { worker, process, id, ask });
        self.after(ANSWER_MS, What::Timer { worker, process, timer: Timer::Again(id) });
    }

    /// Makes a call whose answer nobody waits for.
    fn stray(&mut self, worker: usize, caller: Caller, call: Call) {
        let process = self.workers[worker].process;
        self.send(Request { worker, process, id: 0, ask: Ask::Call(caller, call) });
    }

    pub(crate) fn hear(&mut self, worker: usize, process: u64, id: u64, told: Told) {
        let now_ms = self.now_ms;
        let it = &mut self.workers[worker];
        if it.process != process || !it.is_alive {
            return;
        }
        if it.paused_until_ms > now_ms {
            let in_ms = it.paused_until_ms - now_ms;
            return self.after(in_ms, What::Reply { worker, process, id, told });
        }
        if told == Told::Unavailable {
            if let Some(pending) = it.main.iter_mut().chain(&mut it.heart).find(|pending| pending.id == id) {
                let pause_ms = pending.pause_ms;
                pending.pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
                self.after(pause_ms, What::Timer { worker, process, timer: Timer::Again(id) });
            }
        } else if it.heart.as_ref().is_some_and(|pending| pending.id == id) {
            it.heart = None;
            self.heard(worker, told);
        } else if let Some(pending) = it.main.take_if(|pending| pending.id == id) {
            self.on_answer(worker, pending.ask, told);
        }
    }

    pub(crate) fn ring(&mut self, worker: usize, process: u64, timer: Timer) {
        let now_ms = self.now_ms;
        let it = &self.workers[worker];
        if it.process != process || !it.is_alive {
            return;
        }
        if it.paused_until_ms > now_ms {
            return self.after(it.paused_until_ms - now_ms, What::Timer { worker, process, timer });
        }
        match timer {
            Timer::Again(id) => self.try_call(worker, id),
            Timer::Beat => self.beat(worker),
            Timer::Work(work) if work == it.work && it.main.is_none() => self.go_on(worker),
            Timer::Work(_) => {}
        }
    }

    fn wake(&mut self, worker: usize, in_ms: u64) {
        let it = &mut self.workers[worker];
        it.work += 1;
        let (process, timer) = (it.process, Timer::Work(it.work));
        self.after(in_ms, What::Timer { worker, process, timer });
    }

    // ---- heartbeats ----

    fn beat(&mut self, worker: usize) {
        let it = &mut self.workers[worker];
        let Some(caller) = it.caller.clone().filter(|_| it.heart.is_none() && !it.lost) else { return };
        let progress = match &it.task {
            Task::Shard(plan, token) => {
                vec![ShardProgress { shard: plan.shard.clone(), token: *token, rows_done: plan.rows / 2 }]
            }
            _ => Vec::new(),
        };
        let warm = it.warm.clone();
        let id = self.dice.between(1, u64::MAX - 1);
        let ask = Ask::Call(caller, Call::Heartbeat { progress, warm });
        self.workers[worker].heart = Some(Pending { id, ask, tries: 0, pause_ms: FIRST_PAUSE_MS });
        self.try_call(worker, id);
    }

    fn heard(&mut self, worker: usize, told: Told) {
        let it = &mut self.workers[worker];
        let process = it.process;
        match told {
            Told::Answer(Answer::Heard { drain, pause, revoked, world }) => {
                it.drained |= drain;
                it.run_is_paused = pause;
                it.generation = world.map_or(0, |generation| generation.0);
                it.stop |= matches!(&it.task, Task::Shard(plan, _) if revoked.contains(&plan.shard));
                self.after(HEARTBEAT_MS, What::Timer { worker, process, timer: Timer::Beat });
            }
            _ => it.lost = true,
        }
    }

    // ---- the main work ----

    fn ask_for_work(&mut self, worker: usize) {
        self.tell_of_an_old_world(worker);
        let it = &mut self.workers[worker];
        (it.task, it.stop) = (Task::Idle, false);
        if it.leave || it.drained {
            self.call(worker, Call::Drain { reason: "it was told to leave".into() });
        } else if it.lost {
            self.register(worker);
        } else {
            self.call(worker, Call::Lease);
        }
    }

    fn on_answer(&mut self, worker: usize, ask: Ask, told: Told) {
        if let Told::Refused(Refusal::NotAMember(_) | Refusal::WrongSecret(_)) = told {
            return self.register(worker);
        }
        let call = match ask {
            Ask::Register(_) => return self.on_registered(worker, told),
            Ask::Call(_, call) => call,
        };
        match (call, told) {
            (Call::Lease, Told::Answer(Answer::Work(work))) => self.on_work(worker, work),
            (Call::JoinWorld { generation }, Told::Answer(Answer::Seat(seat))) => {
                self.on_seat(worker, generation, seat)
            }
            (Call::ReportSteps { .. }, Told::Answer(_)) => self.after_step(worker),
            (Call::CommitCheckpoint { last: false, .. }, Told::Answer(Answer::Accepted)) => self.wake(worker, STEP_MS),
            (Call::CommitCheckpoint { last: true, .. }, Told::Answer(Answer::Accepted)) => self.ask_for_work(worker),
            (Call::ReportSteps { .. } | Call::CommitCheckpoint { .. }, _) => self.leave_world(worker),
            (Call::Drain { .. }, _) | (Call::Lease, _) => self.crash_worker(worker),
            _ => self.ask_for_work(worker),
        }
    }

    fn on_registered(&mut self, worker: usize, told: Told) {
        let Told::Answer(Answer::Registered { worker: name, .. }) = told else { return self.crash_worker(worker) };
        let it = &mut self.workers[worker];
        let caller = Caller { worker: name, secret: SecretDigest(it.secret.clone()) };
        it.caller = Some(caller.clone());
        let old = it.old.take();
        self.beat(worker);
        // What it made before it was lost, it offers under its new name.
        if let Some((shard, token, part)) = old {
            self.stray(worker, caller, Call::Commit { shard, token, part });
        }
        self.ask_for_work(worker);
    }

    fn on_work(&mut self, worker: usize, work: Work) {
        match work {
            Work::Shard { plan, token, .. } => {
                let work_ms = self.dice.between(5, 60);
                let slow_per_mille = self.workers[worker].traits.slow_per_mille;
                let is_slow = self.is_rough() && self.dice.per_mille(slow_per_mille);
                if is_slow {
                    self.fault("slow shard");
                }
                self.workers[worker].warm = BTreeSet::from([Warmth::CapFilt]);
                self.workers[worker].task = Task::Shard(plan, token);
                self.wake(worker, if is_slow { work_ms * 100 } else { work_ms });
            }
            Work::Task { task, token, .. } => {
                let work_ms = self.dice.between(100, 2_500);
                self.workers[worker].task = Task::After(task, token);
                self.wake(worker, work_ms);
            }
            Work::World(generation) => {
                self.workers[worker].task = Task::Joining(generation);
                self.call(worker, Call::JoinWorld { generation });
            }
            Work::Wait => self.wake(worker, RETRY_MS),
            Work::Finished(finished) => {
                self.workers[worker].has_finished = finished.succeeded;
                self.crash_worker(worker);
            }
        }
    }

    fn go_on(&mut self, worker: usize) {
        let it = &mut self.workers[worker];
        match it.task.clone() {
            Task::Idle => self.ask_for_work(worker),
            Task::Joining(_) if it.leave || it.drained => self.ask_for_work(worker),
            Task::Joining(generation) => self.call(worker, Call::JoinWorld { generation }),
            Task::Shard(..) if it.stop || it.leave => self.ask_for_work(worker),
            Task::Shard(plan, token) => self.hand_in(worker, &plan, token),
            Task::World(place) => self.train(worker, place),
            Task::After(..) if it.stop || it.leave => self.ask_for_work(worker),
            Task::After(task, token) => self.finish_task(worker, task, token),
        }
    }

    /// Offers a task's result, or says why there is none; now and then an offer that must not be taken comes before.
    fn finish_task(&mut self, worker: usize, task: RunTask, token: ShardToken) {
        if self.dice.per_mille(100) {
            return self.call(worker, Call::FailTask { task, token, reason: "no memory".into() });
        }
        let digest = format!("e{}w{worker}", token.epoch);
        let result = TaskResult { path: format!("{}/{digest}", task.name()), digest, summary: "as expected".into() };
        if let Some(mut caller) = self.workers[worker].caller.clone().filter(|_| self.dice.per_mille(300)) {
            self.fault("forged result");
            let (mut token, mut result) = (token, result.clone());
            match self.dice.between(0, 3) {
                0 => token.incarnation.0 += 1,
                1 => token.epoch.0 = token.epoch.0.saturating_sub(1),
                2 => caller.secret = SecretDigest("a guess".into()),
                _ => result.digest.push('x'),
            }
            self.stray(worker, caller, Call::CommitTask { task, token, result });
        }
        self.call(worker, Call::CommitTask { task, token, result });
    }

    /// Uploads a part and offers it, or says why there is none. Now and then an offer under a false token, or by
    /// somebody who doesn't know the secret, comes before.
    fn hand_in(&mut self, worker: usize, plan: &ShardPlan, token: ShardToken) {
        let shard = plan.shard.clone();
        let fails_per_mille = self.workers[worker].traits.fails_per_mille;
        if self.dice.per_mille(fails_per_mille) {
            let is_broken = fails_per_mille > 500;
            if is_broken {
                self.fault("broken device");
            }
            let permanent = !is_broken && self.dice.per_mille(200);
            return self.call(worker, Call::Fail { shard, token, reason: "it can't be read".into(), permanent });
        }
        let part = part_of(plan, token, worker);
        let rows: Vec<_> = (plan.row_start..plan.row_start + plan.rows).collect();
        let (good, bad) = rows.split_at(part.kept as usize);
        for (name, rows) in [(&part.data, good), (&part.quarantine, bad)] {
            if let Some(name) = name {
                let file = PartFile { shard: shard.clone(), rows: rows.to_vec() };
                self.output.files.insert(name.clone(), file);
            }
        }
        if self.is_rough() && self.dice.per_mille(40) {
            self.forge(worker, &shard, token, &part);
        }
        self.call(worker, Call::Commit { shard, token, part });
    }

    fn forge(&mut self, worker: usize, shard: &ShardId, token: ShardToken, part: &PartSummary) {
        let Some(mut caller) = self.workers[worker].caller.clone() else { return };
        let (mut token, mut part) = (token, part.clone());
        match self.dice.between(0, 3) {
            0 => token.incarnation.0 += 1,
            1 => token.epoch.0 = token.epoch.0.saturating_sub(1),
            2 => caller.secret = SecretDigest("a guess".into()),
            _ => part.digest.push('x'),
        }
        self.fault("forged offer");
        // Another part under the true token may be taken: then its files must be there.
        for name in [&mut part.data, &mut part.quarantine].into_iter().flatten() {
            if let Some(file) = self.output.files.get(name).cloned() {
                *name = name.replace(".parquet", "x.parquet");
                self.output.files.insert(name.clone(), file);
            }
        }
        self.stray(worker, caller, Call::Commit { shard: shard.clone(), token, part });
    }

    // ---- training ----

    fn on_seat(&mut self, worker: usize, generation: Generation, seat: Seat) {
        match seat {
            Seat::Taken { token, rank, addresses, stage, checkpoint, .. } => {
                let step = checkpoint.map_or(0, |checkpoint| checkpoint.step);
                let place = Place { token, rank, addresses, stage, step, waits: 0 };
                self.workers[worker].task = Task::World(place);
                self.workers[worker].blind = false;
                self.workers[worker].warm = BTreeSet::from([Warmth::of(stage)]);
                self.wake(worker, STEP_MS);
            }
            Seat::Wait => {
                self.workers[worker].task = Task::Joining(generation);
                self.wake(worker, RETRY_MS);
            }
            Seat::Finished(_) => self.ask_for_work(worker),
        }
    }

    /// A step needs all ranks; rank 0 tells of it.
    fn train(&mut self, worker: usize, mut place: Place) {
        let blind = std::mem::take(&mut self.workers[worker].blind);
        let it = &self.workers[worker];
        if !blind && (it.leave || it.drained || it.run_is_paused || it.lost || it.generation > place.token.generation.0)
        {
            return self.leave_world(worker);
        }
        if !blind && !self.all_ranks_are_here(&place) {
            place.waits += 1;
            if place.waits > PEER_PATIENCE {
                return self.leave_world(worker);
            }
            self.workers[worker].task = Task::World(place);
            return self.wake(worker, STEP_MS * 2);
        }
        place.waits = 0;
        if place.rank != Rank(0) {
            self.workers[worker].task = Task::World(place);
            return self.wake(worker, STEP_MS * 2);
        }
        place.step += 1;
        let (step, token, stage) = (place.step, place.token, place.stage);
        self.workers[worker].task = Task::World(place);
        if blind {
            // It was away and doesn't know: what it had in hand is a checkpoint.
            return self.offer_checkpoint(worker);
        }
        let losses = losses_of(stage, step);
        self.call(worker, Call::ReportSteps { token, losses });
    }

    fn after_step(&mut self, worker: usize) {
        let Task::World(place) = &self.workers[worker].task else { return self.ask_for_work(worker) };
        let last = self.steps_of(place.stage) == place.step;
        if last || place.step.is_multiple_of(CHECKPOINT_STEPS) {
            self.offer_checkpoint(worker)
        } else {
            self.wake(worker, STEP_MS)
        }
    }

    fn offer_checkpoint(&mut self, worker: usize) {
        let it = &self.workers[worker];
        let Task::World(place) = it.task.clone() else { return self.ask_for_work(worker) };
        let checkpoint = checkpoint_of(&place, it.process);
        let last = self.steps_of(place.stage) <= place.step;
        self.call(worker, Call::CommitCheckpoint { token: place.token, checkpoint, last });
    }

    /// A step and a checkpoint of a world that is over, from a thread that hasn't heard of it.
    fn tell_of_an_old_world(&mut self, worker: usize) {
        let it = &mut self.workers[worker];
        let (Some(mut place), Some(caller)) = (it.old_place.take(), it.caller.clone()) else { return };
        let process = it.process;
        if !self.is_rough() {
            return;
        }
        self.fault("old world's offers");
        place.step += 1;
        let token = place.token;
        let losses = losses_of(place.stage, place.step);
        self.stray(worker, caller.clone(), Call::ReportSteps { token, losses });
        let checkpoint = checkpoint_of(&place, process);
        self.stray(worker, caller, Call::CommitCheckpoint { token, checkpoint, last: false });
    }

    fn steps_of(&self, stage: Stage) -> u64 {
        self.config.stage(stage).map_or(0, |stage| stage.steps)
    }

    fn all_ranks_are_here(&self, place: &Place) -> bool {
        let here = |it: &Worker| {
            let awake = it.is_alive && it.paused_until_ms <= self.now_ms;
            awake && matches!(&it.task, Task::World(other) if other.token == place.token)
        };
        self.workers.iter().filter(|it| here(it)).count() == place.addresses.len()
    }

    fn leave_world(&mut self, worker: usize) {
        match self.workers[worker].task.clone() {
            Task::World(place) if !self.workers[worker].leave => {
                self.workers[worker].old_place = (place.rank == Rank(0)).then(|| place.clone());
                self.call(worker, Call::LeaveWorld { token: place.token, reason: "a peer is lost".into() });
            }
            _ => self.ask_for_work(worker),
        }
    }
}

fn losses_of(stage: Stage, step: u64) -> StepLosses {
    let losses = match stage {
        Stage::One => Losses::Stage1 { itc: 1.0, itg: 2.0, itm: 0.5 },
        Stage::Two => Losses::Stage2 { lm: 3.0 },
    };
    StepLosses { step, losses, lr: 1e-4, seconds: 0.015 }
}

fn checkpoint_of(place: &Place, process: u64) -> Checkpoint {
    let path = format!("{}/step-{:06}", place.stage.name(), place.step);
    Checkpoint { step: place.step, path, digest: format!("g{}p{process}", place.token.generation) }
}

/// What a shard becomes: its last row can't be read when the shard begins at row 0.
fn part_of(plan: &ShardPlan, token: ShardToken, worker: usize) -> PartSummary {
    let quarantined = u64::from(plan.row_start == 0).min(plan.rows);
    let kept = plan.rows - quarantined;
    let digest = format!("e{}w{worker}", token.epoch);
    let name = |folder: &str, rows: u64| (rows > 0).then(|| format!("{folder}/{}-{digest}.parquet", plan.shard));
    PartSummary {
        data: name("data", kept),
        quarantine: name("quarantine", quarantined),
        rows: plan.rows,
        kept,
        passed: 0,
        quarantined,
        bytes: plan.rows * 100,
        digest,
        reasons: (quarantined > 0).then(|| ("read/image_missing".into(), quarantined)).into_iter().collect(),
    }
}
