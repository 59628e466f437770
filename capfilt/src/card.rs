//! `README.md`: the output's dataset card, as the Hugging Face Hub and `datasets` read it. What its data are, where they
//! came from, what its columns mean.
//!
//! It is made of the manifest alone, so it is the same bytes whoever writes it and how often. Text that comes from a
//! recipe or an input is escaped, for YAML above the second `---` and for Markdown below it. The licence is the user's to
//! add.

mod columns;
mod counts;
mod front;
mod text;
mod yaml;

use std::fmt::Write;

use serde_json::Value;

use crate::manifest::Manifest;
use text::{code_block, markdown};

/// The card's name in an output.
pub const CARD: &str = "README.md";

/// The card of an output; none where it holds no captions, since the recipe trains on an earlier run's.
pub fn card(manifest: &Manifest) -> Option<String> {
    if manifest.recipe.get("captions").is_some_and(|captions| !captions.is_null()) {
        return None;
    }
    let name = manifest.recipe.get("name").and_then(Value::as_str).unwrap_or(&manifest.run_id);
    let mut card = front::front_matter(manifest, name);
    let _ = write!(card, "\n# {}\n\n{}\n", markdown(name), introduction(manifest));
    card += &counts::counts(manifest);
    card += &columns::columns(embeds_images(manifest));
    card += &reading(manifest);
    card += &provenance(manifest);
    Some(card)
}

/// Whether the parts carry the images.
fn embeds_images(manifest: &Manifest) -> bool {
    setting(manifest, "embed_images").is_some_and(|setting| *setting != Value::Bool(false))
}

fn setting<'a>(manifest: &'a Manifest, key: &str) -> Option<&'a Value> {
    manifest.recipe.get("capfilt")?.get(key)
}

fn introduction(manifest: &Manifest) -> String {
    let number = |key: &str| setting(manifest, key).and_then(Value::as_u64);
    let (Some(candidates), Some(keep)) = (number("candidates"), number("keep")) else {
        return "Image captions, kept as they came: no data set was filtered.".into();
    };
    let images = if embeds_images(manifest) {
        "Every row carries its image."
    } else {
        "The images are not in it: `dataset`, `file` and `row` say in which input each one is."
    };
    format!(
        "Image captions by CapFilt (BLIP, arXiv 2201.12086; BLIP-2, arXiv 2301.12597): a captioner wrote {candidates} captions \
         per image, a ranker scored them together with the web's own, and at most {keep} were kept. {images}"
    )
}

/// How the usual readers open the folder.
fn reading(manifest: &Manifest) -> String {
    let mut code = String::from(
        "from datasets import load_dataset\n\
         rows = load_dataset(\"path/of/this/folder\", split=\"train\")\n",
    );
    if manifest.parts.iter().any(|part| part.quarantine.is_some()) {
        code += "failed = load_dataset(\"path/of/this/folder\", \"quarantine\", split=\"train\")\n";
    }
    code += "\nimport duckdb\nduckdb.sql(\"SELECT key, top_caption FROM 'path/of/this/folder/data/*.parquet'\")\n";
    format!("\n## Reading it\n\n{}", code_block("python", &code))
}

fn provenance(manifest: &Manifest) -> String {
    let mut section = String::from("\n## Where it came from\n\n| | |\n|---|---|\n");
    let versions = manifest.versions.iter().map(|(what, version)| (format!("{what} version"), version.clone()));
    let facts = [
        ("run".to_owned(), manifest.run_id.clone()),
        ("recipe hash".to_owned(), manifest.recipe_hash.clone()),
        ("seed".to_owned(), manifest.seed.to_string()),
    ];
    for (name, value) in facts.into_iter().chain(versions) {
        let _ = writeln!(section, "| {} | {} |", markdown(&name), markdown(&value));
    }
    if !manifest.models.is_empty() {
        section += "\nBLAKE3 of the models' files, as `b3sum` prints it:\n\n| File | Digest |\n|---|---|\n";
        for (file, digest) in &manifest.models {
            let _ = writeln!(section, "| {} | {} |", markdown(file), markdown(digest));
        }
    }
    let recipe = code_block("yaml", &yaml::document(&manifest.recipe));
    section + "\nThe recipe, with its defaults, and without what doesn't touch the result:\n\n" + &recipe
}
