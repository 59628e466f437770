//! `quern capfilt run`: one folder without a recipe of one's own, and the recipe that it is.

use std::path::Path;

use tempfile::TempDir;

use crate::harness::{bytes_under, corpus, quern, root, verify};

/// `quern capfilt run` over the test's corpus, which must end with `code`; what it printed.
fn capfilt_run(output: &Path, more: &[&str], code: i32) -> String {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let [captioner, ranker] = ["zoo/blip", "zoo/clip"].map(|model| text(&root().join(model)));
    let (input, output) = (text(corpus()), text(output));
    let mut arguments = vec!["capfilt", "run", "--input", &input, "--output", &output];
    arguments.extend(["--captioner", &captioner, "--ranker", &ranker]);
    arguments.extend(more);
    let ended = quern(&arguments).output().expect("quern starts");
    let printed = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(code), "{printed}");
    printed
}

#[test]
fn the_short_form_is_the_recipe_that_it_writes() {
    let folder = TempDir::new().expect("a temporary folder");
    // The run is called after the output's last part, and its name is in the manifest.
    let [short, long, recipe] = ["short/out", "long/out", "recipe.yaml"].map(|name| folder.path().join(name));
    // One file of the corpus is no parquet: done, with a shard in quarantine.
    let printed = capfilt_run(&short, &["--workers", "2", "--seed", "7"], 3);
    assert!(printed.contains("image in `jpg`, caption in `caption`, key in `key`"), "{printed}");
    verify(&short);

    capfilt_run(&long, &["--seed", "7", "--write-recipe", recipe.to_str().expect("UTF-8")], 0);
    let ended = quern(&["run", recipe.to_str().expect("UTF-8")]).output().expect("quern starts");
    assert_eq!(ended.status.code(), Some(3), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(bytes_under(&short) == bytes_under(&long), "other bytes");

    let inspect = |condition: &str| {
        let arguments = ["capfilt", "inspect", short.to_str().expect("UTF-8"), "--where", condition, "-o", "json"];
        let ended = quern(&arguments).output().expect("quern starts");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).expect("UTF-8")
    };
    let failed = inspect(r#"status == "quarantined""#);
    assert_eq!(failed.lines().count(), 2, "a truncated image and a missing one: {failed}");
    assert_eq!(inspect(r#"file == "00000.parquet" && row in [3, 10]"#), failed);
    assert!(inspect("score > -1.0").lines().all(|line| line.contains(r#""status":"kept""#)));

    // The same command again finds everything done.
    capfilt_run(&short, &["--workers", "2", "--seed", "7"], 3);
    verify(&short);
}

#[test]
fn unclear_columns_and_folders_are_said_in_one_sentence() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out");
    let printed = capfilt_run(&output, &["--column", "image=photo"], 2);
    assert!(printed.contains("no column `photo` for the image") && printed.contains("`jpg`"), "{printed}");
    let printed = capfilt_run(&output, &["--column", "photo=jpg"], 2);
    assert!(printed.contains("write image=NAME, caption=NAME or key=NAME"), "{printed}");
    assert!(!output.join("data").exists());
}
