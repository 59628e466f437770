//! `quern-worker export`: a checkpoint as a folder for transformers or LAVIS.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use quern_models::export::LavisFile;
use quern_models::save::DEFAULT_MAX_SHARD_BYTES;
use quern_recipes::{ExportPart, ExportTarget};
use quern_trainer::export::{Form, Request, export};

use crate::checkpoint::{self, Located};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A checkpoint's folder or URL, OUTPUT/STAGE/STEP; or its path below the recipe's output.
    checkpoint: String,
    /// The folder to write; there must be nothing there yet.
    out: PathBuf,
    /// For whom.
    #[arg(long)]
    to: Target,
    /// The whole model, or a Q-Former's blocks alone, which transformers can hold whatever the image encoder.
    #[arg(long, default_value = "whole")]
    part: Part,
    /// The recipe that it was trained by; default: the one in the output's manifest.json.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// LAVIS: safetensors instead of a .pth.
    #[arg(long)]
    safetensors: bool,
    /// Weights are cut into files of at most this size: 5GB, 500MB, 64KB.
    #[arg(long, value_parser = bytes, default_value_t = DEFAULT_MAX_SHARD_BYTES)]
    max_shard: u64,
    /// JSON of an evaluation (`quern eval … --json`), for the model card.
    #[arg(long)]
    metrics: Option<PathBuf>,
}

/// For whom an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// Hugging Face transformers.
    Hf,
    /// Salesforce LAVIS.
    Lavis,
}

/// What of a model is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Image encoder, Q-Former, and stage 2's language model.
    Whole,
    /// `Blip2QFormerModel`.
    Qformer,
}

/// Exports.
pub fn run(arguments: Arguments) -> Result<(), String> {
    let form = form(arguments.to, arguments.part, arguments.safetensors)?;
    let Located { recipe, checkpoint } = checkpoint::locate(&arguments.checkpoint, arguments.recipe.as_deref())?;
    let metrics = arguments.metrics.map(|path| {
        let text = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{} is no JSON: {error}", path.display()))
    });
    let request = Request {
        checkpoint: &checkpoint,
        recipe: &recipe,
        out: &arguments.out,
        form,
        max_shard_bytes: arguments.max_shard,
        metrics: metrics.transpose()?,
    };
    export(request).map_err(|error| error.to_string())?;
    println!("{}", arguments.out.display());
    Ok(())
}

/// The form that is asked for.
///
/// # Errors
/// When there is none such.
pub fn form(to: Target, part: Part, safetensors: bool) -> Result<Form, String> {
    Ok(match (to, part, safetensors) {
        (Target::Hf, Part::Whole, false) => Form::HuggingFace,
        (Target::Hf, Part::Qformer, false) => Form::HuggingFaceBlocks,
        (Target::Hf, _, true) => return Err("--to hf always writes safetensors: leave out --safetensors".into()),
        (Target::Lavis, Part::Qformer, _) => return Err("--to lavis has one form: leave out --part".into()),
        (Target::Lavis, Part::Whole, true) => Form::Lavis(LavisFile::Safetensors),
        (Target::Lavis, Part::Whole, false) => Form::Lavis(LavisFile::Pickle),
    })
}

impl From<ExportTarget> for Target {
    fn from(target: ExportTarget) -> Self {
        match target {
            ExportTarget::Hf => Target::Hf,
            ExportTarget::Lavis => Target::Lavis,
        }
    }
}

impl From<ExportPart> for Part {
    fn from(part: ExportPart) -> Self {
        match part {
            ExportPart::Whole => Part::Whole,
            ExportPart::Qformer => Part::Qformer,
        }
    }
}

/// A size in bytes, with or without a decimal unit.
fn bytes(text: &str) -> Result<u64, String> {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("", 1)];
    let (number, unit) = units
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)))
        .expect("any text ends with nothing");
    let number: u64 = number.trim().parse().map_err(|_| format!("{text:?} is no size such as 5GB or 500MB"))?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(|| format!("{text:?} is no size of a file"))
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_with_and_without_units() {
        assert_eq!(bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(bytes("64 KB"), Ok(64_000));
        assert_eq!(bytes("12"), Ok(12));
        for wrong in ["", "0", "five GB", "-1", "99999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
    }
}
