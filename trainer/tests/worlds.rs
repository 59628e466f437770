//! The production train loop over TCP: the same losses on 1, 2, 3 and 4 ranks, after a resume, and after a stop.

use std::thread;
use std::time::Duration;

use quern_collective::{Collective, local_world};
use quern_corpus::order::{SampleOrder, slice};
use quern_corpus::store::{self, Folder};
use quern_models::qformer::{QFormer, QFormerConfig};
use quern_recipes::Optimiser;
use quern_trainer::checkpoint::{self, Identity, Trainee};
use quern_trainer::optimiser::AdamWOptions;
use quern_trainer::stage1::{Batches, Control, Flow, Outcome, Plan, StepReport, train};
use quern_trainer::step::Batch;
use quern_trainer::{Refused, TrainError};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Not a multiple of 3, nor of 4 times anything but 4: the ranks' slices differ.
const BATCH: u32 = 14;
const STEPS: u64 = 20;
/// Fewer rows than two batches: batches straddle epochs, so some hold a row twice.
const ROWS: u64 = 24;
const SEED: u64 = 41;
const VOCABULARY: i64 = 30;
const TEXT_LENGTH: i64 = 8;
const WIDTH: i64 = 12;
const DEADLINE: Duration = Duration::from_secs(60);

fn config(dropout: f64) -> QFormerConfig {
    QFormerConfig {
        vocab_size: VOCABULARY,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: TEXT_LENGTH,
        layer_norm_eps: 1e-12,
        initializer_range: 0.02,
        hidden_dropout_prob: dropout,
        attention_probs_dropout_prob: dropout,
        cross_attention_freq: 2,
        encoder_width: WIDTH,
        num_query_token: 4,
        embed_dim: 16,
        pad_token_id: 0,
        ln_vision_eps: QFormerConfig::LN_VISION_EPS,
    }
}

fn plan(steps: u64) -> Plan {
    Plan {
        semantics: quern_recipes::Semantics::Exact.into(),
        steps,
        checkpoint_every: 10,
        optimiser: Optimiser { peak_lr: 5e-3, warmup_steps: 5, ..Optimiser::default() },
        identity: Identity { seed: SEED, batch: BATCH, recipe_hash: "of a test".into(), decoder_start: VOCABULARY - 1 },
    }
}

/// A corpus in memory, in the production order: each row's features and text follow from its number.
struct InMemory {
    order: SampleOrder,
    rank: usize,
    ranks: usize,
}

impl Batches for InMemory {
    fn next(&mut self, step: u64) -> Result<Batch, TrainError> {
        let global = self.order.batch(step, BATCH);
        let rows: Vec<u64> = global[slice(global.len(), self.rank, self.ranks)]
            .iter()
            .map(|sample| sample.shard as u64 * 1_000 + sample.ordinal)
            .collect();
        let (features, texts): (Vec<Tensor>, Vec<Tensor>) = rows.iter().map(|&row| (image(row), text(row))).unzip();
        let ids = Tensor::stack(&texts, 0);
        Ok(Batch { features: Tensor::stack(&features, 0), mask: ids.ne(0).to_kind(Kind::Int64), ids, rows })
    }
}

fn image(row: u64) -> Tensor {
    let values: Vec<f32> = (0..5 * WIDTH as u64).map(|index| ((row * 37 + index * 11) as f32 * 0.73).sin()).collect();
    Tensor::from_slice(&values).view([5, WIDTH])
}

fn text(row: u64) -> Tensor {
    let words = 2 + row as i64 % 4;
    let mut ids = vec![0i64; TEXT_LENGTH as usize];
    ids[0] = 1;
    for word in 0..words {
        ids[1 + word as usize] = 3 + (row as i64 * 7 + word * 5) % (VOCABULARY - 4);
    }
    ids[1 + words as usize] = 2;
    Tensor::from_slice(&ids)
}

/// Records every loss; asks for a stop after the step it is told.
struct Watch {
    losses: Vec<[f64; 3]>,
    stop_after: Option<u64>,
    offers: Vec<(u64, String, bool)>,
}

impl Control for Watch {
    fn steps(&mut self, report: &StepReport) -> Result<Flow, Refused> {
        self.losses.push([report.losses.itc, report.losses.itg, report.losses.itm]);
        Ok(if self.stop_after == Some(report.step) { Flow::Stop } else { Flow::Continue })
    }

    fn checkpoint(&mut self, step: u64, path: &str, _digest: &str, last: bool) -> Result<(), Refused> {
        self.offers.push((step, path.to_string(), last));
        Ok(())
    }
}

struct Rank {
    watch: Watch,
    outcome: Outcome,
    weights: Vec<Tensor>,
}

/// Trains on `ranks` ranks into `output`, from `resume` if given; rank 0 asks for a stop after step `stop_after`.
fn world(ranks: usize, dropout: f64, output: &TempDir, resume: Option<&str>, stop_after: Option<u64>) -> Vec<Rank> {
    tch::set_num_threads(1);
    let folder = store::open(output.path().to_str().expect("a UTF-8 path")).expect("a local folder");
    let members = local_world(ranks, DEADLINE).expect("a world on loopback");
    thread::scope(|scope| {
        let running: Vec<_> = (members.into_iter())
            .map(|collective| {
                let folder = folder.clone();
                scope.spawn(move || {
                    let rank = member(&collective, dropout, &folder, resume, stop_after);
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

fn member(
    collective: &dyn Collective,
    dropout: f64,
    output: &Folder,
    resume: Option<&str>,
    stop_after: Option<u64>,
) -> Result<Rank, TrainError> {
    let runtime = runtime();
    let (plan, config) = (plan(STEPS), config(dropout));
    let options = AdamWOptions::from(&plan.optimiser);
    let mut trainee = match resume {
        None => Trainee::new(QFormer::init(&config, SEED, Device::Cpu)?, options),
        Some(path) => {
            runtime.block_on(checkpoint::resume(output, path, &plan.identity, &config, options, Device::Cpu))?
        }
    };
    let order = SampleOrder::new(vec![ROWS / 2, ROWS / 2], SEED);
    let mut batches = InMemory { order, rank: collective.rank(), ranks: collective.size() };
    let stop_after = stop_after.filter(|_| collective.rank() == 0);
    let mut watch = Watch { losses: Vec::new(), stop_after, offers: Vec::new() };
    let outcome = train(&mut trainee, &mut batches, collective, &plan, output, &runtime, &mut watch)?;
    let weights = trainee.model.parameters().iter().map(|(_, tensor)| tensor.detach().copy()).collect();
    Ok(Rank { watch, outcome, weights })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn assert_close(expected: &[[f64; 3]], actual: &[[f64; 3]], what: &str) {
    assert_eq!(expected.len(), actual.len(), "{what}: steps");
    for (step, (expected, actual)) in expected.iter().zip(actual).enumerate() {
        for (name, (expected, actual)) in ["itc", "itg", "itm"].iter().zip(expected.iter().zip(actual)) {
            let error = (expected - actual).abs() / expected.abs();
            assert!(error <= 1e-4, "{what}, step {step}: {name} is {actual}, not {expected} ({error:.1e} off)");
        }
    }
}

fn worlds_agree(dropout: f64) {
    let alone = world(1, dropout, &folder(), None, None).remove(0);
    let losses = &alone.watch.losses;
    assert_eq!(losses.len(), STEPS as usize);
    let total = |losses: &[f64; 3]| losses.iter().sum::<f64>();
    let (first, last) = (total(&losses[0]), total(&losses[losses.len() - 1]));
    assert!(last < 0.9 * first, "it learns something, or agreement would mean little: {first} to {last}");
    for ranks in 2..=4 {
        let world = world(ranks, dropout, &folder(), None, None);
        for (rank, member) in world.iter().enumerate() {
            let what = format!("{ranks} ranks, dropout {dropout}, rank {rank}");
            assert_close(losses, &member.watch.losses, &what);
            assert_eq!(member.watch.losses, world[0].watch.losses, "{what}: the same bits on every rank");
            for (ours, first) in member.weights.iter().zip(&world[0].weights) {
                assert!(ours.equal(first), "{what}: the same weights on every rank");
            }
        }
    }
}

#[test]
fn losses_do_not_depend_on_the_number_of_ranks() {
    worlds_agree(0.0);
}

#[test]
fn nor_do_they_with_dropout() {
    worlds_agree(0.1);
}

#[test]
fn dropout_drops_something() {
    let (with, without) = (world(1, 0.1, &folder(), None, None), world(1, 0.0, &folder(), None, None));
    assert_ne!(with[0].watch.losses[0], without[0].watch.losses[0]);
}

#[test]
fn a_resumed_run_repeats_the_uninterrupted_one_bit_by_bit() {
    let output = folder();
    let whole = world(2, 0.1, &output, None, None);
    let offers = &whole[0].watch.offers;
    assert_eq!(*offers, [(10, "stage1/step-000010".into(), false), (20, "stage1/step-000020".into(), true)]);
    assert!(whole[1].watch.offers.is_empty(), "rank 0 alone writes checkpoints");
    let resumed = world(2, 0.1, &output, Some(&offers[0].1), None);
    assert_eq!(resumed[0].watch.losses, whole[0].watch.losses[10..]);
    for (resumed, whole) in resumed[0].weights.iter().zip(&whole[0].weights) {
        assert!(resumed.equal(whole));
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let output = folder();
    let whole = world(1, 0.1, &folder(), None, None);
    let stopped = world(3, 0.1, &output, None, Some(6));
    for rank in &stopped {
        assert_eq!(rank.outcome.step, 7, "all ranks stop after the step in which one asked");
        assert!(!rank.outcome.complete);
    }
    assert_eq!(stopped[0].watch.offers, [(7, "stage1/step-000007".into(), false)]);
    let resumed = world(2, 0.1, &output, Some("stage1/step-000007"), None);
    assert!(resumed[0].outcome.complete);
    let losses: Vec<_> = stopped[0].watch.losses.iter().chain(&resumed[0].watch.losses).copied().collect();
    assert_close(&whole[0].watch.losses, &losses, "3 ranks, then 2");
}

/// Resumes the one-step checkpoint in `output` as the run `identity`; must fail.
fn refusal(output: &TempDir, identity: &Identity) -> String {
    let folder = store::open(output.path().to_str().expect("a UTF-8 path")).expect("a local folder");
    let (config, options) = (config(0.0), AdamWOptions::from(&plan(STEPS).optimiser));
    let resumed = checkpoint::resume(&folder, "stage1/step-000001", identity, &config, options, Device::Cpu);
    runtime().block_on(resumed).err().expect("refused").to_string()
}

#[test]
fn another_runs_checkpoint_is_refused() {
    let output = folder();
    world(1, 0.0, &output, None, Some(0));
    let other = Identity { seed: SEED + 1, ..plan(STEPS).identity };
    let error = refusal(&output, &other);
    assert!(error.contains("belongs to another run"), "{error}");
}

#[test]
fn a_damaged_checkpoint_names_the_file() {
    let output = folder();
    world(1, 0.0, &output, None, Some(0));
    let path = output.path().join("stage1/step-000001/optimiser.safetensors");
    let whole = std::fs::read(&path).expect("a checkpoint");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("truncated");
    let error = refusal(&output, &plan(STEPS).identity);
    assert!(error.contains("step-000001/optimiser.safetensors"), "{error}");
    std::fs::remove_file(&path).expect("removed");
    let error = refusal(&output, &plan(STEPS).identity);
    assert!(error.contains("step-000001/optimiser.safetensors"), "{error}");
}
