//! The caption grammar: a writer of correct captions, a parser, and the one function that decides correctness.
//!
//! ```text
//! caption    := object ((“and” | relation) object)* [background]          at most three objects
//! object     := (“a” | “an”) [size] [texture] [colour] (shape | “shape”) [place]
//! place      := “at” (row | column | row column)
//! relation   := [“to the”] (“left” | “right”) “of” | “above” | “below” | “under”
//! background := “on” colour | “on a” colour “background”
//! ```
//!
//! Some words have a synonym ([`SYNONYMS`]). Letters' case and runs of white space don't matter. A caption is correct
//! iff its objects can be matched to different objects of the scene such that all that is stated holds; whatever is
//! left out can't be wrong. So a scene has many correct captions.

use super::random::Random;
use super::scene::{Background, Colour, Column, Object, Row, Scene, Shape, Size, Texture};

/// Words that mean the same, the attribute's own word first.
pub const SYNONYMS: &[(&str, &str)] =
    &[("small", "little"), ("large", "big"), ("dotted", "spotted"), ("cross", "plus"), ("gray", "grey")];

/// What a caption says about one object. `None` is left unsaid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectClaim {
    /// Its size.
    pub size: Option<Size>,
    /// Its filling.
    pub texture: Option<Texture>,
    /// Its colour.
    pub colour: Option<Colour>,
    /// What it is; unsaid, the noun is “shape”.
    pub shape: Option<Shape>,
    /// Its half of the image, top to bottom.
    pub row: Option<Row>,
    /// Its half of the image, left to right.
    pub column: Option<Column>,
}

/// How two objects that follow each other in a caption are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Joint {
    /// “and”: nothing is said of their positions.
    And,
    /// The first is in the left half, the second in the right.
    LeftOf,
    /// The first is in the right half, the second in the left.
    RightOf,
    /// The first is in the upper half, the second in the lower.
    Above,
    /// The first is in the lower half, the second in the upper.
    Below,
}

/// The meaning of a caption.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// What it says of the objects, in the caption's order; one to three.
    pub objects: Vec<ObjectClaim>,
    /// How each object is joined to the next: one fewer than objects.
    pub joints: Vec<Joint>,
    /// The background, where it is mentioned.
    pub background: Option<Background>,
}

/// Is the caption correct: does it parse, and is all that it states true of the scene?
pub fn is_correct(caption: &str, scene: &Scene) -> bool {
    parse(caption).is_some_and(|claim| claim.holds(scene))
}

// ---------------------------------------------------------------------------------------------------------- truth

impl Claim {
    /// Is all that it states true of the scene?
    pub fn holds(&self, scene: &Scene) -> bool {
        self.background.is_none_or(|background| background == scene.background)
            && self.matches_from(scene, &mut Vec::new())
    }

    /// Can the objects after the first `chosen.len()` be matched to objects of the scene that aren't chosen yet?
    fn matches_from(&self, scene: &Scene, chosen: &mut Vec<usize>) -> bool {
        let next = chosen.len();
        let Some(claim) = self.objects.get(next) else { return true };
        (0..scene.objects.len()).any(|candidate| {
            if chosen.contains(&candidate) || !claim.holds(&scene.objects[candidate]) {
                return false;
            }
            if let Some(&previous) = chosen.last()
                && !self.joints[next - 1].holds(&scene.objects[previous], &scene.objects[candidate])
            {
                return false;
            }
            chosen.push(candidate);
            let matched = self.matches_from(scene, chosen);
            chosen.pop();
            matched
        })
    }
}

impl ObjectClaim {
    /// Everything that can be said of an object.
    pub fn full(object: &Object) -> Self {
        Self {
            size: Some(object.size),
            texture: Some(object.texture),
            colour: Some(object.colour),
            shape: Some(object.shape),
            row: Some(object.row()),
            column: Some(object.column()),
        }
    }

    fn holds(&self, object: &Object) -> bool {
        self.size.is_none_or(|size| size == object.size)
            && self.texture.is_none_or(|texture| texture == object.texture)
            && self.colour.is_none_or(|colour| colour == object.colour)
            && self.shape.is_none_or(|shape| shape == object.shape)
            && self.row.is_none_or(|row| row == object.row())
            && self.column.is_none_or(|column| column == object.column())
    }
}

impl Joint {
    const RELATIONS: [Joint; 4] = [Joint::LeftOf, Joint::RightOf, Joint::Above, Joint::Below];

    fn holds(self, first: &Object, second: &Object) -> bool {
        match self {
            Joint::And => true,
            Joint::LeftOf => first.column() < second.column(),
            Joint::RightOf => first.column() > second.column(),
            Joint::Above => first.row() < second.row(),
            Joint::Below => first.row() > second.row(),
        }
    }
}

// -------------------------------------------------------------------------------------------------------- writing

impl Claim {
    /// Everything that can be said of a scene; the objects in reading order.
    pub fn full(scene: &Scene) -> Self {
        let mut objects: Vec<&Object> = scene.objects.iter().collect();
        objects.sort_by_key(|object| (object.row(), object.column()));
        Self {
            joints: vec![Joint::And; objects.len() - 1],
            objects: objects.into_iter().map(ObjectClaim::full).collect(),
            background: Some(scene.background),
        }
    }

    /// The caption in the attributes' own words, without synonyms.
    pub fn write(&self) -> String {
        self.write_with(|_| false)
    }

    /// The caption; `vary` decides at each choice of words whether the rarer one is taken.
    pub(crate) fn write_with(&self, mut vary: impl FnMut(&str) -> bool) -> String {
        let mut words: Vec<&str> = Vec::new();
        for (index, object) in self.objects.iter().enumerate() {
            if index > 0 {
                write_joint(self.joints[index - 1], &mut words, &mut vary);
            }
            write_object(object, &mut words, &mut vary);
        }
        if let Some(background) = self.background {
            let colour = synonym(background.word(), &mut vary);
            if vary("background") {
                words.extend(["on", "a", colour, "background"]);
            } else {
                words.extend(["on", colour]);
            }
        }
        words.join(" ")
    }
}

fn write_object<'a>(claim: &ObjectClaim, words: &mut Vec<&'a str>, vary: &mut impl FnMut(&str) -> bool) {
    let mut phrase: Vec<&'a str> = Vec::new();
    phrase.extend(claim.size.map(|size| synonym(size.word(), vary)));
    phrase.extend(claim.texture.map(|texture| synonym(texture.word(), vary)));
    phrase.extend(claim.colour.map(Colour::word));
    phrase.push(claim.shape.map_or("shape", |shape| synonym(shape.word(), vary)));
    words.push(article(phrase[0]));
    words.append(&mut phrase);
    if claim.row.is_some() || claim.column.is_some() {
        words.push("at");
        words.extend(claim.row.map(Row::word));
        words.extend(claim.column.map(Column::word));
    }
}

fn write_joint<'a>(joint: Joint, words: &mut Vec<&'a str>, vary: &mut impl FnMut(&str) -> bool) {
    let phrase: &[&'a str] = match joint {
        Joint::And => &["and"],
        Joint::LeftOf if vary("left") => &["to", "the", "left", "of"],
        Joint::LeftOf => &["left", "of"],
        Joint::RightOf if vary("right") => &["to", "the", "right", "of"],
        Joint::RightOf => &["right", "of"],
        Joint::Above => &["above"],
        Joint::Below if vary("below") => &["under"],
        Joint::Below => &["below"],
    };
    words.extend(phrase);
}

fn article(next_word: &str) -> &'static str {
    if next_word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn synonym(word: &'static str, vary: &mut impl FnMut(&str) -> bool) -> &'static str {
    match SYNONYMS.iter().find(|(own, _)| *own == word) {
        Some((own, other)) if vary(own) => other,
        _ => word,
    }
}

/// How often the rarer of two wordings is taken.
const VARIATION_SHARE: f64 = 0.25;

/// A correct caption of the scene, one of many: a random level of detail, some objects left out, any order.
pub(crate) fn write_correct(scene: &Scene, random: &mut Random) -> String {
    let claim = loop {
        let claim = draw_claim(scene, random);
        if claim.is_informative() {
            break claim;
        }
    };
    write_varied(&claim, random)
}

/// The claim in words, synonyms drawn.
pub(crate) fn write_varied(claim: &Claim, random: &mut Random) -> String {
    claim.write_with(|_| random.chance(VARIATION_SHARE))
}

/// Levels of detail, drawn once per caption: how probable the mention of size, texture, place and background is.
const DETAIL_LEVELS: [f64; 4] = [0.35, 0.6, 0.85, 1.0];

fn draw_claim(scene: &Scene, random: &mut Random) -> Claim {
    let detail = *random.choose(&DETAIL_LEVELS);
    let mut order: Vec<&Object> = scene.objects.iter().collect();
    random.shuffle(&mut order);
    while order.len() > 1 && random.chance(0.5 * (1.0 - detail)) {
        order.pop();
    }
    let mut objects: Vec<ObjectClaim> = order.iter().map(|object| draw_object_claim(object, detail, random)).collect();
    let joints: Vec<Joint> = order.windows(2).map(|pair| draw_joint(pair[0], pair[1], random)).collect();
    for (index, joint) in joints.iter().enumerate() {
        if *joint != Joint::And {
            for object in &mut objects[index..=index + 1] {
                (object.row, object.column) = (None, None);
            }
        }
    }
    let background = random.chance(0.8 * detail).then_some(scene.background);
    Claim { objects, joints, background }
}

fn draw_object_claim(object: &Object, detail: f64, random: &mut Random) -> ObjectClaim {
    let likely = 0.5 + 0.5 * detail;
    let full = ObjectClaim::full(object);
    let place = random.chance(detail);
    let one_side = random.chance(0.4 * (1.0 - detail));
    let (row, column) = match (place, one_side) {
        (false, _) => (None, None),
        (true, false) => (full.row, full.column),
        (true, true) if random.chance(0.5) => (full.row, None),
        (true, true) => (None, full.column),
    };
    ObjectClaim {
        size: full.size.filter(|_| random.chance(detail)),
        texture: full.texture.filter(|_| random.chance(detail)),
        colour: full.colour.filter(|_| random.chance(likely)),
        shape: full.shape.filter(|_| random.chance(likely)),
        row,
        column,
    }
}

/// “and”, or, one time in four, a relation that holds.
fn draw_joint(first: &Object, second: &Object, random: &mut Random) -> Joint {
    if random.chance(0.75) {
        return Joint::And;
    }
    let holding: Vec<Joint> = Joint::RELATIONS.into_iter().filter(|relation| relation.holds(first, second)).collect();
    *random.choose(&holding)
}

impl Claim {
    /// Does every object come with its colour or shape, and at least two things said in all? (“a shape” is no caption.)
    fn is_informative(&self) -> bool {
        self.objects.iter().all(|object| object.colour.is_some() || object.shape.is_some())
            && self.objects.iter().map(ObjectClaim::facts).sum::<usize>() >= 2
    }
}

impl ObjectClaim {
    fn facts(&self) -> usize {
        [
            self.size.is_some(),
            self.texture.is_some(),
            self.colour.is_some(),
            self.shape.is_some(),
            self.row.is_some(),
            self.column.is_some(),
        ]
        .into_iter()
        .filter(|&said| said)
        .count()
    }
}

// -------------------------------------------------------------------------------------------------------- parsing

/// Most objects that a caption (and a scene) can have.
const MAX_OBJECTS: usize = 3;

/// The meaning of a caption, or `None` if it isn't in the grammar.
pub fn parse(caption: &str) -> Option<Claim> {
    let lower = caption.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().map(own_word).collect();
    let mut rest = words.as_slice();
    let mut claim = Claim { objects: vec![parse_object(&mut rest)?], joints: Vec::new(), background: None };
    while !rest.is_empty() && rest[0] != "on" {
        claim.joints.push(parse_joint(&mut rest)?);
        claim.objects.push(parse_object(&mut rest)?);
    }
    if !rest.is_empty() {
        claim.background = Some(parse_background(&mut rest)?);
    }
    (rest.is_empty() && claim.objects.len() <= MAX_OBJECTS).then_some(claim)
}

/// The attribute's own word for a synonym; any other word as it is.
pub(crate) fn own_word(word: &str) -> &str {
    SYNONYMS.iter().find(|(_, other)| *other == word).map_or(word, |(own, _)| own)
}

/// Drops the phrase from the front of `rest`, if it is there.
fn take<'a>(rest: &mut &'a [&'a str], phrase: &[&str]) -> bool {
    let found = rest.starts_with(phrase);
    if found {
        *rest = &rest[phrase.len()..];
    }
    found
}

/// Drops the word from the front of `rest` if it names one of the values.
fn take_value<'a, T: Copy>(rest: &mut &'a [&'a str], values: &[T], word_of: impl Fn(T) -> &'static str) -> Option<T> {
    values.iter().copied().find(|&value| take(rest, &[word_of(value)]))
}

fn parse_object<'a>(rest: &mut &'a [&'a str]) -> Option<ObjectClaim> {
    let (given, after) = rest.split_first()?;
    if after.is_empty() || *given != article(after[0]) {
        return None;
    }
    *rest = after;
    let mut claim = ObjectClaim {
        size: take_value(rest, Size::ALL, Size::word),
        texture: take_value(rest, Texture::ALL, Texture::word),
        colour: take_value(rest, Colour::ALL, Colour::word),
        ..ObjectClaim::default()
    };
    if !take(rest, &["shape"]) {
        claim.shape = Some(take_value(rest, Shape::ALL, Shape::word)?);
    }
    if take(rest, &["at"]) {
        claim.row = take_value(rest, Row::ALL, Row::word);
        claim.column = take_value(rest, Column::ALL, Column::word);
        if claim.row.is_none() && claim.column.is_none() {
            return None;
        }
    }
    Some(claim)
}

fn parse_joint<'a>(rest: &mut &'a [&'a str]) -> Option<Joint> {
    if take(rest, &["and"]) {
        return Some(Joint::And);
    }
    if take(rest, &["above"]) {
        return Some(Joint::Above);
    }
    if take(rest, &["below"]) || take(rest, &["under"]) {
        return Some(Joint::Below);
    }
    take(rest, &["to", "the"]);
    if take(rest, &["left", "of"]) {
        return Some(Joint::LeftOf);
    }
    take(rest, &["right", "of"]).then_some(Joint::RightOf)
}

fn parse_background<'a>(rest: &mut &'a [&'a str]) -> Option<Background> {
    if take(rest, &["on", "a"]) {
        let background = take_value(rest, Background::ALL, Background::word)?;
        return take(rest, &["background"]).then_some(background);
    }
    take(rest, &["on"]).then(|| take_value(rest, Background::ALL, Background::word))?
}
