//! `quern k8s render`: a recipe's `cluster.kubernetes` as YAML, for `kubectl apply -f -`.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use quern_recipes::{Kubernetes, Recipe};
use serde::Serialize;

use crate::commands::k8s::{gang, job};
use crate::outcome::{Done, Failure};

/// Print a recipe's workers as Kubernetes resources: a Job for CapFilt, a JobSet for training.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe's file.
    recipe: PathBuf,
    /// Instead of the recipe's `cluster.kubernetes.namespace`.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The workers' image, instead of the recipe's `cluster.kubernetes.image`.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
}

/// The longest name of a run: Kubernetes lets a pod's have 63 characters, and `-train-ranks-0-99999-abcde` follows.
const MAX_NAME: usize = 37;

/// A run, as its resources see it.
pub struct Run<'a> {
    /// Its name, as a DNS label.
    pub name: String,
    /// What its workers are like.
    pub kubernetes: &'a Kubernetes,
}

/// Prints one YAML document per resource.
pub fn render(arguments: Arguments) -> Result<Done, Failure> {
    let mut recipe = Recipe::read(&arguments.recipe)?;
    let kubernetes = recipe.cluster.kubernetes.get_or_insert_default();
    replace(&mut kubernetes.namespace, arguments.namespace);
    replace(&mut kubernetes.image, arguments.image);
    recipe.validate().map_err(|broken| Failure::bad_input(format!("`{}`: {}", broken.key, broken.message)))?;

    let yaml = documents(&recipe)?;
    match std::io::stdout().write_all(yaml.as_bytes()) {
        Ok(()) => Ok(Done::Completely),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Done::Completely),
        Err(error) => Err(Failure::failed(format!("the resources can't be printed: {error}"))),
    }
}

fn replace(value: &mut String, with: Option<String>) {
    if let Some(with) = with {
        *value = with;
    }
}

fn documents(recipe: &Recipe) -> Result<String, Failure> {
    let kubernetes = recipe.cluster.kubernetes.clone().unwrap_or_default();
    let run = Run { name: name(&recipe.name)?, kubernetes: &kubernetes };
    let ranks = crate::launch::ranks(recipe).map(|(_, ranks)| ranks).max();
    let mut yaml = String::new();
    if recipe.capfilt.is_some() {
        yaml += &document(&job::elastic(&run));
    }
    if let Some(ranks) = ranks {
        yaml += &document(&gang::of(&run, ranks));
    }
    match yaml.is_empty() {
        true => {
            Err(Failure::bad_input("there is nothing to render: the recipe has no `capfilt`, `stage1` or `stage2`"))
        }
        false => Ok(yaml),
    }
}

fn document(resource: &impl Serialize) -> String {
    let yaml = serde_saphyr::to_string(resource).expect("a resource holds only what YAML can state");
    format!("---\n{yaml}")
}

/// The recipe's name as a DNS label: in lower case, with `-` for what a label can't hold.
fn name(recipe: &str) -> Result<String, Failure> {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let spelled: String = recipe.chars().map(fit).collect();
    let words: Vec<&str> = spelled.split('-').filter(|word| !word.is_empty()).collect();
    let name = words.join("-");
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.len() > MAX_NAME {
        return Err(Failure::bad_input(format!(
            "`name`: `{recipe}` gives no Kubernetes name: it must begin with a letter, and have at most {MAX_NAME} letters, \
             digits and `-`"
        )));
    }
    Ok(name)
}
