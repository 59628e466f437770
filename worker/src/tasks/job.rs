//! One task: made in a folder of this machine's own, then put into the output's folder that is called by its content.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_capfilt::{Manifest, ResultFiles};
use quern_corpus::store::{self, Folder, StoreError};
use quern_models::generate::{BeamScore, GenerationOptions, Strategy};
use quern_proto::{TaskLease, TaskResult};
use quern_recipes::{CaptionEvaluation, Recipe};
use quern_trainer::captioner::Weights;
use quern_trainer::eval::captions::{CaptionOptions, captions};
use quern_trainer::eval::retrieval::{RetrievalOptions, retrieval};
use quern_trainer::export::{Request, export};
use serde_json::Value;
use tch::Device;

use crate::checkpoint::runtime;
use crate::faults::Script;
use crate::{evaluate, export as command};

/// Files of an evaluation.
const RETRIEVAL: &str = "retrieval.json";
const CAPTION: &str = "caption.json";

/// A task, and all that it is done with.
pub(super) struct Job {
    pub lease: TaskLease,
    pub recipe: Arc<Recipe>,
    pub device: Device,
    /// Raised when it is to end early.
    pub stop: Arc<AtomicBool>,
    pub script: Script,
}

impl Job {
    /// Does it; blocks. An error is one sentence.
    pub fn run(&self) -> Result<TaskResult, String> {
        // OpenMP counts threads per calling thread.
        tch::set_num_threads(self.recipe.cluster.threads as i32);
        let workplace = tempfile::tempdir().map_err(|error| format!("no temporary folder can be made: {error}"))?;
        let made = workplace.path().join("result");
        let (kind, summary) = match self.lease.task.as_str() {
            "evaluate" => ("evaluation", self.evaluate(&made)?),
            "export" => ("export", self.export(&made)?),
            other => return Err(format!("the coordinator wants {other:?} done, which this version doesn't know")),
        };
        let (path, digest) = self.publish(&made, kind)?;
        Ok(TaskResult { path, digest, summary })
    }

    fn evaluate(&self, made: &Path) -> Result<String, String> {
        let Some(evaluation) = &self.recipe.evaluation else { return Err("the recipe has no `evaluation`".into()) };
        fs::create_dir(made).map_err(|error| unwritten(made, &error))?;
        let mut lines = Vec::new();
        if let Some(section) = &evaluation.retrieval {
            let options =
                RetrievalOptions { limit: section.limit.map(|limit| limit as usize), rerank: section.rerank as usize };
            let checkpoint = Some(self.lease.stage1_checkpoint.as_str());
            let report = retrieval(checkpoint, &self.recipe, &section.dataset, options, self.device, &self.stop)
                .map_err(|error| error.to_string())?;
            write(&made.join(RETRIEVAL), &evaluate::json(&report)?)?;
            lines.push(evaluate::retrieval_line(&report));
        }
        if let Some(section) = &evaluation.caption {
            let weights = Weights::Trained(&self.lease.checkpoint);
            let options = caption_options(section);
            let report = captions(weights, &self.recipe, &section.dataset, &options, self.device, &self.stop)
                .map_err(|error| error.to_string())?;
            write(&made.join(CAPTION), &evaluate::json(&report)?)?;
            lines.push(evaluate::caption_line(&report));
        }
        Ok(lines.join("\n"))
    }

    fn export(&self, made: &Path) -> Result<String, String> {
        let Some(section) = &self.recipe.export else { return Err("the recipe has no `export`".into()) };
        let request = Request {
            checkpoint: &self.lease.checkpoint,
            recipe: &self.recipe,
            out: made,
            form: command::form(section.to.into(), section.part.into(), section.safetensors)?,
            max_shard_bytes: section.max_shard_bytes,
            metrics: self.metrics()?,
        };
        export(request).map_err(|error| error.to_string())?;
        let target = match section.to {
            quern_recipes::ExportTarget::Hf => "transformers",
            quern_recipes::ExportTarget::Lavis => "LAVIS",
        };
        Ok(format!("{} for {target}", self.lease.checkpoint))
    }

    /// What this run's evaluation says of the exported checkpoint, if there is one.
    fn metrics(&self) -> Result<Option<Value>, String> {
        let Some(evaluation) = &self.recipe.evaluation else { return Ok(None) };
        let is_stage1 = self.lease.checkpoint == self.lease.stage1_checkpoint;
        let (name, is_measured) = match is_stage1 {
            true => (RETRIEVAL, evaluation.retrieval.is_some()),
            false => (CAPTION, evaluation.caption.is_some()),
        };
        if !is_measured {
            return Ok(None);
        }
        let output = self.output()?;
        let read = async {
            let manifest = Manifest::read(&output).await.map_err(|error| error.to_string())?;
            let evaluated = manifest.tasks.into_iter().find(|entry| entry.task == "evaluate");
            let path = evaluated.ok_or("the manifest does not name the run's evaluation")?.path;
            output.get(&format!("{path}/{name}")).await.map_err(|error| error.to_string())
        };
        let text = runtime()?.block_on(read)?;
        serde_json::from_slice(&text).map(Some).map_err(|error| format!("{name} is no JSON: {error}"))
    }

    /// Puts the files of `made` into the output; gives their folder there and their digest.
    fn publish(&self, made: &Path, kind: &str) -> Result<(String, String), String> {
        let said = |error: StoreError| error.to_string();
        let (runtime, output) = (runtime()?, self.output()?);
        let made = store::open(&made.to_string_lossy()).map_err(said)?;
        let files = runtime.block_on(ResultFiles::read(&made, "")).map_err(said)?;
        let digest = files.digest();
        let path = format!("{kind}/{digest}");
        for name in files.names() {
            if self.stop.load(Ordering::SeqCst) {
                return Err("it was told to stop".into());
            }
            let copied = async { output.put(&format!("{path}/{name}"), made.get(name).await?).await };
            runtime.block_on(copied).map_err(said)?;
            self.script.wrote_a_file();
        }
        Ok((path, digest))
    }

    fn output(&self) -> Result<Folder, String> {
        store::open(&self.recipe.output).map_err(|error| error.to_string())
    }
}

fn caption_options(section: &CaptionEvaluation) -> CaptionOptions {
    let CaptionEvaluation { limit, prompt, beams, length_penalty, max_length, min_length, repetition_penalty, .. } =
        section;
    let strategy =
        Strategy::Beam { beams: *beams as usize, length_penalty: *length_penalty, score: BeamScore::Generated };
    CaptionOptions {
        limit: limit.map(|limit| limit as usize),
        prompt: prompt.clone(),
        generation: GenerationOptions {
            strategy,
            min_length: (*min_length).into(),
            max_length: (*max_length).into(),
            repetition_penalty: *repetition_penalty,
        },
        // Beams draw nothing.
        seed: 0,
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}
