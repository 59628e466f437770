//! `quern demo`: the whole job on a corpus whose truth is known, and whether it was worth it.
//!
//! `workspace` keeps the demo's folder, `truth` counts correct captions, `retrieval` evaluates checkpoints, `summary`
//! is the closing table.

mod retrieval;
mod summary;
mod truth;
mod workspace;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quern_corpus::toy::{SynthOptions, seeds};
use quern_recipes::Recipe;

use crate::commands::{capfilt, corpus};
use crate::launch::{Ended, Launch, launch, ranks};
use crate::outcome::{Done, Failure};

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
    /// Training steps [default: the recipe's].
    #[arg(long)]
    steps: Option<u64>,
    /// Folder that holds demo.yaml and demo-raw.yaml.
    #[arg(long, default_value = "recipes", value_name = "FOLDER")]
    recipes: PathBuf,
    /// Delete an earlier demo in the folder and begin anew.
    #[arg(long)]
    fresh: bool,
}

/// Performs the demo's five steps.
pub async fn demo(arguments: Arguments) -> Result<Done, Failure> {
    let kept = recipe(&arguments.recipes.join("demo.yaml"), arguments.steps)?;
    let raw = recipe(&arguments.recipes.join("demo-raw.yaml"), arguments.steps)?;
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").into(),
        rows: arguments.rows,
        junk: arguments.junk,
        held_out: arguments.held_out,
        recipes: [kept.hash(), raw.hash()],
    };
    let workspace = Workspace::open(&arguments.out, &settings, arguments.fresh)?;
    let (kept, raw) = (workspace.place(kept, "kept")?, workspace.place(raw, "raw")?);
    let mut clock = Clock::default();

    heading(1, "a web corpus, and held-out scenes");
    let started = Instant::now();
    write_corpora(&workspace, &settings).await?;
    clock.add("corpora", started.elapsed());

    heading(2, "CapFilt over it, then stage 1 on what was kept");
    let kept_run = run(&workspace, &kept, "kept").await?;
    clock.add("CapFilt", kept_run.in_phase("capfilt"));
    clock.add("stage 1, kept captions", kept_run.in_phase("stage1"));

    heading(3, "the same stage 1 on the web captions as they are");
    let raw_run = run(&workspace, &raw, "raw").await?;
    clock.add("stage 1, raw captions", raw_run.in_phase("stage1"));

    heading(4, "retrieval on the held-out scenes");
    let started = Instant::now();
    let held_out = workspace.held_out();
    let checkpoint = |run: &Ended| run.last.stages.first().map(|stage1| stage1.checkpoint.clone());
    let (kept_recall, raw_recall, untrained) = (
        Retrieval::measure(&workspace.recipe_file("kept"), checkpoint(&kept_run), &held_out).await?,
        Retrieval::measure(&workspace.recipe_file("raw"), checkpoint(&raw_run), &held_out).await?,
        Retrieval::measure(&workspace.recipe_file("kept"), None, &held_out).await?,
    );
    clock.add("evaluation", started.elapsed());

    heading(5, "the report");
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
        seconds: clock.stages,
        outputs: vec![
            ("web corpus".into(), workspace.corpus()),
            ("kept captions, checkpoints".into(), kept.output.clone()),
            ("raw yardstick".into(), raw.output.clone()),
            ("report".into(), report),
            ("these numbers".into(), workspace.summary_file().display().to_string()),
        ],
    };
    workspace.keep_summary(&summary)?;
    print!("{}", summary.table());
    Ok(if quarantined > 0 { Done::WithQuarantinedShards } else { Done::Completely })
}

async fn write_corpora(workspace: &Workspace, settings: &Settings) -> Result<(), Failure> {
    if workspace.has_corpora() {
        eprintln!("there already: {} and {}", workspace.corpus(), workspace.held_out());
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
        ..SynthOptions::default()
    };
    corpus::write("web corpus", web).await?;
    corpus::write("held-out", held_out).await?;
    workspace.mark_corpora()
}

/// The recipe in `file`, trained for `steps` if they are given.
fn recipe(file: &Path, steps: Option<u64>) -> Result<Recipe, Failure> {
    let mut recipe = Recipe::read(file)?;
    if let (Some(steps), Some(stage1)) = (steps, &mut recipe.stage1) {
        stage1.steps = steps;
        stage1.optimiser.warmup_steps = stage1.optimiser.warmup_steps.min(steps / 10);
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
        listen: "127.0.0.1:0".into(),
        journal: workspace.beside(name, "journal.sqlite"),
        logs: workspace.beside(name, "logs"),
    })
    .await?;
    crate::commands::watch::end_of(&ended.last)?;
    Ok(ended)
}

fn heading(number: u32, text: &str) {
    eprintln!("\n{number}/5  {text}");
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
