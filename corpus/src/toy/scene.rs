//! A scene: one to three objects, each in a quadrant of its own, on a plain background.
//!
//! Quadrants make every statement about position clear-cut: an object's extent never crosses the image's middle.

use serde::{Deserialize, Serialize};

use super::random::Random;

/// An attribute with few named values.
macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($value:ident => $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $(#[doc = concat!("“", $word, "”")] $value),+
        }

        impl $name {
            /// Every value, in a fixed order.
            pub const ALL: &'static [$name] = &[$($name::$value),+];

            /// The word that captions use first.
            pub fn word(self) -> &'static str {
                match self { $($name::$value => $word),+ }
            }
        }
    };
}

attribute! {
    /// What an object is.
    Shape { Circle => "circle", Square => "square", Triangle => "triangle", Star => "star", Cross => "cross" }
}
attribute! {
    /// An object's colour.
    Colour { Red => "red", Green => "green", Blue => "blue", Yellow => "yellow", Purple => "purple", Orange => "orange" }
}
attribute! {
    /// An object's size.
    Size { Small => "small", Large => "large" }
}
attribute! {
    /// How an object is filled.
    Texture { Plain => "plain", Striped => "striped", Dotted => "dotted" }
}
attribute! {
    /// The colour behind the objects.
    Background { White => "white", Black => "black", Gray => "gray" }
}
attribute! {
    /// Which half of the image, left to right.
    Column { Left => "left", Right => "right" }
}
attribute! {
    /// Which half of the image, top to bottom.
    Row { Top => "top", Bottom => "bottom" }
}

impl Size {
    /// Radius of the circle around the object, in thousandths of the image's side.
    pub fn radius_permille(self) -> u16 {
        match self {
            Size::Small => 130,
            Size::Large => 215,
        }
    }
}

/// One object of a scene.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// What it is.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its size.
    pub size: Size,
    /// Its filling.
    pub texture: Texture,
    /// Centre, in thousandths of the image's side from the left edge.
    pub x_permille: u16,
    /// Centre, in thousandths of the image's side from the top edge.
    pub y_permille: u16,
}

impl Object {
    /// The half it lies in, left to right.
    pub fn column(&self) -> Column {
        if self.x_permille < 500 { Column::Left } else { Column::Right }
    }

    /// The half it lies in, top to bottom.
    pub fn row(&self) -> Row {
        if self.y_permille < 500 { Row::Top } else { Row::Bottom }
    }
}

/// What an image shows. Serialised as JSON in the corpus' `truth` column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// The colour behind the objects.
    pub background: Background,
    /// One to three objects, in no meaningful order, at most one in each quadrant.
    pub objects: Vec<Object>,
}

/// Shares of scenes with one, two and three objects.
const OBJECT_COUNT_SHARES: [f64; 3] = [0.45, 0.45, 0.10];

impl Scene {
    /// The scene of one row of the corpus with this seed.
    pub fn sample(seed: u64, row: u64) -> Self {
        Self::draw(&mut Random::new(seed, row, "scene"))
    }

    pub(crate) fn draw(random: &mut Random) -> Self {
        let share = random.unit();
        let count = if share < OBJECT_COUNT_SHARES[0] {
            1
        } else if share < OBJECT_COUNT_SHARES[0] + OBJECT_COUNT_SHARES[1] {
            2
        } else {
            3
        };
        let mut quadrants = [(0, 0), (500, 0), (0, 500), (500, 500)];
        random.shuffle(&mut quadrants);
        let background = *random.choose(Background::ALL);
        let objects = quadrants[..count].iter().map(|&corner| draw_object(random, corner)).collect();
        Self { background, objects }
    }
}

/// How far an object's centre is from its quadrant's, at most, in each direction. Small, so that tiny models learn
/// shapes soon.
const JITTER_PERMILLE: u16 = 20;

/// An object in the quadrant with this upper left corner (thousandths).
fn draw_object(random: &mut Random, (left, top): (u16, u16)) -> Object {
    Object {
        shape: *random.choose(Shape::ALL),
        colour: *random.choose(Colour::ALL),
        size: *random.choose(Size::ALL),
        texture: *random.choose(Texture::ALL),
        x_permille: left + random.between(250 - JITTER_PERMILLE, 250 + JITTER_PERMILLE),
        y_permille: top + random.between(250 - JITTER_PERMILLE, 250 + JITTER_PERMILLE),
    }
}
