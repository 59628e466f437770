//! Stage 2 on held-out scenes: which captions are correct, before and after training, and which answers are right.

use std::collections::HashMap;
use std::path::Path;

use futures::TryStreamExt;
use quern_corpus::annotated::{AnnotatedColumns, read_annotated};
use quern_corpus::toy::questions::{choices, is_right};
use quern_corpus::toy::{Scene, is_correct};
use quern_proto::StatusReply;
use serde::{Deserialize, Serialize};

use super::evaluation::{Estimate, evaluate, only};
use super::truth::{Count, failed};
use crate::outcome::Failure;

/// What is asked for.
const TOPICS: [&str; 2] = ["colour", "shape"];
/// Scenes of each topic whose captions and answers the closing table shows.
const SHOWN: usize = 2;

/// Held-out scenes with the right answers to their questions, by row.
pub struct HeldOut {
    path: String,
    scenes: HashMap<String, (Scene, String)>,
}

/// What a language model learnt to say.
#[derive(Debug, Serialize)]
pub struct Language {
    /// The language model's folder.
    pub name: String,
    /// Steps that were trained.
    pub step: u64,
    /// The last step's loss.
    pub lm: f64,
    /// Captions after training.
    pub trained: Captions,
    /// Captions through the projection that training begins with.
    pub untrained: Captions,
    /// Answers to questions about the scenes, by what is asked for.
    pub answers: Vec<Answers>,
    /// Every scene with what was said of it.
    pub scenes: Vec<Said>,
}

/// Captions of the held-out scenes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Captions {
    /// How many are correct.
    pub correct: Count,
    /// Their CIDEr against the scenes' full captions.
    pub cider: Estimate,
}

/// Answers to questions of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answers {
    /// `colour`, `shape`.
    pub about: &'static str,
    /// How many are right.
    pub right: Count,
    /// The share that guessing among the possible answers gets right.
    pub guessing: f64,
}

/// What was said of a scene.
#[derive(Debug, Clone, Serialize)]
pub struct Said {
    /// The scene's row.
    pub row: String,
    /// The caption.
    pub caption: String,
    /// Whether it is true of the scene.
    pub correct: bool,
    /// What was asked, as the model read it.
    pub prompt: String,
    /// What the model answered.
    pub answer: String,
    /// The right answer.
    pub truth: String,
}

/// What `quern-worker eval caption --json` prints.
#[derive(Deserialize)]
struct CaptionReport {
    #[serde(rename = "CIDEr")]
    cider: Estimate,
    captions: Vec<Captioned>,
}

#[derive(Deserialize)]
struct Captioned {
    row: String,
    caption: String,
}

/// A line of `quern-worker caption --json`.
#[derive(Deserialize)]
struct Answered {
    image: String,
    prompt: String,
    caption: String,
}

impl HeldOut {
    /// Reads the scenes at `path`.
    pub async fn read(path: &str) -> Result<Self, Failure> {
        let mut scenes = HashMap::new();
        for ((row, truth), (_, answer)) in texts(path, "truth").await?.into_iter().zip(texts(path, "answer").await?) {
            let scene = serde_json::from_str(&truth)
                .map_err(|error| Failure::failed(format!("{row}: its column `truth` is no scene: {error}")))?;
            scenes.insert(row, (scene, answer));
        }
        Ok(HeldOut { path: path.into(), scenes })
    }

    fn scene(&self, row: &str) -> Result<&(Scene, String), Failure> {
        self.scenes.get(row).ok_or_else(|| Failure::failed(format!("{row} is no row of {}", self.path)))
    }

    /// Captions of the weights that `weights` names: all together, and each with whether it is correct.
    async fn captions(&self, recipe: &Path, weights: [&str; 2]) -> Result<(Captions, Vec<(Captioned, bool)>), Failure> {
        let recipe = recipe.display().to_string();
        let mut arguments = vec!["eval", "caption", "--recipe", &recipe, "--dataset", &self.path];
        arguments.extend(weights);
        arguments.extend(["--max-length", "48"]);
        let CaptionReport { cider, captions } = only(evaluate(arguments).await?)?;
        let mut correct = Count::default();
        let mut judged = Vec::with_capacity(captions.len());
        for captioned in captions {
            let is_correct = is_correct(&captioned.caption, &self.scene(&captioned.row)?.0);
            correct.add(is_correct);
            judged.push((captioned, is_correct));
        }
        Ok((Captions { correct, cider }, judged))
    }

    /// Answers to each scene's own question.
    async fn answers(&self, recipe: &Path, checkpoint: &str) -> Result<Vec<Answered>, Failure> {
        let recipe = recipe.display().to_string();
        let mut arguments = vec!["caption", "--recipe", &recipe, "--checkpoint", checkpoint];
        arguments.extend(["--dataset", &self.path, "--prompt-column", "question"]);
        arguments.extend(["--greedy", "--max-length", "10"]);
        evaluate(arguments).await
    }
}

impl Language {
    /// Measures stage 2's `checkpoint` of the recipe in the file `recipe`, beside the stage 1 that it began with.
    pub async fn measure(
        name: &str,
        recipe: &Path,
        stage1: &str,
        checkpoint: &str,
        last: &StatusReply,
        held_out: &HeldOut,
    ) -> Result<Self, Failure> {
        let (trained, captions) = held_out.captions(recipe, ["--checkpoint", checkpoint]).await?;
        let (untrained, _) = held_out.captions(recipe, ["--before-stage2", stage1]).await?;
        let mut answered: HashMap<String, Answered> = HashMap::new();
        for answer in held_out.answers(recipe, checkpoint).await? {
            answered.insert(answer.image.clone(), answer);
        }
        let mut scenes = Vec::new();
        for (Captioned { row, caption }, correct) in captions {
            let (_, truth) = held_out.scene(&row)?;
            let Some(Answered { prompt, caption: answer, .. }) = answered.remove(&row) else {
                return Err(Failure::failed(format!("{row}: its question was not answered")));
            };
            scenes.push(Said { caption, correct, prompt, answer: answer.trim().into(), truth: truth.clone(), row });
        }
        let losses = last.stages.last().and_then(|stage2| stage2.last_losses).unwrap_or_default();
        Ok(Language {
            name: name.into(),
            step: losses.step,
            lm: losses.lm.unwrap_or_default(),
            trained,
            untrained,
            answers: TOPICS.map(|about| Answers::about(about, &scenes)).into(),
            scenes,
        })
    }

    /// The first scenes of each kind of question.
    pub fn examples(&self) -> impl Iterator<Item = &Said> {
        TOPICS.iter().flat_map(|about| self.scenes.iter().filter(|said| said.is_about(about)).take(SHOWN))
    }
}

impl Said {
    fn is_about(&self, topic: &str) -> bool {
        self.prompt.contains(&format!("what {topic} is"))
    }
}

impl Answers {
    fn about(about: &'static str, scenes: &[Said]) -> Self {
        let (mut right, mut guessing) = (Count::default(), 0.0);
        for said in scenes.iter().filter(|said| said.is_about(about)) {
            right.add(is_right(&said.answer, &said.truth));
            guessing += 1.0 / choices(&said.truth).unwrap_or(1) as f64;
        }
        Answers { about, right, guessing: guessing / right.captions.max(1) as f64 }
    }
}

/// Every row of a column.
async fn texts(path: &str, column: &str) -> Result<Vec<(String, String)>, Failure> {
    let columns = AnnotatedColumns { image: "jpg".into(), texts: vec![column.into()], key: "key".into() };
    let rows = read_annotated(path, &columns).await.map_err(|error| failed(&error))?;
    let texts = rows.map_ok(|row| (row.id.to_string(), row.texts.into_iter().next().unwrap_or_default()));
    texts.try_collect().await.map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(prompt: &str, answer: &str, truth: &str) -> Said {
        Said {
            row: "held-out/0.parquet#0".into(),
            caption: String::new(),
            correct: false,
            prompt: format!("Question: {prompt}? Answer:"),
            answer: answer.into(),
            truth: truth.into(),
        }
    }

    #[test]
    fn answers_are_counted_by_what_is_asked_for() {
        let scenes = [
            said("what colour is the circle", "red", "red"),
            said("what colour is the circle", "blue", "red"),
            said("what shape is red", "circle", "circle"),
        ];
        let [colours, shapes] = TOPICS.map(|about| Answers::about(about, &scenes));
        assert_eq!((colours.right.correct, colours.right.captions), (1, 2));
        assert_eq!((shapes.right.correct, shapes.right.captions), (1, 1));
        assert_eq!(colours.guessing, 1.0 / choices("red").unwrap() as f64);
    }

    #[test]
    fn the_workers_report_is_read() {
        let json = r#"{"n": 1, "step": 4, "CIDEr": {"value": 1.5, "standard_error": 0.1}, "Bleu_4": 0.2,
            "captions": [{"row": "r", "key": null, "caption": "a", "references": ["b"], "CIDEr": 1.5}]}"#;
        let report: CaptionReport = serde_json::from_str(json).unwrap();
        assert_eq!((report.cider.value, report.captions[0].caption.as_str()), (1.5, "a"));
    }
}
