//! The page itself. Everything that comes from data goes through [`escape`].

use std::fmt::Write;

use super::Marks;
use super::escape::escape;
use super::gather::{Example, Gathered, Marked, Reason};
use super::histogram;
use crate::candidate::{Candidate, Source};
use crate::read::{DataRow, KeptCaption};
use crate::row::Stage;

const STYLE: &str = include_str!("style.css");

pub(super) fn page(gathered: &Gathered, marks: Option<Marks>) -> String {
    let manifest = &gathered.manifest;
    let name = manifest.recipe.get("name").and_then(|name| name.as_str()).unwrap_or(&manifest.run_id);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>CapFilt: {name}</title>\
         <style>{STYLE}</style></head><body><main>\n",
        name = escape(name)
    );
    let _ = writeln!(
        html,
        "<header><h1>CapFilt: {}</h1><p>Run <code>{}</code>, recipe <code title=\"{}\">{}</code>, seed {}, quern {}</p></header>",
        escape(name),
        escape(&manifest.run_id),
        escape(&manifest.recipe_hash),
        escape(&shortened(&manifest.recipe_hash)),
        manifest.seed,
        escape(manifest.versions.get("quern").map_or("?", String::as_str)),
    );
    html.push_str(&tiles(gathered));
    html.push_str(&what_was_kept(gathered));
    html.push_str(&scores(gathered));
    html.push_str(&quarantine(gathered));
    let examples = "A sample of the rows. Candidates are in order of their score; kept ones are marked.";
    html.push_str(&cards("Rows", examples, &gathered.examples, marks));
    let weakest = "The rows whose best caption fits its image least.";
    html.push_str(&cards("Weakest rows", weakest, &gathered.weakest, marks));
    html.push_str("</main></body></html>\n");
    html
}

fn tiles(gathered: &Gathered) -> String {
    let totals = &gathered.manifest.totals;
    let mut html = String::from("<section class=\"tiles\" aria-label=\"Totals\">");
    let mut tile = |label: &str, number: u64| {
        let _ = write!(html, "<div><b>{}</b><span>{label}</span></div>", grouped(number));
    };
    tile("rows", totals.rows);
    tile("captioned and kept", totals.kept);
    tile("passed through", totals.passed);
    tile("quarantined", totals.quarantined);
    tile("shards", totals.shards);
    tile("shards quarantined", totals.quarantined_shards);
    html.push_str("</section>\n");
    html
}

fn what_was_kept(gathered: &Gathered) -> String {
    let counts = &gathered.counts;
    if counts.rows == 0 {
        return "<section><h2>What was kept</h2><p>No row was ranked.</p></section>\n".into();
    }
    let per_row = |count: u64| format!("{:.2}", count as f64 / counts.rows as f64);
    let rows = [
        ("Distinct candidates per image", per_row(counts.candidates)),
        ("Captions kept per image", per_row(counts.kept)),
        ("Images with a caption that only the web had", share(counts.with_web, counts.rows)),
        ("Kept captions that only the web had", share(counts.kept_web, counts.kept)),
        ("Images whose best caption only the web had", share(counts.first_web, counts.rows)),
    ];
    let mut html = String::from("<section><h2>What was kept</h2><table>");
    for (label, value) in rows {
        let _ = write!(html, "<tr><th scope=\"row\">{label}</th><td>{value}</td></tr>");
    }
    let marked = [
        ("Correct captions that only the web had", counts.web),
        ("Correct written captions", counts.written),
        ("Correct kept captions", counts.chosen),
        ("Correct best captions", counts.first),
    ];
    for (label, Marked { judged, right }) in marked.into_iter().filter(|(_, marked)| marked.judged > 0) {
        let _ = write!(html, "<tr><th scope=\"row\">{label}</th><td>{}</td></tr>", share(right, judged));
    }
    html.push_str("</table></section>\n");
    html
}

fn scores(gathered: &Gathered) -> String {
    let drawn = histogram::draw(&[
        ("kept", "kept", &gathered.kept_scores),
        ("dropped", "dropped", &gathered.dropped_scores),
        ("only the web's", "web", &gathered.web_scores),
    ]);
    format!("<section><h2>Scores</h2>{drawn}</section>\n")
}

fn quarantine(gathered: &Gathered) -> String {
    let shards = &gathered.manifest.quarantined_shards;
    let mut html = String::from("<section><h2>Quarantine</h2>");
    if gathered.quarantine.is_empty() && shards.is_empty() {
        html.push_str("<p>Every row could be processed.</p>");
    }
    for ((stage, reason), rows) in &gathered.quarantine {
        html.push_str(&reason_details(*stage, reason, rows));
    }
    for shard in shards {
        let _ = write!(
            html,
            "<details class=\"reason\"><summary><b>whole shard</b> <span>{}, {}</span></summary><p>{}</p></details>",
            escape(&shard.shard.file),
            counted(shard.shard.rows),
            escape(&shard.reason)
        );
    }
    html.push_str("</section>\n");
    html
}

fn reason_details(stage: Stage, reason: &str, rows: &Reason) -> String {
    let mut html = format!(
        "<details class=\"reason\"><summary><b>{}</b> <span>at {stage}: {}</span></summary><ul>",
        escape(reason),
        counted(rows.rows)
    );
    for (row, image) in &rows.examples {
        let _ = write!(
            html,
            "<li>{}<div><code>{}</code><p>{}</p></div></li>",
            picture(image.as_deref()),
            escape(&row.id.to_string()),
            escape(&row.detail)
        );
    }
    html.push_str("</ul></details>");
    html
}

fn cards(title: &str, note: &str, examples: &[Example], marks: Option<Marks>) -> String {
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

fn picture(data_uri: Option<&str>) -> String {
    match data_uri {
        Some(uri) => format!("<img alt=\"\" loading=\"lazy\" src=\"{uri}\">"),
        None => "<div class=\"no-image\">no image</div>".into(),
    }
}

fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => "–".into(),
        whole => format!(
            "{:.1} % <span>({} of {})</span>",
            part as f64 / whole as f64 * 100.0,
            grouped(part),
            grouped(whole)
        ),
    }
}

/// The first digits of a digest.
fn shortened(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// "1 row", "1,234 rows".
fn counted(rows: u64) -> String {
    format!("{} {}", grouped(rows), if rows == 1 { "row" } else { "rows" })
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 1234].map(counted), ["0 rows", "1 row", "1,234 rows"]);
        assert_eq!(share(1, 8), "12.5 % <span>(1 of 8)</span>");
        assert_eq!(share(0, 0), "–");
    }
}
