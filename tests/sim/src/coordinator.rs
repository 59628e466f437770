//! The coordinator's process: the production keeper, its inbox, its clock, its chores and its deaths.

use quern_coordinator::JournalError;
use quern_coordinator::simulation::{CallError, Job, Keeper, Taken, knows_less};
use quern_machine::{
    Acceptance, Answer, Control, Event, Incarnation, Machine, Place, ShardId, ShardPlan, UnreadableFile,
};
use quern_sim_checker::{Told, Verdict};

use crate::cluster::{Ask, Cluster, Request, What};

const TICK_MS: u64 = 100;
const SHARD_ROWS: u64 = 8;
/// Few, so that most starts are over a snapshot.
const SNAPSHOT_AFTER: u64 = 100;

/// The process.
#[derive(Default)]
pub(crate) struct Coordinator {
    keeper: Option<Keeper>,
    /// Counts processes: what was meant for an earlier one is void.
    pub life: u64,
    inbox: Vec<Letter>,
    /// How far its clock is ahead.
    pub ahead_ms: u64,
    /// It dies when the next append is durable, before anyone hears.
    pub dies_after_append: bool,
    /// How long the operator wants the run to be paused.
    pub pause_until_ms: u64,
    /// Batches of acceptances that were written: by whom, and the number of the first one in each.
    batches: Vec<(Incarnation, u64)>,
    /// When the operator gives work again to those who were denied it.
    allow_at_ms: Option<u64>,
}

impl Coordinator {
    pub fn is_up(&self) -> bool {
        self.keeper.is_some()
    }
}

enum Letter {
    Request(Request),
    Tick,
    Job(Event),
    Control(Control),
}

impl Cluster {
    pub(crate) fn clock_ms(&self) -> u64 {
        1_000 + self.now_ms + self.coordinator.ahead_ms
    }

    pub(crate) fn start_coordinator(&mut self) -> Verdict {
        if self.coordinator.is_up() {
            return Ok(());
        }
        // A store lets nobody take an incarnation twice.
        let now_ms = self.clock_ms();
        let (config, last, batches) = (self.config, &mut self.output.incarnation, &self.coordinator.batches);
        let mut take = |known: &Machine| {
            *last = known.incarnation().0.max(*last) + 1;
            let incarnation = Incarnation(*last);
            let is_set_back = knows_less(known.incarnation(), known.kept_acceptances(), batches.iter().copied());
            Ok(Taken { incarnation, behind: incarnation != known.incarnation().next() || is_set_back })
        };
        self.checker.process_starts();
        let opened = self.disk.open();
        let opened = opened.and_then(|journal| Keeper::open(config, journal, SNAPSHOT_AFTER, now_ms, &mut take));
        self.coordinator.life += 1;
        self.count_disk_faults();
        let life = self.coordinator.life;
        self.log.add(self.now_ms, format_args!("coordinator {life} starts: {:?}", opened.as_ref().err().map(kind)));
        match opened {
            Ok(keeper) => {
                self.coordinator.keeper = Some(keeper);
                self.after(TICK_MS, What::Tick { life });
                self.read_journal()?;
                self.hand_out_jobs();
            }
            Err(JournalError::Damaged { reason, .. }) => {
                let is_set_back = self.disk.tape().is_set_back;
                if !is_set_back {
                    return Err(format!("the journal is damaged, and no sync has lied: {reason}"));
                }
                self.fault("SQLite: journal damaged and moved away");
                self.disk.replace();
                self.after(300, What::StartCoordinator);
            }
            Err(_) => {
                if self.disk.tape().died {
                    self.kill_disk();
                }
                self.after(300, What::StartCoordinator);
            }
        }
        Ok(())
    }

    /// The process is gone at once.
    pub(crate) fn kill_coordinator(&mut self) {
        self.kill_disk();
        self.forget_coordinator();
    }

    /// The machine's power fails.
    pub(crate) fn cut_power(&mut self) {
        if self.is_rough() {
            self.fault("SQLite: power cut");
            self.disk.kill(Some(&mut self.dice));
            self.forget_coordinator();
        }
    }

    /// The process dies with what is on its disk; of those under SQLite, each second one by a power cut.
    fn kill_disk(&mut self) {
        if self.disk.is_below_sqlite() && self.dice.per_mille(500) {
            self.fault("SQLite: power cut");
            self.disk.kill(Some(&mut self.dice));
        } else {
            self.disk.kill(None);
        }
    }

    fn forget_coordinator(&mut self) {
        self.coordinator.keeper = None;
        self.coordinator.inbox.clear();
        self.coordinator.dies_after_append = false;
        let away_ms = self.dice.between(20, 1_500);
        self.after(away_ms, What::StartCoordinator);
    }

    pub(crate) fn arrive(&mut self, request: Request) {
        self.deliver(Letter::Request(request));
    }

    pub(crate) fn tick(&mut self, life: u64) {
        if life == self.coordinator.life && self.coordinator.is_up() {
            self.deliver(Letter::Tick);
            self.after(TICK_MS, What::Tick { life });
        }
    }

    pub(crate) fn job_done(&mut self, life: u64, event: Event) {
        if life == self.coordinator.life {
            self.deliver(Letter::Job(event));
        }
    }

    /// An operator asks for something.
    pub(crate) fn operate(&mut self, control: Control) {
        if let Control::Allow { name } = &control {
            self.checker.pardon_asked(Place(name.clone()));
        }
        self.deliver(Letter::Control(control));
    }

    fn deliver(&mut self, letter: Letter) {
        if !self.coordinator.is_up() {
            return;
        }
        self.coordinator.inbox.push(letter);
        if self.coordinator.inbox.len() == 1 {
            let (in_ms, life) = (self.dice.between(0, 3), self.coordinator.life);
            self.after(in_ms, What::Turn { life });
        }
    }

    /// One turn of the production keeper over all that has arrived; the judge sees the journal, then the answers.
    pub(crate) fn turn(&mut self, life: u64) -> Verdict {
        let now_ms = self.clock_ms();
        let Some(keeper) = self.coordinator.keeper.as_mut().filter(|_| life == self.coordinator.life) else {
            return Ok(());
        };
        let letters = std::mem::take(&mut self.coordinator.inbox);
        let event = |letter: &Letter| match letter {
            Letter::Request(request) => request.ask.event(),
            Letter::Tick => Event::Tick { now_ms },
            Letter::Job(event) => event.clone(),
            Letter::Control(control) => Event::Control(control.clone()),
        };
        let batch: Vec<_> = letters.iter().map(event).collect();
        let before = self.disk.tape().records.len();
        let verdicts = keeper.turn(now_ms, &batch);
        self.count_disk_faults();
        if self.disk.tape().died {
            self.kill_coordinator();
            return Ok(());
        }
        self.read_journal()?;
        if self.coordinator.dies_after_append && self.disk.tape().records.len() > before {
            self.fault("coordinator killed between append and answers");
            self.kill_coordinator();
            return Ok(());
        }
        let took_tick = |(letter, verdict): (&Letter, &Result<_, _>)| matches!(letter, Letter::Tick) && verdict.is_ok();
        if letters.iter().zip(&verdicts).any(took_tick) {
            self.checker.ticked(now_ms)?;
        }
        for (letter, verdict) in letters.into_iter().zip(verdicts) {
            self.answer(now_ms, letter, told(verdict))?;
        }
        self.hand_out_jobs();
        self.watch();
        Ok(())
    }

    fn answer(&mut self, now_ms: u64, letter: Letter, told: Told) -> Verdict {
        match letter {
            Letter::Request(request) => {
                match &request.ask {
                    Ask::Register(registration) => self.checker.registered(registration, &told)?,
                    Ask::Call(caller, call) => self.checker.answered(now_ms, caller, call, &told)?,
                }
                self.reply(&request, told);
            }
            // A chore's result is told again until the journal has it.
            Letter::Job(event) if told == Told::Unavailable => {
                let life = self.coordinator.life;
                self.after(500, What::Job { life, event });
            }
            Letter::Job(_) | Letter::Control(_) | Letter::Tick => {}
        }
        Ok(())
    }

    fn read_journal(&mut self) -> Verdict {
        let now_ms = self.clock_ms();
        let mut tape = self.disk.tape();
        let again = std::mem::take(&mut tape.again);
        let is_set_back = again && std::mem::take(&mut tape.is_set_back);
        if is_set_back {
            self.checker.set_back(&tape.records)?;
        }
        self.checker.read(now_ms, &tape.records, again)
    }

    fn count_disk_faults(&mut self) {
        for kind in self.disk.take_struck() {
            self.fault(kind);
        }
    }

    fn hand_out_jobs(&mut self) {
        let Some(job) = self.coordinator.keeper.as_mut().and_then(Keeper::next_job) else { return };
        let event = match job {
            Job::Plan => plan(),
            // Where two speak of the same shard, the later one holds.
            Job::ReadAcceptances => {
                let files = &self.output.files;
                let is_there = |acceptance: &&Acceptance| match acceptance {
                    Acceptance::Part { part, .. } => part.files().all(|name| files.contains_key(name)),
                    Acceptance::Checkpoint { .. } => true,
                };
                let acceptances = self.output.acceptances.iter().rev().filter(is_there).cloned().collect();
                Event::AcceptancesRead { acceptances }
            }
            Job::KeepAcceptances { first, acceptances } => {
                let count = first + acceptances.len() as u64;
                self.coordinator.batches.push((Incarnation(self.output.incarnation), first));
                self.output.acceptances.extend(acceptances);
                Event::AcceptancesKept { count }
            }
            Job::WriteManifest { shards, tasks, .. } => {
                self.output.sweep(&shards);
                (self.output.manifest, self.output.tasks) = (Some(shards), tasks);
                Event::ManifestWritten
            }
        };
        let (in_ms, life) = (self.dice.between(10, 200), self.coordinator.life);
        self.log.add(self.now_ms, format_args!("a chore will be done in {in_ms} ms"));
        self.after(in_ms, What::Job { life, event });
    }

    /// The operator lets a run go on that has been paused for long enough, gives work again to who was denied it, and starts a coordinator anew whose run has
    /// failed; a failed run is taken up again so.
    fn watch(&mut self) {
        if self.checker.is_paused() && self.now_ms >= self.coordinator.pause_until_ms {
            self.operate(Control::Resume);
        }
        let denied = self.checker.denied().next().map(|place| place.0.clone());
        match (denied, self.coordinator.allow_at_ms) {
            (None, _) => self.coordinator.allow_at_ms = None,
            (Some(_), None) => self.coordinator.allow_at_ms = Some(self.now_ms + self.dice.between(500, 3_000)),
            (Some(name), Some(at_ms)) if at_ms <= self.now_ms => self.operate(Control::Allow { name }),
            (Some(_), Some(_)) => {}
        }
        if self.checker.has_failed() && self.coordinator.is_up() {
            self.log.add(self.now_ms, format_args!("the run has failed: the operator starts it again"));
            self.kill_coordinator();
        }
    }
}

/// The corpus: 25 files of 8 shards, and one that can't be read.
fn plan() -> Event {
    let shards = (0..25).flat_map(shards_of).collect();
    let unreadable = vec![UnreadableFile { shard: shard(99, 0, 0), reason: "its footer can't be read".into() }];
    Event::Planned { shards, unreadable }
}

/// What has come to the corpus: a new file, and the one that couldn't be read has been mended.
pub(crate) fn more(file: u64) -> Event {
    Event::Extended { shards: [file, 99].into_iter().flat_map(shards_of).collect(), unreadable: Vec::new() }
}

fn shards_of(file: u64) -> impl Iterator<Item = ShardPlan> {
    (0..8).map(move |k| shard(file, k * SHARD_ROWS, SHARD_ROWS))
}

fn shard(file: u64, row_start: u64, rows: u64) -> ShardPlan {
    ShardPlan {
        shard: ShardId(format!("toy-{file:04}-{row_start:04}")),
        dataset: "toy".into(),
        file: format!("{file}.parquet"),
        row_start,
        rows,
    }
}

/// Why a journal can't be used, in a word: its path, which every text names, is another one in every run.
fn kind(error: &JournalError) -> &'static str {
    match error {
        JournalError::Damaged { .. } => "damaged",
        JournalError::Full { .. } => "full",
        JournalError::Io { .. } | JournalError::Open { .. } => "broken",
        _ => "foreign",
    }
}

fn told(verdict: Result<Answer, CallError>) -> Told {
    match verdict {
        Ok(answer) => Told::Answer(answer),
        Err(CallError::Refused(refusal)) => Told::Refused(refusal),
        Err(_) => Told::Unavailable,
    }
}
