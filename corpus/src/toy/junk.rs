//! What the web says of a scene instead of a caption. Nothing here is ever a correct caption of the scene.

use super::grammar::{self, Claim, ObjectClaim, is_correct};
use super::random::Random;
use super::scene::{Background, Colour, Column, Row, Scene, Shape, Size, Texture};

/// The kinds of wrong web caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Junk {
    /// A caption of some other scene.
    OtherScene,
    /// A caption of this scene with one thing in it changed.
    OneChange,
    /// A camera's or an upload tool's file name.
    FileName,
    /// A shop's text.
    ShopSpam,
    /// A correct caption that breaks off.
    CutOff,
    /// Empty text.
    Empty,
    /// No text at all.
    Null,
}

/// Every kind with its share among the wrong captions.
pub const SHARES: [(Junk, f64); 7] = [
    (Junk::OtherScene, 0.35),
    (Junk::OneChange, 0.25),
    (Junk::FileName, 0.10),
    (Junk::ShopSpam, 0.15),
    (Junk::CutOff, 0.10),
    (Junk::Empty, 0.025),
    (Junk::Null, 0.025),
];

/// A wrong caption of a kind drawn by [`SHARES`]; `None` is a null caption.
pub(crate) fn write_junk(scene: &Scene, random: &mut Random) -> Option<String> {
    let mut share = random.unit();
    let mut kind = Junk::Null;
    for (candidate, its_share) in SHARES {
        if share < its_share {
            kind = candidate;
            break;
        }
        share -= its_share;
    }
    write_kind(kind, scene, random)
}

/// A wrong caption of this kind: drawn again until it isn't, by chance, correct.
pub(crate) fn write_kind(kind: Junk, scene: &Scene, random: &mut Random) -> Option<String> {
    loop {
        let text = match kind {
            Junk::OtherScene => grammar::write_correct(&Scene::draw(random), random),
            Junk::OneChange => write_one_change(scene, random),
            Junk::FileName => write_file_name(random),
            Junk::ShopSpam => write_shop_spam(random),
            Junk::CutOff => cut_off(&grammar::write_correct(scene, random), random),
            Junk::Empty => String::new(),
            Junk::Null => return None,
        };
        if !is_correct(&text, scene) {
            return Some(text);
        }
    }
}

/// A caption that is wrong in one attribute, the background, or a relation, and right in the rest.
pub(crate) fn write_one_change(scene: &Scene, random: &mut Random) -> String {
    loop {
        let correct = grammar::write_correct(scene, random);
        let Some(mut claim) = grammar::parse(&correct) else { continue };
        change_one(&mut claim, random);
        let changed = grammar::write_varied(&claim, random);
        if !is_correct(&changed, scene) {
            return changed;
        }
    }
}

/// Changes one of the things said, whichever is drawn first among those that are said.
fn change_one(claim: &mut Claim, random: &mut Random) {
    if random.chance(0.1)
        && let Some(background) = &mut claim.background
    {
        *background = another(Background::ALL, *background, random);
        return;
    }
    if !claim.joints.is_empty() && random.chance(0.15) {
        let index = random.below(claim.joints.len());
        claim.objects.swap(index, index + 1);
        return;
    }
    let index = random.below(claim.objects.len());
    change_object(&mut claim.objects[index], random);
}

fn change_object(object: &mut ObjectClaim, random: &mut Random) {
    loop {
        let changed = match random.below(6) {
            0 => change(&mut object.size, Size::ALL, random),
            1 => change(&mut object.texture, Texture::ALL, random),
            2 => change(&mut object.colour, Colour::ALL, random),
            3 => change(&mut object.shape, Shape::ALL, random),
            4 => change(&mut object.row, Row::ALL, random),
            _ => change(&mut object.column, Column::ALL, random),
        };
        if changed {
            return;
        }
    }
}

fn change<T: Copy + PartialEq>(said: &mut Option<T>, all: &[T], random: &mut Random) -> bool {
    match said {
        Some(value) => {
            *value = another(all, *value, random);
            true
        }
        None => false,
    }
}

fn another<T: Copy + PartialEq>(all: &[T], value: T, random: &mut Random) -> T {
    let others: Vec<T> = all.iter().copied().filter(|other| *other != value).collect();
    *random.choose(&others)
}

fn write_file_name(random: &mut Random) -> String {
    let number = random.below(10_000);
    match random.below(4) {
        0 => format!("IMG_{number:04}.jpg"),
        1 => format!("DSC{number:05}.JPG"),
        2 => format!("screenshot-{number}.png"),
        _ => format!("untitled {} final.jpg", number % 100),
    }
}

fn write_shop_spam(random: &mut Random) -> String {
    const OFFERS: [&str; 4] = ["free shipping", "best price", "buy now", "sale"];
    const GOODS: [&str; 4] = ["wall art", "sticker", "phone case", "t-shirt"];
    const TAILS: [&str; 4] = ["order today!", "only 9.99", "50% off", "limited offer!"];
    let (offer, goods, tail) = (random.choose(&OFFERS), random.choose(&GOODS), random.choose(&TAILS));
    let colour = random.choose(Colour::ALL).word();
    let shape = random.choose(Shape::ALL).word();
    format!("{offer} {colour} {shape} {goods} {tail}")
}

fn cut_off(caption: &str, random: &mut Random) -> String {
    let end = 1 + random.below(caption.len() - 1);
    format!("{}...", caption[..end].trim_end())
}
