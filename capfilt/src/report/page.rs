//! The page itself. Everything that comes from data goes through [`escape`].

use std::fmt::Write;

use super::Marks;
use super::cards::cards;
use super::escape::escape;
use super::gather::Gathered;
use super::readable::shortened;
use super::{numbers, quarantine, slowest};

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
    html.push_str(&numbers::tiles(&manifest.totals));
    html.push_str(&numbers::what_was_kept(&gathered.tally));
    html.push_str(&numbers::web_captions(&gathered.tally));
    html.push_str(&numbers::scores(&gathered.tally));
    html.push_str(&numbers::wording(&gathered.tally));
    html.push_str(&quarantine::quarantine(gathered));
    html.push_str(&slowest::slowest(gathered.slowest.as_ref()));
    let examples = "A sample of the rows. Candidates are in order of their score; kept ones are marked.";
    html.push_str(&cards("Rows", examples, &gathered.examples, marks));
    let weakest = "The rows whose best caption fits its image least.";
    html.push_str(&cards("Weakest rows", weakest, &gathered.weakest, marks));
    html.push_str("</main></body></html>\n");
    html
}
