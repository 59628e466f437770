//! Questions about a scene, with their answers: what the toy language models are trained on beside captions.

use super::random::Random;
use super::scene::{Object, Scene};

/// A question in the form that language models are prompted with, and its one-word (or two-word) answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// `Question: what colour is the circle? Answer:`
    pub question: String,
    /// `red`
    pub answer: String,
}

/// A question that the scene answers without doubt.
pub(crate) fn ask(scene: &Scene, random: &mut Random) -> Question {
    loop {
        if let Some((question, answer)) = draw(scene, random) {
            return Question { question: format!("Question: {question}? Answer:"), answer };
        }
    }
}

/// A question and answer, or `None` where the drawn object can't be told from the others by the drawn trait.
fn draw(scene: &Scene, random: &mut Random) -> Option<(String, String)> {
    let object = random.choose(&scene.objects);
    let by_shape = is_only(scene, |other| other.shape == object.shape);
    let by_colour = is_only(scene, |other| other.colour == object.colour);
    let (shape, colour) = (object.shape.word(), object.colour.word());
    let (known, question, answer) = match random.below(7) {
        0 => (by_shape, format!("what colour is the {shape}"), colour.to_owned()),
        1 => (by_colour, format!("what shape is {colour}"), shape.to_owned()),
        2 => (by_shape, format!("where is the {shape}"), place(object)),
        3 => (by_shape, format!("what size is the {shape}"), object.size.word().to_owned()),
        4 => (by_shape, format!("what texture is the {shape}"), object.texture.word().to_owned()),
        5 => (true, "how many shapes are there".to_owned(), count_word(scene.objects.len()).to_owned()),
        _ => (true, "what colour is the background".to_owned(), scene.background.word().to_owned()),
    };
    known.then_some((question, answer))
}

fn is_only(scene: &Scene, has_trait: impl Fn(&Object) -> bool) -> bool {
    scene.objects.iter().filter(|object| has_trait(object)).count() == 1
}

fn place(object: &Object) -> String {
    format!("{} {}", object.row().word(), object.column().word())
}

fn count_word(count: usize) -> &'static str {
    ["zero", "one", "two", "three"][count]
}
