//! One folder without a recipe of one's own: the arguments, and the recipe that they are.

use quern_corpus::discover::{DiscoverError, Discovered, NamedColumns, discover_columns};
use quern_corpus::store;
use quern_recipes::{Images, Recipe};
use serde_json::json;

use crate::outcome::{Failure, chain};

/// A folder, models, and where the output goes.
#[derive(clap::Args)]
pub struct ShortForm {
    /// Folder or URL with the parquet files or WebDataset tars.
    #[arg(long, value_name = "URL")]
    input: String,
    /// Folder or URL for what is written. The same command goes on where an earlier one stopped.
    #[arg(long, value_name = "URL")]
    output: String,
    /// The model that writes captions.
    #[arg(long, value_name = "MODEL", default_value = "hf://Salesforce/blip-image-captioning-large")]
    captioner: String,
    /// The model that ranks them.
    #[arg(long, value_name = "MODEL", default_value = "hf://openai/clip-vit-large-patch14")]
    ranker: String,
    /// Which column holds what: image=NAME, caption=NAME or key=NAME; those that are not named are looked for.
    #[arg(long = "column", value_name = "ROLE=NAME", value_parser = column)]
    columns: Vec<(Role, String)>,
    /// The image column holds paths below this folder or URL. (A column of text holds URLs otherwise.)
    #[arg(long, value_name = "URL")]
    image_base: Option<String>,
    /// Seed of every draw.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What a column may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Image,
    Caption,
    Key,
}

fn column(text: &str) -> Result<(Role, String), String> {
    let role = |role| match role {
        "image" => Some(Role::Image),
        "caption" => Some(Role::Caption),
        "key" => Some(Role::Key),
        _ => None,
    };
    let parts = text.split_once('=').filter(|(_, name)| !name.is_empty());
    let found = parts.and_then(|(name_of_role, name)| Some((role(name_of_role)?, name.to_owned())));
    found.ok_or_else(|| "write image=NAME, caption=NAME or key=NAME".into())
}

impl ShortForm {
    /// Finds the columns, says which, and gives the recipe.
    pub async fn recipe(&self) -> Result<Recipe, Failure> {
        let input = absolute(&self.input)?;
        let folder = store::open(&input).map_err(|error| Failure::bad_input(chain(&error)))?;
        let image_base = self.image_base.as_deref().map(absolute).transpose()?;
        let found = discover_columns(&folder, NamedColumns { image_base, ..named(&self.columns) }).await;
        let found = found.map_err(|error| match error {
            DiscoverError::Store(error) if error.is_passing() => Failure::failed(chain(&error)),
            error => Failure::bad_input(chain(&error)),
        })?;
        quern_telemetry::say(&described(&found));
        recipe(self, &input, found)
    }
}

fn named(columns: &[(Role, String)]) -> NamedColumns {
    let of = |wanted| columns.iter().rev().find(|(role, _)| *role == wanted).map(|(_, name)| name.clone());
    NamedColumns { image: of(Role::Image), caption: of(Role::Caption), key: of(Role::Key), image_base: None }
}

fn described(Discovered { columns, images }: &Discovered) -> String {
    let what = match images {
        Images::Bytes => "image",
        Images::Paths(_) => "the image's path",
        Images::Urls => "the image's URL",
    };
    format!("{what} in `{}`, caption in `{}`, key in `{}`", columns.image, columns.caption, columns.key)
}

/// A path made absolute; URLs are taken as they are.
pub(super) fn absolute(path: &str) -> Result<String, Failure> {
    if path.contains("://") {
        return Ok(path.into());
    }
    let path = std::path::absolute(path).map_err(|error| Failure::bad_input(format!("{path}: {error}")))?;
    Ok(path.display().to_string())
}

/// The recipe with one data set, named after the input's last part, and CapFilt alone.
fn recipe(arguments: &ShortForm, input: &str, found: Discovered) -> Result<Recipe, Failure> {
    let Discovered { columns, images } = found;
    let recipe = json!({
        "name": last_name(&arguments.output, "capfilt"),
        "seed": arguments.seed,
        "output": arguments.output,
        "datasets": [{ "name": last_name(input, "input"), "path": input, "columns": columns, "images": images }],
        "capfilt": { "captioner": arguments.captioner, "ranker": arguments.ranker },
    });
    let folder = std::env::current_dir().map_err(|error| Failure::failed(format!("the current folder: {error}")))?;
    Ok(Recipe::from_json(&recipe.to_string())?.resolve(&folder))
}

/// The last part of a path or URL as a name: of letters, digits, `-`, `_` and `.`, 64 at most, beginning with a letter or
/// digit.
fn last_name(path: &str, otherwise: &str) -> String {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = last.chars().map(allowed).skip_while(|c| !c.is_ascii_alphanumeric()).take(64).collect();
    if name.is_empty() { otherwise.into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_paths_and_urls() {
        assert_eq!(last_name("s3://bucket/My pairs/", "input"), "My-pairs");
        assert_eq!(last_name("/data/cc3m.v2", "input"), "cc3m.v2");
        assert_eq!(last_name("/", "input"), "input");
        assert_eq!(last_name("/tmp/.hidden", "input"), "hidden");
    }

    #[test]
    fn a_column_names_its_role() {
        assert_eq!(column("image=jpg").unwrap(), (Role::Image, "jpg".into()));
        assert_eq!(column("caption=a=b").unwrap(), (Role::Caption, "a=b".into()));
        for wrong in ["jpg", "image=", "photo=jpg"] {
            assert!(column(wrong).is_err(), "{wrong}");
        }
    }
}
