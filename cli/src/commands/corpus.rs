//! `quern corpus synth`: a web corpus of rendered scenes, in img2dataset's parquet layout.

use quern_corpus::store::StoreError;
use quern_corpus::toy::questions::Topics;
use quern_corpus::toy::{SynthError, SynthOptions, SynthSummary, synth};

use crate::outcome::{Done, Failure};
use crate::progress::Meter;

/// What there is to do with corpora.
#[derive(clap::Subcommand)]
pub enum Command {
    Synth(SynthArguments),
}

/// Write a corpus of rendered scenes with captions, of which a share is wrong.
#[derive(clap::Args)]
pub struct SynthArguments {
    /// Rows, one image each.
    #[arg(long, default_value_t = 1000)]
    rows: u64,
    /// Share of wrong captions, 0 to 1.
    #[arg(long, default_value_t = 0.6)]
    junk: f64,
    /// Seed; the same seed writes the same bytes.
    #[arg(long, default_value_t = quern_corpus::toy::seeds::DEMO)]
    seed: u64,
    /// Folder or URL to write to.
    #[arg(long, value_name = "URL")]
    out: String,
    /// Rows per parquet file.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_file: u64,
    /// Side of the images in pixels, 64 to 256 [default: varies].
    #[arg(long, value_name = "PIXELS")]
    image_side: Option<u32>,
    /// For evaluation: correct, full captions that differ pairwise (needs --junk 0).
    #[arg(long)]
    distinct_captions: bool,
    /// Add the columns `question` and `answer`.
    #[arg(long)]
    questions: bool,
    /// Add the columns `correct_captions` and `wrong_captions` with so many entries each.
    #[arg(long, default_value_t = 0, value_name = "N")]
    variants: u32,
}

/// Carries out the command.
pub async fn corpus(command: Command) -> Result<Done, Failure> {
    let Command::Synth(arguments) = command;
    let out = arguments.out.clone();
    let summary = write("scenes", arguments.into()).await?;
    println!(
        "{out}: {} rows in {} {}; {} captions are correct ({:.1} %)",
        summary.rows,
        summary.files,
        if summary.files == 1 { "file" } else { "files" },
        summary.correct_rows,
        100.0 * summary.correct_rows as f64 / summary.rows.max(1) as f64
    );
    Ok(Done::Completely)
}

/// Writes a corpus under a progress bar named `label`.
pub async fn write(label: &str, options: SynthOptions) -> Result<SynthSummary, Failure> {
    let mut meter = Meter::new(label, options.rows, "rows");
    let summary = synth(options, |rows| meter.set(rows)).await.map_err(|error| match error {
        SynthError::Options(_)
        | SynthError::OutputHoldsOther { .. }
        | SynthError::Store(StoreError::Location { .. }) => Failure::bad_input(error.to_string()),
        other => Failure::failed(other.to_string()),
    })?;
    meter.finish();
    Ok(summary)
}

impl From<SynthArguments> for SynthOptions {
    fn from(arguments: SynthArguments) -> Self {
        SynthOptions {
            rows: arguments.rows,
            junk: arguments.junk,
            seed: arguments.seed,
            out: arguments.out,
            rows_per_file: arguments.rows_per_file,
            image_side_px: arguments.image_side,
            distinct_captions: arguments.distinct_captions,
            questions: arguments.questions.then_some(Topics::All),
            variants: arguments.variants,
        }
    }
}
