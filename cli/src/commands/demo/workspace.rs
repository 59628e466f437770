//! The demo's folder: which settings it was made with, and where things are in it.

use std::fs;
use std::path::{Path, PathBuf};

use quern_recipes::Recipe;
use serde::{Deserialize, Serialize};

use super::summary::Summary;
use crate::outcome::Failure;

/// Written first into the folder: what it holds is the demo's own.
const MARKER: &str = "demo.json";

/// Written when both corpora are whole.
const CORPORA_MARKER: &str = "corpora.done";

/// What a demo's results depend on, beyond its recipes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of quern.
    pub version: String,
    /// Rows of the web corpus.
    pub rows: u64,
    /// Share of wrong captions.
    pub junk: f64,
    /// Held-out scenes.
    pub held_out: u64,
    /// Hashes of the recipes: with CapFilt, without, towards a T5.
    pub recipes: [String; 3],
}

/// The folder.
pub struct Workspace {
    folder: PathBuf,
}

impl Workspace {
    /// Makes the folder, or takes up an earlier demo of the same settings in it.
    pub fn open(folder: &Path, settings: &Settings, fresh: bool) -> Result<Self, Failure> {
        let marker = folder.join(MARKER);
        let earlier = fs::read_to_string(&marker).ok();
        if earlier.is_some() && fresh {
            fs::remove_dir_all(folder).map_err(|error| trouble("the earlier demo can't be deleted", folder, &error))?;
        }
        match earlier.filter(|_| !fresh) {
            Some(text) => {
                let same = serde_json::from_str::<Settings>(&text).is_ok_and(|earlier| earlier == *settings);
                if !same {
                    return Err(Failure::bad_input(format!(
                        "{} holds a demo with other settings: add --fresh to delete it, or name another folder with --out",
                        folder.display()
                    )));
                }
            }
            None => {
                let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
                if occupied {
                    return Err(Failure::bad_input(format!(
                        "{} holds files that are no demo: name another folder with --out",
                        folder.display()
                    )));
                }
                fs::create_dir_all(folder).map_err(|error| trouble("the folder can't be made", folder, &error))?;
                let text = serde_json::to_string_pretty(settings).expect("settings are plain JSON");
                fs::write(&marker, text)
                    .map_err(|error| trouble("the demo's marker can't be written", &marker, &error))?;
            }
        }
        let folder = folder.canonicalize().map_err(|error| trouble("the folder can't be resolved", folder, &error))?;
        Ok(Workspace { folder })
    }

    /// The web corpus.
    pub fn corpus(&self) -> String {
        self.path("corpus")
    }

    /// The held-out scenes.
    pub fn held_out(&self) -> String {
        self.path("held-out")
    }

    /// Whether both corpora are whole.
    pub fn has_corpora(&self) -> bool {
        self.folder.join(CORPORA_MARKER).is_file()
    }

    /// Both corpora are whole.
    pub fn mark_corpora(&self) -> Result<(), Failure> {
        let marker = self.folder.join(CORPORA_MARKER);
        fs::write(&marker, "").map_err(|error| trouble("it can't be written", &marker, &error))
    }

    /// The file of recipe `name` as it is run.
    pub fn recipe_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.recipe.yaml"))
    }

    /// A file or folder that belongs to the output `name`.
    pub fn beside(&self, name: &str, what: &str) -> PathBuf {
        self.folder.join(format!("{name}.{what}"))
    }

    /// The numbers of the closing table.
    pub fn summary_file(&self) -> PathBuf {
        self.folder.join("summary.json")
    }

    /// Writes the numbers of the closing table.
    pub fn keep_summary(&self, summary: &Summary) -> Result<(), Failure> {
        let file = self.summary_file();
        let text = serde_json::to_string_pretty(summary).expect("a summary is plain JSON");
        fs::write(&file, text + "\n").map_err(|error| trouble("the summary can't be written", &file, &error))
    }

    /// `recipe` with input and output in this folder, written beside the output `name`.
    pub fn place(&self, recipe: Recipe, name: &str) -> Result<Recipe, Failure> {
        let mut recipe = recipe;
        recipe.output = self.path(name);
        for dataset in &mut recipe.datasets {
            dataset.path = self.corpus();
        }
        // JSON is YAML, so the text is a recipe; reading it checks the changes.
        let file = self.recipe_file(name);
        fs::write(&file, recipe.to_json()).map_err(|error| trouble("the recipe can't be written", &file, &error))?;
        Ok(Recipe::read(&file)?)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

fn trouble(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { version: "0".into(), rows: 100, junk: 0.6, held_out: 10, recipes: ["a", "b", "c"].map(String::from) }
    }

    #[test]
    fn a_demo_goes_on_with_the_same_settings_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("demo");
        let first = Workspace::open(&folder, &settings(), false).unwrap();
        first.mark_corpora().unwrap();
        assert!(Workspace::open(&folder, &settings(), false).unwrap().has_corpora());
        let other = Settings { rows: 200, ..settings() };
        assert!(matches!(Workspace::open(&folder, &other, false), Err(Failure::BadInput(_))));
        assert!(!Workspace::open(&folder, &other, true).unwrap().has_corpora(), "--fresh begins anew");
    }

    #[test]
    fn foreign_files_are_never_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let thesis = folder.path().join("thesis.tex");
        fs::write(&thesis, "years of work").unwrap();
        for fresh in [false, true] {
            assert!(matches!(Workspace::open(folder.path(), &settings(), fresh), Err(Failure::BadInput(_))));
        }
        assert!(thesis.is_file());
    }
}
