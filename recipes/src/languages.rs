//! Languages by their codes: those that CapFilt's filter tells apart.

/// ISO 639-3 and ISO 639-1 of each.
const CODES: [(&str, &str); 70] = [
    ("afr", "af"),
    ("aka", "ak"),
    ("amh", "am"),
    ("ara", "ar"),
    ("aze", "az"),
    ("bel", "be"),
    ("ben", "bn"),
    ("bul", "bg"),
    ("cat", "ca"),
    ("ces", "cs"),
    ("cmn", "zh"),
    ("cym", "cy"),
    ("dan", "da"),
    ("deu", "de"),
    ("ell", "el"),
    ("eng", "en"),
    ("epo", "eo"),
    ("est", "et"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("guj", "gu"),
    ("heb", "he"),
    ("hin", "hi"),
    ("hrv", "hr"),
    ("hun", "hu"),
    ("hye", "hy"),
    ("ind", "id"),
    ("ita", "it"),
    ("jav", "jv"),
    ("jpn", "ja"),
    ("kan", "kn"),
    ("kat", "ka"),
    ("khm", "km"),
    ("kor", "ko"),
    ("lat", "la"),
    ("lav", "lv"),
    ("lit", "lt"),
    ("mal", "ml"),
    ("mar", "mr"),
    ("mkd", "mk"),
    ("mya", "my"),
    ("nep", "ne"),
    ("nld", "nl"),
    ("nob", "nb"),
    ("ori", "or"),
    ("pan", "pa"),
    ("pes", "fa"),
    ("pol", "pl"),
    ("por", "pt"),
    ("ron", "ro"),
    ("rus", "ru"),
    ("sin", "si"),
    ("slk", "sk"),
    ("slv", "sl"),
    ("sna", "sn"),
    ("spa", "es"),
    ("srp", "sr"),
    ("swe", "sv"),
    ("tam", "ta"),
    ("tel", "te"),
    ("tgl", "tl"),
    ("tha", "th"),
    ("tuk", "tk"),
    ("tur", "tr"),
    ("ukr", "uk"),
    ("urd", "ur"),
    ("uzb", "uz"),
    ("vie", "vi"),
    ("yid", "yi"),
    ("zul", "zu"),
];

/// The ISO 639-3 code of a language that is named by that or by its ISO 639-1 code (`en`, `eng`); `None`: it is none of
/// those that can be told apart.
pub fn language(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(long, short)| [*long, *short].contains(&code)).map(|(long, _)| *long)
}

/// The ISO 639-3 codes of all languages that can be told apart, in order.
pub fn languages() -> impl Iterator<Item = &'static str> {
    CODES.iter().map(|(long, _)| *long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_has_two_codes_of_its_own() {
        assert_eq!((language("en"), language("eng"), language("zh")), (Some("eng"), Some("eng"), Some("cmn")));
        assert_eq!([language("EN"), language("english"), language("")], [None; 3]);
        for (long, short) in CODES {
            assert_eq!((language(long), language(short)), (Some(long), Some(long)));
        }
        assert!(languages().is_sorted());
    }
}
