//! `quern demo`: the whole job on a corpus whose truth is known, and whether it was worth it.
//!
//! `workspace` keeps the demo's folder, `truth` counts correct captions, `retrieval` and `language` evaluate the
//! checkpoints of stages 1 and 2 through quern-worker (`evaluation`), `summary` is the closing table.

mod evaluation;
mod language;
mod retrieval;
mod summary;
mod truth;
mod workspace;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quern_coordinator::Access;
use quern_corpus::toy::questions::Topics;
use quern_corpus::toy::{SynthOptions, seeds};
use quern_proto::client::ClientOptions;
use quern_recipes::Recipe;

use crate::commands::{capfilt, corpus};
use crate::launch::{Again, Ended, Launch, launch, ranks};
use crate::outcome::{Done, Failure};
use crate::progress::ProgressOptions;

use language::{HeldOut, Language};
use retrieval::Retrieval;
use summary::{Summary, Training};
use truth::Truth;
use workspace::{Settings, Workspace};

/// Run the whole pipeline on a small synthetic web and measure what CapFilt was worth.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder for everything that the demo writes. With an earlier demo of the same settings there, it goes on.
    #[arg(long, default_value = "out/demo", value_name = "FOLDER")]
    out: PathBuf,
    /// Rows of the web corpus.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(100..))]
    rows: u64,
    /// Share of wrong captions in it.
    #[arg(long, default_value_t = 0.6)]
    junk: f64,
    /// Held-out scenes for the evaluation.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..))]
    held_out: u64,
    /// Training steps of each stage, at most [default: the recipes'].
    #[arg(long)]
    steps: Option<u64>,
    /// Folder that holds demo.yaml, demo-raw.yaml and demo-t5.yaml.
    #[arg(long, default_value = "recipes", value_name = "FOLDER")]
    recipes: PathBuf,
    /// Delete an earlier demo in the folder and begin anew.
    #[arg(long)]
    fresh: bool,
}

/// Performs the demo's seven steps.
pub async fn demo(arguments: Arguments) -> Result<Done, Failure> {
    let read = |file: &str| recipe(&arguments.recipes.join(file), arguments.steps);
    let (kept, raw, t5) = (read("demo.yaml")?, read("demo-raw.yaml")?, read("demo-t5.yaml")?);
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").into(),
        rows: arguments.rows,
        junk: arguments.junk,
        held_out: arguments.held_out,
        recipes: [kept.hash(), raw.hash(), t5.hash()],
    };
    let workspace = Workspace::open(&arguments.out, &settings, arguments.fresh)?;
    let (kept, raw) = (workspace.place(kept, "kept")?, workspace.place(raw, "raw")?);
    let mut clock = Clock::default();

    heading(1, "a web corpus, and held-out scenes");
    let started = Instant::now();
    write_corpora(&workspace, &settings).await?;
    clock.add("corpora", started.elapsed());

    heading(2, "CapFilt over it, then stages 1 and 2 on what was kept, towards an OPT");
    let kept_run = run(&workspace, &kept, "kept").await?;
    clock.add("CapFilt", kept_run.in_phase("capfilt"));
    clock.add("stage 1, kept captions", kept_run.in_phase("stage1"));
    clock.add("stage 2, OPT", kept_run.in_phase("stage2"));

    heading(3, "stage 2 again, towards a T5");
    let stage1 = checkpoint(&kept_run, 0)?;
    let t5 = workspace.place(begin_with(t5, &kept, stage1), "t5")?;
    let t5_run = run(&workspace, &t5, "t5").await?;
    clock.add("stage 2, T5", t5_run.in_phase("stage2"));

    heading(4, "stage 1 on the web captions as they are");
    let raw_run = run(&workspace, &raw, "raw").await?;
    clock.add("stage 1, raw captions", raw_run.in_phase("stage1"));

    heading(5, "retrieval on the held-out scenes");
    let started = Instant::now();
    let held_out = workspace.held_out();
    let (kept_file, raw_file, t5_file) =
        (workspace.recipe_file("kept"), workspace.recipe_file("raw"), workspace.recipe_file("t5"));
    let (kept_recall, raw_recall, untrained) = (
        Retrieval::measure(&kept_file, Some(stage1), &held_out).await?,
        Retrieval::measure(&raw_file, Some(checkpoint(&raw_run, 0)?), &held_out).await?,
        Retrieval::measure(&kept_file, None, &held_out).await?,
    );
    clock.add("retrieval", started.elapsed());

    heading(6, "captions and answers on the held-out scenes");
    let started = Instant::now();
    let scenes = HeldOut::read(&held_out).await?;
    let begun = format!("{}/{stage1}", kept.output);
    let language = vec![
        Language::measure("OPT", &kept_file, &begun, checkpoint(&kept_run, 1)?, &kept_run.last, &scenes).await?,
        Language::measure("T5", &t5_file, &begun, checkpoint(&t5_run, 0)?, &t5_run.last, &scenes).await?,
    ];
    clock.add("captions and answers", started.elapsed());

    heading(7, "the report");
    let started = Instant::now();
    let truth = Truth::read(&kept).await?;
    let captions = truth.count(&kept).await?;
    let report = capfilt::write_report(&kept.output, Some(&|row, caption| truth.judge(row, caption))).await?;
    clock.add("report", started.elapsed());

    let quarantined = kept_run.last.shards_quarantined + raw_run.last.shards_quarantined;
    let summary = Summary {
        captions,
        training: vec![Training::of("kept", &kept_run.last), Training::of("raw", &raw_run.last)],
        kept: kept_recall,
        raw: raw_recall,
        untrained,
        language,
        seconds: clock.stages,
        outputs: vec![
            ("web corpus".into(), workspace.corpus()),
            ("kept captions, checkpoints".into(), kept.output.clone()),
            ("stage 2 towards a T5".into(), t5.output.clone()),
            ("raw yardstick".into(), raw.output.clone()),
            ("report".into(), report),
            ("these numbers".into(), workspace.summary_file().display().to_string()),
        ],
    };
    workspace.keep_summary(&summary)?;
    print!("{}", summary.table());
    Ok(if quarantined > 0 { Done::WithQuarantinedShards } else { Done::Completely })
}

/// The last checkpoint of a run's stage, as a path below the run's output.
fn checkpoint(run: &Ended, stage: usize) -> Result<&str, Failure> {
    let stage = run.last.stages.get(stage).filter(|stage| !stage.checkpoint.is_empty());
    stage
        .map(|stage| stage.checkpoint.as_str())
        .ok_or_else(|| Failure::failed("the run is over, but it has accepted no checkpoint"))
}

/// A stage 2 that begins with another run's stage 1, on that run's captions.
fn begin_with(mut recipe: Recipe, run: &Recipe, stage1: &str) -> Recipe {
    recipe.captions = Some(run.output.clone());
    if let Some(stage2) = &mut recipe.stage2 {
        stage2.qformer = Some(format!("{}/{stage1}", run.output));
    }
    recipe
}

async fn write_corpora(workspace: &Workspace, settings: &Settings) -> Result<(), Failure> {
    if workspace.has_corpora() {
        quern_telemetry::say(&format!("there already: {} and {}", workspace.corpus(), workspace.held_out()));
        return Ok(());
    }
    let web = SynthOptions {
        rows: settings.rows,
        junk: settings.junk,
        seed: seeds::DEMO,
        out: workspace.corpus(),
        ..SynthOptions::default()
    };
    let held_out = SynthOptions {
        rows: settings.held_out,
        junk: 0.0,
        seed: seeds::HELD_OUT,
        out: workspace.held_out(),
        distinct_captions: true,
        questions: Some(Topics::ShapesAndColours),
        ..SynthOptions::default()
    };
    corpus::write("web corpus", web).await?;
    corpus::write("held-out", held_out).await?;
    workspace.mark_corpora()
}

/// The recipe in `file`, with at most `steps` steps in each stage if they are given.
fn recipe(file: &Path, steps: Option<u64>) -> Result<Recipe, Failure> {
    let mut recipe = Recipe::read(file)?;
    let Some(most) = steps else { return Ok(recipe) };
    let stage1 = recipe.stage1.as_mut().map(|stage1| (&mut stage1.steps, &mut stage1.optimiser));
    let stage2 = recipe.stage2.as_mut().map(|stage2| (&mut stage2.steps, &mut stage2.optimiser));
    for (steps, optimiser) in stage1.into_iter().chain(stage2) {
        *steps = most.min(*steps);
        optimiser.warmup_steps = optimiser.warmup_steps.min(*steps / 10);
    }
    Ok(recipe)
}

/// A recipe from beginning to end, with a worker per rank.
async fn run(workspace: &Workspace, recipe: &Recipe, name: &str) -> Result<Ended, Failure> {
    let workers = ranks(recipe).map(|(_, ranks)| ranks).max().unwrap_or(1);
    let ended = launch(Launch {
        recipe: recipe.clone(),
        workers: workers as usize,
        device: "cpu".into(),
        access: Access::default(),
        client: ClientOptions::default(),
        progress: ProgressOptions::default(),
        listen: "127.0.0.1:0".into(),
        journal: workspace.beside(name, "journal.sqlite"),
        logs: workspace.beside(name, "logs"),
        again: Again::Rest,
    })
    .await?;
    crate::commands::watch::end_of(&ended.last)?;
    Ok(ended)
}

fn heading(number: u32, text: &str) {
    quern_telemetry::say(&format!("\n{number}/7  {text}"));
}

/// How long each stage took.
#[derive(Default)]
struct Clock {
    stages: Vec<(String, f64)>,
}

impl Clock {
    fn add(&mut self, stage: &str, time: Duration) {
        self.stages.push((stage.into(), time.as_secs_f64()));
    }
}
