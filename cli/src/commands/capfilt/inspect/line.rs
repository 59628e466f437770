//! A row as a line of text, and as the facts that a condition is about.

use std::fmt::Write;

use quern_capfilt::{DataRow, OutputRow, Source, is_invisible, visible};
use serde_json::{Value, json};

/// Everything that is known about a row; null where it has none.
pub const NAMES: [&str; 15] = [
    "dataset",
    "file",
    "row",
    "key",
    "status",
    "caption",
    "captions",
    "score",
    "source",
    "web_score",
    "candidates",
    "words",
    "stage",
    "reason",
    "detail",
];

/// A row's facts by [`NAMES`]. `status` is `kept`, `passed` or `quarantined`; `caption`, `score` and `source` are those of the
/// first caption, `words` counts its words.
pub fn facts(row: &OutputRow) -> Value {
    let (id, key) = match row {
        OutputRow::Data(row) => (&row.id, &row.key),
        OutputRow::Quarantined(row) => (&row.id, &row.key),
    };
    let mut facts: serde_json::Map<String, Value> =
        NAMES.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    let mut set = |name: &str, value: Value| facts.insert(name.into(), value);
    set("dataset", json!(&*id.dataset));
    set("file", json!(&*id.file));
    set("row", json!(id.row));
    set("key", json!(key));
    match row {
        OutputRow::Data(row) => {
            let first = row.captions.first();
            set("status", json!(if row.candidates.is_empty() { "passed" } else { "kept" }));
            set("caption", json!(first.map(|caption| &caption.text)));
            set("score", json!(first.and_then(|caption| caption.score)));
            set("source", json!(first.map(|caption| caption.source.as_str())));
            set("words", json!(first.map(|caption| caption.text.split_whitespace().count())));
            set("web_score", json!(web_score(row)));
            let captions = row.captions.iter().map(|caption| {
                json!({
                    "text": caption.text, "source": caption.source.as_str(), "score": caption.score,
                    "rank": caption.rank,
                })
            });
            set("captions", captions.collect());
            let candidates = row.candidates.iter().map(|candidate| {
                json!({
                    "text": candidate.text, "source": candidate.source.as_str(), "score": candidate.score,
                    "index": candidate.index,
                })
            });
            set("candidates", candidates.collect());
        }
        OutputRow::Quarantined(row) => {
            set("status", json!("quarantined"));
            set("stage", json!(row.stage.as_str()));
            set("reason", json!(row.reason));
            set("detail", json!(row.detail));
        }
    }
    Value::Object(facts)
}

fn web_score(row: &DataRow) -> Option<f32> {
    row.candidates.iter().find(|candidate| candidate.source == Source::Web).map(|candidate| candidate.score)
}

/// `web/0.parquet:17  0.312 synthetic “a dog”  0.254 web “dog.jpg”`. Foreign text can't move the cursor or hide a line.
pub fn text(row: &OutputRow) -> String {
    let line = match row {
        OutputRow::Data(row) => {
            let captions = row.captions.iter().map(|caption| {
                let score = caption.score.map_or("—".into(), |score| format!("{score:.3}"));
                format!("  {score} {} “{}”", caption.source, caption.text)
            });
            format!("{}/{}:{}{}", row.id.dataset, row.id.file, row.id.row, captions.collect::<String>())
        }
        OutputRow::Quarantined(row) => {
            let (id, stage) = (&row.id, row.stage.as_str());
            format!("{}/{}:{}  {stage}: {} ({})", id.dataset, id.file, id.row, row.reason, row.detail)
        }
    };
    visible(&line).into_owned()
}

/// Facts as a line of JSON in which no character is invisible: JSON leaves DEL, C1 controls and turns of the direction as
/// they are, and a terminal obeys them. Whoever parses it gets the same text.
pub fn json_line(facts: &Value) -> String {
    let json = facts.to_string();
    if !json.contains(is_invisible) {
        return json;
    }
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        if is_invisible(c) {
            let units = &mut [0; 2];
            for unit in c.encode_utf16(units) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
pub mod tests {
    use quern_capfilt::{Candidate, KeptCaption, QuarantineRow, Stage};
    use quern_corpus::RowId;

    use super::*;

    fn id(row: u64) -> RowId {
        RowId { dataset: "web".into(), file: "0.parquet".into(), row }
    }

    pub fn kept() -> OutputRow {
        let candidate = |text: &str, source, score, index| Candidate { text: text.into(), source, score, index };
        OutputRow::Data(DataRow {
            id: id(17),
            key: Some("k".into()),
            captions: vec![KeptCaption {
                text: "a dog\u{1b}[2J".into(),
                source: Source::Synthetic,
                score: Some(0.3125),
                rank: 1,
            }],
            candidates: vec![
                candidate("a dog\u{1b}[2J", Source::Synthetic, 0.3125, 0),
                candidate("dog.jpg", Source::Web, 0.125, 10),
            ],
            image: None,
        })
    }

    pub fn failed() -> OutputRow {
        OutputRow::Quarantined(QuarantineRow {
            id: id(3),
            key: None,
            stage: Stage::Decode,
            reason: "truncated".into(),
            detail: "the data ends early".into(),
        })
    }

    #[test]
    fn a_line_shows_captions_or_the_reason() {
        assert_eq!(text(&kept()), "web/0.parquet:17  0.312 synthetic “a dog\\u{1b}[2J”");
        assert_eq!(text(&failed()), "web/0.parquet:3  decode: truncated (the data ends early)");
    }

    #[test]
    fn json_is_printable_and_parses_to_the_same() {
        let facts = json!({ "caption": "a\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{e0001}\0\n 🐕" });
        let line = json_line(&facts);
        assert_eq!(line, r#"{"caption":"a\u001b[2J\u009b31m\u007f\u202e\udb40\udc01\u0000\n 🐕"}"#);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), facts);
    }

    #[test]
    fn no_line_turns_its_direction() {
        let OutputRow::Quarantined(row) = failed() else { panic!() };
        let row = OutputRow::Quarantined(QuarantineRow { detail: "\u{202e}txt\u{9b}2J".into(), ..row });
        assert_eq!(text(&row), "web/0.parquet:3  decode: truncated (\\u{202e}txt\\u{9b}2J)");
    }

    #[test]
    fn every_row_has_all_names() {
        for row in [kept(), failed()] {
            let facts = facts(&row);
            assert_eq!(facts.as_object().unwrap().len(), NAMES.len(), "{facts}");
        }
    }
}
