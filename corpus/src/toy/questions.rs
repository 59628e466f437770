//! Questions about a scene, with their answers: what the toy language models are trained on beside captions, and what
//! the demo asks them.

use super::grammar::own_word;
use super::random::Random;
use super::scene::{Background, Colour, Object, Scene, Shape};

/// A question in the form that language models are prompted with, and its one-word (or two-word) answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// `Question: what colour is the circle? Answer:`
    pub question: String,
    /// `red`
    pub answer: String,
}

/// What questions are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topics {
    /// Colours, shapes, places, sizes, textures, the number of objects, the background.
    All,
    /// The colour of an object of known shape, the shape of an object of known colour. A scene whose objects can be
    /// told apart by neither is asked for its background's colour.
    ShapesAndColours,
}

/// Is it the right answer, letters' case, white space and synonyms aside?
pub fn is_right(answer: &str, expected: &str) -> bool {
    own_words(answer) == own_words(expected)
}

/// How many answers a question about shape or colour has, given the right one; `None` for other questions.
pub fn choices(answer: &str) -> Option<usize> {
    let answer = own_words(answer);
    let among = |words: Vec<&str>| words.contains(&answer.as_str()).then_some(words.len());
    among(Shape::ALL.iter().map(|shape| shape.word()).collect())
        .or_else(|| among(Colour::ALL.iter().map(|colour| colour.word()).collect()))
        .or_else(|| among(Background::ALL.iter().map(|background| background.word()).collect()))
}

/// A question that the scene answers without doubt.
pub(crate) fn ask(scene: &Scene, topics: Topics, random: &mut Random) -> Question {
    let (question, answer) = match topics {
        Topics::All => loop {
            if let Some(drawn) = draw(scene, random) {
                break drawn;
            }
        },
        Topics::ShapesAndColours => {
            let mut known: Vec<(String, String)> = scene
                .objects
                .iter()
                .flat_map(|object| [colour(scene, object), shape(scene, object)])
                .flatten()
                .collect();
            if known.is_empty() { background(scene) } else { known.swap_remove(random.below(known.len())) }
        }
    };
    Question { question: format!("Question: {question}? Answer:"), answer }
}

/// A question and answer, or `None` where the drawn object can't be told from the others by the drawn trait.
fn draw(scene: &Scene, random: &mut Random) -> Option<(String, String)> {
    let object = random.choose(&scene.objects);
    let of_shape = |what: &str, answer: String| {
        is_only(scene, |other| other.shape == object.shape)
            .then(|| (format!("{what} the {}", object.shape.word()), answer))
    };
    match random.below(7) {
        0 => colour(scene, object),
        1 => shape(scene, object),
        2 => of_shape("where is", place(object)),
        3 => of_shape("what size is", object.size.word().to_owned()),
        4 => of_shape("what texture is", object.texture.word().to_owned()),
        5 => Some(("how many shapes are there".to_owned(), count_word(scene.objects.len()).to_owned())),
        _ => Some(background(scene)),
    }
}

/// The colour of an object, if it is the only one of its shape.
fn colour(scene: &Scene, object: &Object) -> Option<(String, String)> {
    is_only(scene, |other| other.shape == object.shape)
        .then(|| (format!("what colour is the {}", object.shape.word()), object.colour.word().to_owned()))
}

/// The shape of an object, if it is the only one of its colour.
fn shape(scene: &Scene, object: &Object) -> Option<(String, String)> {
    is_only(scene, |other| other.colour == object.colour)
        .then(|| (format!("what shape is {}", object.colour.word()), object.shape.word().to_owned()))
}

fn background(scene: &Scene) -> (String, String) {
    ("what colour is the background".to_owned(), scene.background.word().to_owned())
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

/// The text in lower case, with the attributes' own words and single spaces.
fn own_words(text: &str) -> String {
    let lower = text.to_lowercase();
    lower.split_whitespace().map(own_word).collect::<Vec<_>>().join(" ")
}
