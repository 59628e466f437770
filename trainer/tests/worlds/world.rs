//! Worlds of threads that train a course.

use std::thread;
use std::time::Duration;

use quern_collective::{Collective, local_world};
use quern_corpus::order::{SampleOrder, slice};
use quern_corpus::store::{self, Folder};
use quern_trainer::checkpoint::{self, Identity, Saved};
use quern_trainer::optimiser::AdamWOptions;
use quern_trainer::training::{Batches, Control, Flow, Outcome, Plan, Stage, StageLosses, StepReport, Trainee, train};
use quern_trainer::{Refused, TrainError};
use tch::{Device, Tensor};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Not a multiple of 3, nor of 4 times anything but 4: the ranks' slices differ.
pub const BATCH: u32 = 14;
/// Steps of a course.
pub const STEPS: u64 = 20;
/// Fewer rows than two batches: batches straddle epochs, so some hold a row twice.
const ROWS: u64 = 24;
/// Seed of everything.
pub const SEED: u64 = 41;
const DEADLINE: Duration = Duration::from_secs(60);

/// What is trained on what: a corpus in memory, each of whose rows follows from its number.
pub trait Course: Sync {
    /// The stage.
    type Stage: Stage;

    /// The stage before its first step.
    fn begin(&self) -> Self::Stage;
    /// The stage with a checkpoint's weights.
    fn taken_up(&self, saved: &Saved, runtime: &Runtime) -> Result<Self::Stage, TrainError>;
    /// The loop's plan.
    fn plan(&self) -> Plan;
    /// These rows as a batch; `epoch` is that of each.
    fn batch(&self, rows: &[u64], epochs: &[u64]) -> <Self::Stage as Stage>::Batch;
}

/// The production order over a course's rows.
struct InMemory<'a, C> {
    course: &'a C,
    order: SampleOrder,
    rank: usize,
    ranks: usize,
}

impl<C: Course> Batches<<C::Stage as Stage>::Batch> for InMemory<'_, C> {
    fn next(&mut self, step: u64) -> Result<<C::Stage as Stage>::Batch, TrainError> {
        let global = self.order.batch(step, BATCH);
        let own = &global[slice(global.len(), self.rank, self.ranks)];
        let rows: Vec<u64> = own.iter().map(|sample| sample.shard as u64 * 1_000 + sample.ordinal).collect();
        let epochs: Vec<u64> = own.iter().map(|sample| sample.epoch).collect();
        Ok(self.course.batch(&rows, &epochs))
    }
}

/// Records every loss; asks for a stop after the step it is told.
pub struct Watch {
    /// Each step's losses.
    pub losses: Vec<Vec<f64>>,
    stop_after: Option<u64>,
    /// Checkpoints that rank 0 was to offer: step, path, whether it is the last.
    pub offers: Vec<(u64, String, bool)>,
}

impl Control for Watch {
    fn steps(&mut self, report: &StepReport) -> Result<Flow, Refused> {
        self.losses.push(match report.losses {
            StageLosses::Stage1(losses) => vec![losses.itc, losses.itg, losses.itm],
            StageLosses::Stage2 { lm } => vec![lm],
        });
        Ok(if self.stop_after == Some(report.step) { Flow::Stop } else { Flow::Continue })
    }

    fn checkpoint(&mut self, step: u64, path: &str, _digest: &str, last: bool) -> Result<(), Refused> {
        self.offers.push((step, path.to_string(), last));
        Ok(())
    }
}

/// How it went for one rank.
pub struct Rank {
    /// What was seen.
    pub watch: Watch,
    /// How it ended.
    pub outcome: Outcome,
    /// Every parameter in the end.
    pub weights: Vec<Tensor>,
}

/// Trains on `ranks` ranks into `output`, from `resume` if given; rank 0 asks for a stop after step `stop_after`.
pub fn world(
    course: &impl Course,
    ranks: usize,
    output: &TempDir,
    resume: Option<&str>,
    stop_after: Option<u64>,
) -> Vec<Rank> {
    tch::set_num_threads(1);
    let folder = opened(output);
    let members = local_world(ranks, DEADLINE).expect("a world on loopback");
    thread::scope(|scope| {
        let running: Vec<_> = (members.into_iter())
            .map(|collective| {
                let folder = folder.clone();
                scope.spawn(move || {
                    let rank = member(course, &collective, &folder, resume, stop_after);
                    if rank.is_err() {
                        collective.abort();
                    }
                    rank
                })
            })
            .collect();
        running.into_iter().map(|rank| rank.join().expect("no panic").expect("no error")).collect()
    })
}

fn member<C: Course>(
    course: &C,
    collective: &dyn Collective,
    output: &Folder,
    resume: Option<&str>,
    stop_after: Option<u64>,
) -> Result<Rank, TrainError> {
    let runtime = runtime();
    let plan = course.plan();
    let options = AdamWOptions::from(&plan.optimiser);
    let mut trainee = match resume {
        None => Trainee::new(course.begin(), options),
        Some(path) => resumed(course, output, path, &plan.identity, &runtime)?,
    };
    let order = SampleOrder::new(vec![ROWS / 2, ROWS / 2], SEED);
    let mut batches = InMemory { course, order, rank: collective.rank(), ranks: collective.size() };
    let stop_after = stop_after.filter(|_| collective.rank() == 0);
    let mut watch = Watch { losses: Vec::new(), stop_after, offers: Vec::new() };
    let outcome = train(&mut trainee, &mut batches, collective, &plan, output, &runtime, &mut watch)?;
    let weights = trainee.stage.parameters().iter().map(|(_, tensor)| tensor.detach().copy()).collect();
    Ok(Rank { watch, outcome, weights })
}

fn resumed<C: Course>(
    course: &C,
    output: &Folder,
    path: &str,
    identity: &Identity,
    runtime: &Runtime,
) -> Result<Trainee<C::Stage>, TrainError> {
    let saved = runtime.block_on(checkpoint::open(output, path))?;
    saved.must_be_of(identity)?;
    let options = AdamWOptions::from(&course.plan().optimiser);
    runtime.block_on(saved.resume(course.taken_up(&saved, runtime)?, options, Device::Cpu))
}

/// What is said when the checkpoint at `path` is resumed as the run `identity`; it must be refused.
pub fn refusal(course: &impl Course, output: &TempDir, path: &str, identity: &Identity) -> String {
    resumed(course, &opened(output), path, identity, &runtime()).err().expect("refused").to_string()
}

fn opened(output: &TempDir) -> Folder {
    store::open(output.path().to_str().expect("a UTF-8 path")).expect("a local folder")
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// An output.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The same losses, to a ten-thousandth.
pub fn assert_close(expected: &[Vec<f64>], actual: &[Vec<f64>], what: &str) {
    assert_eq!(expected.len(), actual.len(), "{what}: steps");
    for (step, (expected, actual)) in expected.iter().zip(actual).enumerate() {
        for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
            let error = (expected - actual).abs() / expected.abs();
            assert!(error <= 1e-4, "{what}, step {step}: loss {index} is {actual}, not {expected} ({error:.1e} off)");
        }
    }
}

/// The course learns something, and the same on 1 to 4 ranks.
pub fn worlds_agree(course: &impl Course, what: &str) {
    let alone = world(course, 1, &folder(), None, None).remove(0);
    let losses = &alone.watch.losses;
    assert_eq!(losses.len(), STEPS as usize);
    let total = |losses: &[f64]| losses.iter().sum::<f64>();
    let (first, last) = (total(&losses[0]), total(&losses[losses.len() - 1]));
    assert!(last < 0.9 * first, "it learns something, or agreement would mean little: {first} to {last}");
    for ranks in 2..=4 {
        let world = world(course, ranks, &folder(), None, None);
        for (rank, member) in world.iter().enumerate() {
            let what = format!("{what}, {ranks} ranks, rank {rank}");
            assert_close(losses, &member.watch.losses, &what);
            assert_eq!(member.watch.losses, world[0].watch.losses, "{what}: the same bits on every rank");
            for (ours, first) in member.weights.iter().zip(&world[0].weights) {
                assert!(ours.equal(first), "{what}: the same weights on every rank");
            }
        }
    }
}

/// What follows the checkpoint in mid-course is the same, bit by bit, when it is resumed there.
pub fn resumes_exactly(course: &impl Course, folder_of_stage: &str) {
    let output = folder();
    let whole = world(course, 2, &output, None, None);
    let offers = &whole[0].watch.offers;
    let path = |step| format!("{folder_of_stage}/step-{step:06}");
    assert_eq!(*offers, [(10, path(10), false), (20, path(20), true)]);
    assert!(whole[1].watch.offers.is_empty(), "rank 0 alone writes checkpoints");
    let resumed = world(course, 2, &output, Some(&offers[0].1), None);
    assert_eq!(resumed[0].watch.losses, whole[0].watch.losses[10..]);
    for (resumed, whole) in resumed[0].weights.iter().zip(&whole[0].weights) {
        assert!(resumed.equal(whole));
    }
}
