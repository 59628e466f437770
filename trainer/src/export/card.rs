//! The model card: `README.md` with the front matter that model hubs read.

use std::fmt::Write;

use quern_capfilt::Manifest;
use quern_recipes::Recipe;
use serde_json::Value;

use crate::checkpoint::{Saved, State};
use crate::training::StageName;

use super::Form;

/// What a card tells.
pub(super) struct Card<'a> {
    pub form: Form,
    pub saved: &'a Saved,
    pub recipe: &'a Recipe,
    pub manifest: Option<Manifest>,
    pub metrics: Option<Value>,
}

impl Card<'_> {
    /// The whole file.
    pub fn text(&self) -> String {
        let State { step, batch, seed, recipe_hash, version, .. } = &self.saved.state;
        let name = &self.recipe.name;
        let mut text = self.front_matter();
        let stage = match self.saved.state.stage {
            StageName::Stage1 => "stage 1: image-text contrast, grounded generation and matching",
            StageName::Stage2 => "stage 2: towards a frozen language model",
        };
        let mut line = |line: String| writeln!(text, "{line}").expect("a string takes any text");
        line(format!(
            "# {name}\n\nA BLIP-2 Q-Former ([arXiv 2301.12597](https://arxiv.org/abs/2301.12597)), {stage}; \
             trained by quern {version} for {step} steps of {batch} images, seed {seed}.\n"
        ));
        line(format!("## How it is loaded\n\n{}\n", self.usage()));
        line(self.models());
        line(self.data());
        if let Some(metrics) = &self.metrics {
            line("## Metrics\n\n| Metric | Value |\n|---|---|".into());
            numbers("", metrics).into_iter().for_each(|(name, value)| line(format!("| {name} | {value} |")));
            line(String::new());
        }
        // Captions of an earlier run have the manifest of that run's recipe.
        let same = self.manifest.as_ref().filter(|manifest| manifest.recipe_hash == self.saved.state.recipe_hash);
        let resolved = same.map(|manifest| &manifest.recipe);
        let own = serde_json::to_value(self.recipe).expect("a recipe holds only what JSON can state");
        line(format!(
            "## Recipe\n\nHash `{recipe_hash}`.\n\n```json\n{:#}\n```",
            without_paths(resolved.unwrap_or(&own))
        ));
        text
    }

    fn front_matter(&self) -> String {
        let task = match self.saved.state.stage {
            StageName::Stage1 => "zero-shot-image-classification",
            StageName::Stage2 => "image-text-to-text",
        };
        let library = if matches!(self.form, Form::Lavis(_)) { "lavis" } else { "transformers" };
        let mut text =
            format!("---\nlibrary_name: {library}\npipeline_tag: {task}\ntags:\n- blip-2\n- quern\ndatasets:\n");
        for dataset in &self.recipe.datasets {
            writeln!(text, "- {}", Value::from(dataset.name.as_str())).expect("a string takes any text");
        }
        text + "---\n\n"
    }

    fn usage(&self) -> String {
        let class = match (self.form, self.saved.state.stage) {
            (Form::Lavis(_), _) => return "`model.load_checkpoint(\"model.pth\")` in LAVIS.".into(),
            (Form::HuggingFaceBlocks, _) => "Blip2QFormerModel",
            (Form::HuggingFace, StageName::Stage1) => "Blip2ForImageTextRetrieval",
            (Form::HuggingFace, StageName::Stage2) => "Blip2ForConditionalGeneration",
        };
        format!("`transformers.{class}.from_pretrained(FOLDER)`.")
    }

    fn models(&self) -> String {
        let mut text = "## Frozen models\n\n".to_string();
        let mut named = |role: &str, path: &str| {
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
            writeln!(text, "- {role}: {name}").expect("a string takes any text");
        };
        let stage2 = self.recipe.stage2.as_ref().filter(|_| self.saved.state.stage == StageName::Stage2);
        let encoder = stage2.and_then(|stage2| stage2.image_encoder.as_deref());
        if let Some(path) = encoder.or(self.recipe.stage1.as_ref().map(|stage1| stage1.image_encoder.as_str())) {
            named("image encoder", path);
        }
        if let Some(stage2) = stage2 {
            named("language model", &stage2.language_model);
        }
        text
    }

    fn data(&self) -> String {
        let Some(manifest) = &self.manifest else {
            return "## Data\n\nThe output holds no manifest: where the captions came from is not known.\n".into();
        };
        let totals = &manifest.totals;
        let mut text = format!(
            "## Data\n\n{} rows in {} shards: {} with captions that CapFilt wrote and ranked, {} with their own; {} in \
             quarantine. Run `{}`, recipe `{}`.\n\n",
            totals.rows,
            totals.shards,
            totals.kept,
            totals.passed,
            totals.quarantined,
            manifest.run_id,
            manifest.recipe_hash
        );
        for (file, digest) in &manifest.models {
            writeln!(text, "- {file}: BLAKE3 `{digest}`").expect("a string takes any text");
        }
        text
    }
}

/// The recipe without the paths of the machine that it ran on: data sets and models by their last component.
fn without_paths(recipe: &Value) -> Value {
    match recipe {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), without_paths(value))).collect(),
        Value::Array(values) => values.iter().map(without_paths).collect(),
        Value::String(text) if text.contains('/') => {
            text.trim_end_matches('/').rsplit('/').next().unwrap_or_default().into()
        }
        other => other.clone(),
    }
}

/// The single numbers in `value` with their paths.
fn numbers(path: &str, value: &Value) -> Vec<(String, String)> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path} {key}") };
                numbers(&path, value)
            })
            .collect(),
        Value::Number(number) => vec![(path.to_string(), number.to_string())],
        _ => Vec::new(),
    }
}
