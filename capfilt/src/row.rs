//! What became of a row.

use std::fmt;

use bytes::Bytes;
use quern_corpus::RowId;
use quern_corpus::reader::{MissingImage, RawRow};

use crate::candidate::Candidate;

/// Where a row failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The row holds no image, its image could not be had, or it holds no caption where one is needed.
    Read,
    /// The image is refused, of no known format, truncated or damaged.
    Decode,
    /// No caption could be written.
    Caption,
    /// The captions could not be ranked.
    Rank,
    /// The row could not be written.
    Write,
    /// The whole shard failed.
    Shard,
}

impl Stage {
    const ALL: [Stage; 6] = [Stage::Read, Stage::Decode, Stage::Caption, Stage::Rank, Stage::Write, Stage::Shard];

    /// Its name in the output.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Decode => "decode",
            Stage::Caption => "caption",
            Stage::Rank => "rank",
            Stage::Write => "write",
            Stage::Shard => "shard",
        }
    }

    /// The stage with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Stage::ALL.into_iter().find(|stage| stage.as_str() == name)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowOutcome {
    /// Captions were written, ranked and kept.
    Kept {
        /// Every distinct candidate, by index.
        candidates: Vec<Candidate>,
        /// The positions in `candidates` of those that are kept, best first; never empty.
        kept: Vec<usize>,
    },
    /// The data set is not filtered: its caption is kept as it is.
    Passed {
        /// The caption.
        caption: String,
    },
    /// The row could not be processed.
    Quarantined {
        /// Where it failed.
        stage: Stage,
        /// A short word in snake_case, the same for all rows that failed like this.
        reason: String,
        /// What exactly was wrong; free text without times, hosts or paths of this machine.
        detail: String,
    },
}

impl RowOutcome {
    /// A quarantined row.
    pub fn quarantined(stage: Stage, reason: &str, detail: impl Into<String>) -> Self {
        RowOutcome::Quarantined { stage, reason: reason.into(), detail: detail.into() }
    }

    /// A row whose image could not be had.
    pub fn without_image(missing: MissingImage) -> Self {
        RowOutcome::quarantined(Stage::Read, missing.reason, missing.detail)
    }
}

/// A row of a part.
#[derive(Debug, Clone, PartialEq)]
pub struct PartRow {
    /// Who it is.
    pub id: RowId,
    /// The key column's value, carried along.
    pub key: Option<String>,
    /// What became of it.
    pub outcome: RowOutcome,
    /// The encoded image, where parts carry images (`embed_images`); a quarantined row's is dropped.
    pub image: Option<Bytes>,
}

/// A row of a data set with `capfilt: false`: its caption is kept as it is. Without an image or with a caption that is
/// null, empty or blank, nothing can be trained on it, and it is quarantined. `decoded` is what came of decoding its image: the
/// image that its part carries, if parts carry any, or what becomes of the row without.
pub fn pass_through(row: RawRow, decoded: Result<Option<Bytes>, RowOutcome>) -> PartRow {
    let without_image = row.image().err();
    let RawRow { id, key, caption, .. } = row;
    let outcome = match (without_image, caption) {
        (Some(missing), _) => RowOutcome::without_image(missing),
        (_, None) => RowOutcome::quarantined(Stage::Read, "empty_caption", "the caption is null"),
        (_, Some(caption)) if caption.trim().is_empty() => {
            RowOutcome::quarantined(Stage::Read, "empty_caption", "the caption is empty")
        }
        (_, Some(caption)) => RowOutcome::Passed { caption },
    };
    let (outcome, image) = match (outcome, decoded) {
        (outcome @ RowOutcome::Passed { .. }, Ok(image)) => (outcome, image),
        (RowOutcome::Passed { .. }, Err(failed)) => (failed, None),
        (outcome, _) => (outcome, None),
    };
    PartRow { id, key, outcome, image }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(image: Option<&'static [u8]>, caption: Option<&str>) -> RawRow {
        let id = RowId { dataset: "d".into(), file: "f".into(), row: 3 };
        let (image, caption) = (image.map(Bytes::from_static), caption.map(Into::into));
        RawRow { id, key: Some("k".into()), image, missing: None, caption }
    }

    #[test]
    fn a_passed_caption_is_untouched() {
        let passed = pass_through(row(Some(b"x"), Some(" a\0b ")), Ok(None));
        assert_eq!(passed.outcome, RowOutcome::Passed { caption: " a\0b ".into() });
        assert_eq!((passed.image, passed.key.as_deref(), passed.id.row), (None, Some("k"), 3));
        let image = Some(Bytes::from_static(b"x"));
        assert_eq!(pass_through(row(Some(b"x"), Some("a")), Ok(image)).image.as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn nothing_to_train_on_is_quarantined() {
        let reason = |row| match pass_through(row, Ok(None)).outcome {
            RowOutcome::Quarantined { stage: Stage::Read, reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(row(None, Some("a"))), "image_missing");
        let missing = MissingImage { reason: "image_not_found", detail: "there is no \"a.jpg\"".into() };
        assert_eq!(reason(RawRow { missing: Some(missing), ..row(None, Some("a")) }), "image_not_found");
        for empty in [None, Some(""), Some(" \n\t")] {
            assert_eq!(reason(row(Some(b"x"), empty)), "empty_caption");
        }
    }

    #[test]
    fn names_read_back() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.as_str()), Some(stage));
        }
        assert_eq!(Stage::parse("elsewhere"), None);
    }
}
