//! What failed: by stage and reason, with some rows of each; and shards that failed as a whole.

use std::fmt::Write;

use super::cards::picture;
use super::escape::escape;
use super::gather::{Gathered, Reason};
use super::readable::{counted, percent};
use crate::row::Stage;

/// Whole shards that are shown at most; the manifest has all.
const SHARDS: usize = 50;

pub(super) fn quarantine(gathered: &Gathered) -> String {
    let shards = &gathered.manifest.quarantined_shards;
    let mut html = String::from("<section><h2>Quarantine</h2>");
    if gathered.quarantine.is_empty() && shards.is_empty() {
        html.push_str("<p>Every row could be processed.</p>");
    }
    let all: u64 = gathered.quarantine.values().map(|reason| reason.rows).sum();
    let mut reasons: Vec<_> = gathered.quarantine.iter().collect();
    reasons.sort_by_key(|(place, reason)| (std::cmp::Reverse(reason.rows), *place));
    for ((stage, reason), rows) in reasons {
        html.push_str(&details(*stage, reason, rows, all));
    }
    for shard in shards.iter().take(SHARDS) {
        let _ = write!(
            html,
            "<details class=\"reason\"><summary><b>whole shard</b> <span>{}, {}</span></summary><p>{}</p></details>",
            escape(&shard.shard.file),
            counted(shard.shard.rows, "row"),
            escape(&shard.reason)
        );
    }
    if shards.len() > SHARDS {
        let more = counted((shards.len() - SHARDS) as u64, "more shard");
        let _ = write!(html, "<p>… and {more}, which <code>manifest.json</code> names.</p>");
    }
    html.push_str("</section>\n");
    html
}

fn details(stage: Stage, reason: &str, rows: &Reason, all: u64) -> String {
    let mut html = format!(
        "<details class=\"reason\"><summary><b>{}</b> <span>at {stage}: {}, {}</span>\
         <div class=\"bar failed\"><i style=\"width:{:.1}%\"></i></div></summary><ul>",
        escape(reason),
        counted(rows.rows, "row"),
        percent(rows.rows, all),
        rows.rows as f64 / all.max(1) as f64 * 100.0
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
    html.push_str("</ul>");
    let more = rows.rows.saturating_sub(rows.examples.len() as u64);
    if more > 0 {
        let _ = write!(html, "<p>… and {}{}</p>", counted(more, "more row"), command(reason));
    }
    html.push_str("</details>");
    html
}

/// How to see all of them. A reason that is no plain word is in no command: somebody might paste it into a shell.
fn command(reason: &str) -> String {
    let is_word = reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    match is_word {
        true => format!(": <code>quern capfilt inspect OUTPUT --where 'reason == \"{reason}\"'</code>"),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn only_words_are_part_of_a_command() {
        assert!(command("image_corrupt").contains("'reason == \"image_corrupt\"'"));
        assert_eq!(command("'; rm -rf ~ #"), "");
    }
}
