//! Rows with all their candidates, their scores, and which were kept.

use std::fmt::Write;

use super::Marks;
use super::escape::escape;
use super::gather::Example;
use crate::candidate::{Candidate, Source};
use crate::read::{DataRow, KeptCaption};

pub(super) fn cards(title: &str, note: &str, examples: &[Example], marks: Option<Marks>) -> String {
    if examples.is_empty() {
        return String::new();
    }
    let mut html = format!("<section><h2>{title}</h2><p>{note}</p><div class=\"cards\">\n");
    for example in examples {
        let row = &example.row;
        let key = row.key.as_deref().map(|key| format!(" · key {}", escape(key))).unwrap_or_default();
        let _ = write!(
            html,
            "<article>{}<div class=\"captions\"><p class=\"who\"><code>{}</code>{key}</p><ol>",
            picture(example.image.as_deref()),
            escape(&row.id.to_string())
        );
        html.push_str(&captions(row, marks));
        html.push_str("</ol></div></article>\n");
    }
    html.push_str("</div></section>\n");
    html
}

/// A caption's line.
struct Line<'a> {
    text: &'a str,
    source: Source,
    score: Option<f32>,
    rank: Option<u32>,
}

impl<'a> Line<'a> {
    fn passed(caption: &'a KeptCaption) -> Self {
        Line { text: &caption.text, source: caption.source, score: caption.score, rank: Some(caption.rank) }
    }
}

fn captions(row: &DataRow, marks: Option<Marks>) -> String {
    let mut html = String::new();
    for line in lines(row) {
        let class = if line.rank.is_some() { "kept" } else { "dropped" };
        let badge = line.rank.map(|rank| format!("<span class=\"badge\">kept {rank}</span>")).unwrap_or_default();
        let mark = match marks.and_then(|marks| marks(&row.id, line.text)) {
            Some(true) => "<span class=\"right\" title=\"correct\">✓</span>",
            Some(false) => "<span class=\"wrong\" title=\"not correct\">✗</span>",
            None => "",
        };
        let score = line.score.map_or_else(|| "–".into(), |score| format!("{score:.3}"));
        let width = line.score.map_or(0.0, |score| f64::from(score.clamp(0.0, 1.0)) * 100.0);
        let _ = write!(
            html,
            "<li class=\"{class}\"><span class=\"score\"><i style=\"width:{width:.1}%\"></i>{score}</span>\
             <span class=\"text\"><bdi>{}</bdi> {mark}{badge}<span class=\"source {source}\">{source}</span></span></li>",
            escape(line.text),
            source = line.source
        );
    }
    html
}

/// Candidates in order of their score; a row that was passed through has its caption alone.
fn lines(row: &DataRow) -> Vec<Line<'_>> {
    if row.candidates.is_empty() {
        return row.captions.iter().map(Line::passed).collect();
    }
    let mut candidates: Vec<&Candidate> = row.candidates.iter().collect();
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
    let rank = |text: &str| row.captions.iter().find(|kept| kept.text == text).map(|kept| kept.rank);
    let mut lines = Vec::with_capacity(candidates.len());
    for Candidate { text, source, score, .. } in candidates {
        lines.push(Line { text, source: *source, score: Some(*score), rank: rank(text) });
    }
    lines
}

pub(super) fn picture(data_uri: Option<&str>) -> String {
    match data_uri {
        Some(uri) => format!("<img alt=\"\" loading=\"lazy\" src=\"{uri}\">"),
        None => "<div class=\"no-image\">no image</div>".into(),
    }
}
