//! The page's numbers and distributions.

use std::fmt::Write;

use super::chart::{Axis, Series, draw};
use super::distinct::ERROR_PERCENT;
use super::escape::escape;
use super::histogram::{Bins, Histogram};
use super::readable::{counted, grouped, percent, share};
use super::tally::{Counts, Marked, Survival, Tally};
use super::words::{LONGEST, MANY, Sequences, Wording};
use crate::manifest::Totals;

pub(super) fn tiles(totals: &Totals) -> String {
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

pub(super) fn what_was_kept(tally: &Tally) -> String {
    let counts: &Counts = &tally.counts;
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

/// The share of the web's captions that survive, per data set.
pub(super) fn web_captions(tally: &Tally) -> String {
    if tally.web_captions.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section><h2>Web captions that survive</h2><p>Of the captions that came with the images and that no written one \
         repeats, how many were kept.</p><div class=\"survivals\">",
    );
    for (dataset, Survival { captions, kept, best }) in &tally.web_captions {
        let name = escape(dataset);
        let _ = match captions {
            0 => write!(html, "<div class=\"survival\"><b>{name}</b><p>no such caption</p></div>"),
            captions => write!(
                html,
                "<div class=\"survival\"><b>{name}</b><em>{}</em><div class=\"bar\"><i style=\"width:{:.1}%\"></i></div>\
                 <p>{} of {}; {} are their image's best</p></div>",
                percent(*kept, *captions),
                *kept as f64 / *captions as f64 * 100.0,
                grouped(*kept),
                counted(*captions, "caption"),
                grouped(*best)
            ),
        };
    }
    html.push_str("</div></section>\n");
    html
}

pub(super) fn scores(tally: &Tally) -> String {
    let (web, written) = (&tally.web_scores, &tally.written_scores);
    let Some(bins) = Bins::over(&[web, written]) else {
        return "<section><h2>Scores</h2><p>No row was ranked.</p></section>\n".into();
    };
    let held = |at| {
        let (from, to) = bins.bounds(at);
        format!("{from:.3} to {to:.3}")
    };
    let axis = Axis {
        label: "cosine of image and caption",
        bins: (0..bins.count()).map(held).collect(),
        ticks: bins.ticks().into_iter().map(|(place, tick)| (place, format!("{tick:.2}"))).collect(),
    };
    let series =
        |name, class, histogram: &Histogram| Series { name, class, note: note(histogram), bins: histogram.bins(&bins) };
    let by_source = [series("web", "web", web), series("written", "written", written)];
    let by_fate = [series("kept", "kept", &tally.kept_scores), series("dropped", "dropped", &tally.dropped_scores)];
    format!(
        "<section><h2>Scores</h2><p>Each curve is scaled to its own number of captions.</p><div class=\"charts\">{}{}</div></section>\n",
        draw("Web and written", &by_source, &axis),
        draw("Kept and dropped", &by_fate, &axis)
    )
}

/// How many, and how they lie.
fn note(histogram: &Histogram) -> String {
    let at = |share| histogram.quantile(share).map_or_else(|| "–".into(), |score| format!("{score:.3}"));
    let mean = histogram.mean().map_or_else(|| "–".into(), |mean| format!("{mean:.3}"));
    let (low, median, high) = (at(0.1), at(0.5), at(0.9));
    format!("{}, mean {mean}, median {median}, 80 % within {low} to {high}", counted(histogram.count(), "caption"))
}

pub(super) fn wording(tally: &Tally) -> String {
    let (web, written) = (&tally.web_wording, &tally.written_wording);
    if web.lengths.captions() + written.lengths.captions() == 0 {
        return String::new();
    }
    let mut html = String::from(
        "<section><h2>Words</h2><p>Captions that only the web had, and written ones that were kept.</p><div class=\"charts\">",
    );
    html.push_str(&lengths(web, written));
    html.push_str(&diversity(web, written));
    html.push_str("</div></section>\n");
    html
}

fn lengths(web: &Wording, written: &Wording) -> String {
    let longest = |wording: &Wording| wording.lengths.counts().iter().rposition(|&count| count > 0).unwrap_or(0);
    let shown = longest(web).max(longest(written)).clamp(9, MANY) + 1;
    let held = |words: usize| match words {
        MANY => format!("{MANY} words and more"),
        words => counted(words as u64, "word"),
    };
    let step = [1, 2, 5, 10].into_iter().find(|step| shown / step <= 9).unwrap_or(10);
    let tick = |words: usize| {
        let more = if words == MANY { "+" } else { "" };
        ((words as f64 + 0.5) / shown as f64, format!("{words}{more}"))
    };
    let axis = Axis {
        label: "words in a caption",
        bins: (0..shown).map(held).collect(),
        ticks: (0..shown).step_by(step).map(tick).collect(),
    };
    let series = |name, class, wording: &Wording| {
        let mean = wording.lengths.mean().map_or_else(|| "–".into(), |mean| format!("{mean:.1}"));
        let note = format!("{}, mean {mean} words", counted(wording.lengths.captions(), "caption"));
        Series { name, class, note, bins: wording.lengths.counts()[..shown].to_vec() }
    };
    draw("Length", &[series("web", "web", web), series("written, kept", "written", written)], &axis)
}

fn diversity(web: &Wording, written: &Wording) -> String {
    let mut html = String::from(
        "<figure class=\"diversity\"><figcaption><b>Diversity</b></figcaption><table><tr><th scope=\"col\"></th>\
         <th scope=\"col\">web</th><th scope=\"col\">written, kept</th></tr>",
    );
    for at in 0..LONGEST {
        let _ = write!(
            html,
            "<tr><th scope=\"row\">distinct-{}</th><td>{}</td><td>{}</td></tr>",
            at + 1,
            distinct(&web.sequences[at]),
            distinct(&written.sequences[at])
        );
    }
    let _ = write!(
        html,
        "</table><p>distinct-n: different sequences of n words over all of them. It falls as captions grow in number, so \
         compare like with like. ≈ marks an estimate, with a standard error of {ERROR_PERCENT} %.</p></figure>"
    );
    html
}

fn distinct(sequences: &Sequences) -> String {
    let Some(ratio) = sequences.ratio() else { return "–".into() };
    let about = if sequences.different.is_exact() { "" } else { "≈ " };
    let (different, all) = (sequences.different.count().min(sequences.all), sequences.all);
    format!("{about}{ratio:.3} <span>({about}{} of {})</span>", grouped(different), grouped(all))
}
