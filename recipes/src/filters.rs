//! Thresholds on CapFilt's captions beyond the paper's, which has none: all are off unless a recipe asks for them.

use serde::{Deserialize, Serialize};

use crate::languages::language;
use crate::validate::{Checked, at_least_one, require, within};

/// What a caption must be to be kept, besides being among the best; of a data set that is filtered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// The lowest score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// By how much a written caption must score above the web's own; where there is none, it need not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_margin: Option<f64>,
    /// Where a text is kept once only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedup: Option<Dedup>,
    /// Words at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_words: Option<u32>,
    /// Words at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_words: Option<u32>,
    /// Languages that a web caption may be in, by [`language`]; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
}

/// Within what a text is kept once only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedup {
    /// A shard: its first row that would keep the text does.
    Shard,
}

impl Filters {
    pub(crate) fn validate(&self) -> Checked {
        let key = |field: &str| format!("capfilt.filters.{field}");
        if let Some(score) = self.min_score {
            within(score, (-1.0..=1.0).contains(&score), key("min_score"), "-1 to 1: it is a cosine")?;
        }
        if let Some(margin) = self.min_margin {
            let expected = "-2 to 2: it is the difference of two cosines";
            within(margin, (-2.0..=2.0).contains(&margin), key("min_margin"), expected)?;
        }
        for (at, code) in self.languages.iter().enumerate() {
            require(language(code).is_some(), format!("capfilt.filters.languages[{at}]"), || {
                format!(
                    "is {code:?}, but must be the ISO 639-1 or -3 code of a language that can be told apart, such as en or deu"
                )
            })?;
        }
        for (words, field) in [(self.min_words, "min_words"), (self.max_words, "max_words")] {
            words.map_or(Ok(()), |words| at_least_one(words.into(), key(field)))?;
        }
        let (least, most) = (self.min_words.unwrap_or(0), self.max_words.unwrap_or(u32::MAX));
        require(least <= most, key("min_words"), || {
            format!("is {least}, but must be at most max_words, which is {most}: no caption would be kept")
        })
    }
}
