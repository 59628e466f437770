//! The report: everything is on the page, nothing on it is markup from data, and it is the same every time.

use bytes::Bytes;
use quern_capfilt::report::{REPORT, ReportOptions, render, write};
use quern_capfilt::{PartRow, encode_part};
use quern_corpus::RowId;

use crate::fixture::{Output, id, part, provenance, rows, shard};

async fn page(output: &Output) -> String {
    render(&output.folder, &ReportOptions::default(), None).await.unwrap()
}

#[tokio::test]
async fn all_candidates_are_shown_and_the_kept_ones_marked() {
    let output = Output::whole().await;
    let page = page(&output).await;
    for text in ["a red square", "a blue disc", "buy now", "a dog", "as it was"] {
        assert!(page.contains(text), "{text}");
    }
    let card = page.split("<article>").find(|card| card.contains("a/b.parquet#0<")).unwrap();
    let line = |text: &str| card.split("<li ").find(|line| line.contains(text)).unwrap().to_owned();
    assert!(line("a blue disc").contains("kept 1") && line("a blue disc").contains("0.500"));
    assert!(line("a red square").contains("kept 2"));
    assert!(line("buy now").starts_with("class=\"dropped\"") && line("buy now").contains("-0.125"));
    assert!(line("buy now").contains(">web<") && line("a blue disc").contains(">synthetic<"));
    let order: Vec<_> = ["a blue disc", "a red square", "buy now"].map(|text| card.find(text).unwrap()).into();
    assert!(order.is_sorted());
}

#[tokio::test]
async fn web_and_written_captions_are_compared() {
    let page = page(&Output::whole().await).await;
    // Per part: "buy now" of the web is dropped, the nasty one is its image's best.
    let survival = page.split("class=\"survival\"").nth(1).unwrap();
    assert!(
        survival.contains("<b>web</b><em>50.0 %</em>") && survival.contains("2 of 4 captions; 2 are"),
        "{survival}"
    );
    let scores = page.split("<h2>Scores</h2>").nth(1).unwrap().split("</section>").next().unwrap();
    assert_eq!(scores.matches("<path class=").count(), 4);
    assert!(
        scores.contains("web <small>4 captions, mean 0.312") && scores.contains("written <small>6 captions"),
        "{scores}"
    );
    let words = page.split("<h2>Words</h2>").nth(1).unwrap().split("</section>").next().unwrap();
    // "a blue disc", "a red square", "a dog", twice: 16 words, of which 6 differ.
    assert!(words.contains("0.375 <span>(6 of 16)</span>"), "{words}");
}

#[tokio::test]
async fn failures_are_shown_by_reason() {
    let page = page(&Output::whole().await).await;
    let reason = page.split("<details").find(|reason| reason.contains("image_corrupt")).unwrap();
    assert!(reason.contains("at decode: 2 rows"), "{reason}");
    assert!(reason.contains("premature end") && reason.contains("a/b.parquet#1001"));
    assert!(page.contains("whole shard") && page.contains("no footer"));
}

#[tokio::test]
async fn no_text_is_markup() {
    let page = page(&Output::whole().await).await;
    assert!(!page.contains("<script"));
    assert!(page.contains("a␀b␉␛[31m\\u{202e}&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot; 🐕␍␊"));
    assert!(!page.contains(['\0', '\u{1b}', '\u{202e}']));
}

#[tokio::test]
async fn nothing_is_loaded_from_elsewhere() {
    let page = page(&Output::whole().await).await;
    for outside in ["http:", "https:", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn the_same_output_gives_the_same_page() {
    let output = Output::whole().await;
    let first = page(&output).await;
    assert_eq!(page(&output).await, first);
    let url = write(&output.folder, &ReportOptions::default(), None).await.unwrap();
    assert_eq!(url, "memory://output/report.html");
    assert_eq!(output.folder.get(REPORT).await.unwrap(), first);
}

#[tokio::test]
async fn marks_are_the_callers() {
    let output = Output::whole().await;
    let marks = |row: &RowId, text: &str| (row.row < 1000).then_some(text == "a blue disc" || text == "buy now");
    let page = render(&output.folder, &ReportOptions::default(), Some(&marks)).await.unwrap();
    // Of the rows below 1000: web captions "buy now" and the nasty one, written "a red square", "a blue disc", "a dog".
    let share = |label: &str| page.split("<tr>").find(|row| row.contains(label)).unwrap().to_owned();
    assert!(share("Correct captions that only the web had").contains("(1 of 2)"));
    assert!(share("Correct written captions").contains("(1 of 3)"));
    assert!(share("Correct kept captions").contains("(1 of 4)"));
    assert!(share("Correct best captions").contains("(1 of 2)"));
    let card = page.split("<article>").find(|card| card.contains("b.parquet#0<")).unwrap();
    assert_eq!((card.matches('✓').count(), card.matches('✗').count()), (2, 1));
    let card = page.split("<article>").find(|card| card.contains("b.parquet#1000<")).unwrap();
    assert_eq!((card.matches('✓').count(), card.matches('✗').count()), (0, 0));
}

#[tokio::test]
async fn images_that_the_part_carries_are_shown() {
    let png = Bytes::from_static(include_bytes!("dot.png"));
    let mut output = Output::whole().await;
    let spec = shard(0, 4);
    let with_image = |row: PartRow| PartRow { image: Some(png.clone()), ..row };
    let part_with = encode_part(&spec, rows(&spec).into_iter().map(with_image).collect(), &provenance()).unwrap();
    output.entries.remove(0);
    output.add(&spec, &part_with).await;
    output.write_manifest().await;
    let page = page(&output).await;
    let card = |page: &str, row: u64| {
        let name = format!("{}<", id(&spec, row));
        page.split("<article>").find(|card| card.contains(&name)).unwrap().to_owned()
    };
    assert!(card(&page, 0).contains("<img alt=\"\" loading=\"lazy\" src=\"data:image/png;base64,iVBOR"));
    assert_ne!(part_with.digest, part(&spec).digest);
    // The recipe's data set is not there.
    let other = page.split("<article>").find(|card| card.contains("b.parquet#1000<")).unwrap();
    assert!(other.contains("no image"));
}

#[tokio::test]
async fn a_sample_is_as_large_as_it_was_asked_to_be() {
    let output = Output::whole().await;
    let options = ReportOptions { examples: 3, weakest: 1, per_reason: 1 };
    let page = render(&output.folder, &options, None).await.unwrap();
    assert_eq!(page.matches("<article>").count(), 4);
    let weakest = page.split("<h2>Weakest rows</h2>").nth(1).unwrap();
    // Row 0 and 1000 tie at 0.5; the lower identity is shown.
    assert!(weakest.contains("b.parquet#0<"));
    assert_eq!(page.split("<details").nth(1).unwrap().matches("<li>").count(), 1);
}
