//! Which language a caption is in, as far as that can be told for sure.
//!
//! Captions are short and full of names: what the filter refuses, it has to be sure of. A script that none of the wanted
//! languages is written in says enough. Within one script it takes a text of some length and a detector that is sure.

use quern_recipes::language;
use whatlang::Lang;

/// Letters below which languages of one script can't be told apart.
const LETTERS: usize = 24;
/// The detector's confidence, 0 to 1, from which on it is believed.
const SURE: f64 = 0.5;

/// The language of `text`, where it is for sure none of those in `wanted` (codes as a recipe has them): its ISO 639-3 code,
/// or the likeliest one's of its script.
pub(crate) fn foreign(text: &str, wanted: &[String]) -> Option<&'static str> {
    let mut wanted: Vec<Lang> = wanted.iter().filter_map(|code| Lang::from_code(language(code)?)).collect();
    if wanted.contains(&Lang::Jpn) {
        // Japanese without kana looks like Chinese.
        wanted.push(Lang::Cmn);
    }
    let found = whatlang::detect(text).filter(|_| !wanted.is_empty())?;
    let is_of_their_script = found.script().langs().iter().any(|lang| wanted.contains(lang));
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let is_sure = !is_of_their_script || letters >= LETTERS && found.confidence() >= SURE;
    (is_sure && !wanted.contains(&found.lang())).then_some(found.lang().code())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The languages of `texts`, where only these are wanted.
    fn foreign_to<const N: usize>(wanted: &[&str], texts: [&str; N]) -> [Option<&'static str>; N] {
        let wanted: Vec<_> = wanted.iter().map(|code| (*code).to_owned()).collect();
        texts.map(|text| foreign(text, &wanted))
    }

    #[test]
    fn what_the_recipe_can_name_is_what_the_detector_knows() {
        let mut known: Vec<_> = Lang::all().iter().map(|lang| lang.code()).collect();
        known.sort_unstable();
        assert_eq!(quern_recipes::languages().collect::<Vec<_>>(), known);
    }

    #[test]
    fn long_captions_in_another_language_are_told() {
        let texts = [
            "Zwei kleine Hunde spielen am Strand mit einem roten Ball",
            "Le chat noir dort tranquillement sur le canapé du salon",
            "Two small dogs are playing on the beach with a red ball",
        ];
        assert_eq!(foreign_to(&["en"], texts), [Some("deu"), Some("fra"), None]);
        assert_eq!(foreign_to(&["de", "fra"], texts), [None, None, Some("eng")]);
        assert_eq!(foreign_to(&[], texts), [None; 3]);
    }

    #[test]
    fn another_script_is_enough_and_a_few_letters_of_the_same_are_not() {
        let texts = ["Ein Hund", "Красная машина", "海辺の犬", "東京", "", "2019-07 (1)", "ªº", "\u{0}\u{202e}"];
        let foreign = foreign_to(&["en"], texts);
        assert!(foreign[1].is_some(), "whichever Cyrillic language it is");
        assert_eq!(foreign_to(&["en", "ru"], texts)[1], None, "too short to tell Russian from Bulgarian");
        assert_eq!([foreign[0], foreign[2], foreign[3]], [None, Some("jpn"), Some("cmn")]);
        assert_eq!(foreign[4..], [None; 4], "no letters, no language");
        assert_eq!(foreign_to(&["ja"], texts)[2..4], [None; 2], "Japanese without kana is let through");
    }

    /// Names, brands and titles, which no detector is good at.
    #[test]
    fn short_english_captions_are_let_through() {
        let captions = [
            "a dog",
            "Pink peonies in a vase",
            "Nike Air Max 90 Essential",
            "Mona Lisa by Leonardo da Vinci",
            "Kitchen with stainless steel appliances",
            "Man riding a wave on top of a surfboard",
            "Portrait of a young woman in a green dress",
            "Women's Black Leather Ankle Boots Size 8",
            "Harry Potter and the Deathly Hallows Part 2 Poster",
            "Chicken tikka masala recipe",
            "An illustration of a cat holding balloons",
            "Solid oak dining table and six chairs",
        ];
        assert_eq!(foreign_to(&["en"], captions), [None; 12]);
    }
}
