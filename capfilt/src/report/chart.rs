//! Distributions over one axis, drawn over each other. Each is scaled to its own total, so that few captions compare
//! with many.

use std::fmt::Write;

/// One distribution.
pub(super) struct Series<'a> {
    pub name: &'a str,
    /// The class that colours it.
    pub class: &'a str,
    pub note: String,
    pub bins: Vec<u64>,
}

/// What all of them lie over.
pub(super) struct Axis<'a> {
    pub label: &'a str,
    /// What each bin holds.
    pub bins: Vec<String>,
    /// Marks, with their place from 0 at the left to 1 at the right.
    pub ticks: Vec<(f64, String)>,
}

/// A drawing with its key. Names, notes and labels are the page's own words, never the data's.
pub(super) fn draw(title: &str, series: &[Series], axis: &Axis) -> String {
    let mut html = format!("<figure class=\"chart\"><figcaption><b>{title}</b>");
    for Series { name, class, note, .. } in series {
        let _ = write!(html, "<span class=\"key {class}\"><i></i>{name} <small>{note}</small></span>");
    }
    let count = axis.bins.len();
    let _ = write!(
        html,
        "</figcaption><svg viewBox=\"0 0 {count} 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}\">"
    );
    let highest = series.iter().flat_map(|series| shares(&series.bins)).fold(0.0, f64::max);
    for series in series.iter().filter(|series| highest > 0.0 && series.bins.iter().any(|&bin| bin > 0)) {
        let _ = write!(html, "<path class=\"{}\" d=\"M0 100", series.class);
        for (at, share) in shares(&series.bins).enumerate() {
            let _ = write!(html, "V{:.2}H{}", 100.0 - share / highest * 98.0, at + 1);
        }
        html.push_str("V100Z\"/>");
    }
    for (at, bin) in axis.bins.iter().enumerate() {
        let held = series.iter().filter(|series| series.bins[at] > 0);
        let held: Vec<_> = held.map(|series| format!("{} {}", series.name, series.bins[at])).collect();
        if !held.is_empty() {
            let held = held.join(", ");
            let _ = write!(html, "<rect x=\"{at}\" width=\"1\" height=\"100\"><title>{bin}: {held}</title></rect>");
        }
    }
    html.push_str("</svg><div class=\"ticks\" aria-hidden=\"true\">");
    for (place, tick) in &axis.ticks {
        let _ = write!(html, "<span style=\"left:{:.2}%\">{tick}</span>", place * 100.0);
    }
    let _ = write!(html, "</div><p class=\"axis\">{}</p></figure>", axis.label);
    html
}

fn shares(bins: &[u64]) -> impl Iterator<Item = f64> {
    let total = bins.iter().sum::<u64>().max(1) as f64;
    bins.iter().map(move |&bin| bin as f64 / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_scaled_to_its_own_total() {
        let series = |name, bins| Series { name, class: "c", note: String::new(), bins };
        let axis =
            Axis { label: "words", bins: vec!["1 word".into(), "2 words".into()], ticks: vec![(0.25, "1".into())] };
        let html = draw(
            "Words",
            &[series("few", vec![1, 1]), series("many", vec![0, 500]), series("none", vec![0, 0])],
            &axis,
        );
        assert!(html.contains("d=\"M0 100V51.00H1V51.00H2V100Z\""), "{html}");
        assert!(html.contains("d=\"M0 100V100.00H1V2.00H2V100Z\""), "{html}");
        assert_eq!(html.matches("<path").count(), 2);
        assert!(html.contains("<title>2 words: few 1, many 500</title>") && html.contains("left:25.00%"));
    }
}
