//! `quern caption`, `quern eval caption` and `quern eval retrieval` at the terminal, with what a short run trained.

use std::fs;
use std::path::Path;
use std::process::Output;

use arrow::array::BinaryArray;
use serde_json::Value;

use crate::harness::{Run, column, corpus, quern, read, root};

/// Both stages, four steps each.
fn trained() -> Run {
    let run = Run::pass_through(corpus());
    let plain = fs::read_to_string(run.recipe()).expect("the recipe");
    let zoo = root().join("zoo").display().to_string();
    let shared = "  batch: 9\n  steps: 4\n  ranks: 1\n  max_text_length: 24\n  optimiser: { warmup_steps: 1 }\n";
    let stages = format!(
        "stage1:\n  image_encoder: {zoo}/clip\n  tokenizer: {zoo}/blip\n{shared}\
         \x20 qformer: {{ hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64,\n\
         \x20   max_position_embeddings: 64, num_query_token: 4, embed_dim: 16 }}\n\
         stage2:\n  language_model: {zoo}/opt\n{shared}"
    );
    fs::write(run.recipe(), plain + &stages).expect("written");
    run.run_locally(1);
    run
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn json_lines(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a JSON object per line")).collect()
}

#[test]
fn checkpoints_caption_answer_and_are_measured() {
    let run = trained();
    let [stage1, stage2] = ["stage1", "stage2"].map(|stage| text(&run.output().join(stage).join("step-000004")));
    let images = tempfile::tempdir().expect("a folder");
    let table = corpus().join("00000.parquet");
    let rows = read(&table);
    let bytes: &BinaryArray = column(&rows, "jpg");
    let [first, second, notes, gone] =
        ["first.jpg", "second.jpg", "notes.jpg", "gone.jpg"].map(|name| text(&images.path().join(name)));
    fs::write(&first, bytes.value(0)).expect("written");
    fs::write(&second, bytes.value(1)).expect("written");
    fs::write(&notes, "these are notes").expect("written");
    let caption = |more: &[&str]| {
        let mut command = quern(&["caption", "--device", "cpu", "--max-length", "8"]);
        command.args(more).output().expect("quern starts")
    };

    // Files; what can't be used among them; the recipe is the output's own.
    let some = caption(&["--checkpoint", &stage2, &first, &gone, &notes, &second]);
    let (printed, errors) = said(&some);
    assert_eq!(some.status.code(), Some(1), "{printed}{errors}");
    let names: Vec<&str> = printed.lines().map(|line| line.split('\t').next().expect("a name")).collect();
    assert_eq!(names, [&first, &second], "{errors}");
    assert!(errors.contains(&format!("{gone} can't be read")) && errors.contains(&notes), "{errors}");
    assert!(errors.contains("2 of 4 images have no caption"), "{errors}");

    // Prompts of a column, beside which a file and its prompt say the same.
    let path = text(&table);
    let asked = caption(&["--checkpoint", &stage2, "--dataset", &path, "--prompt-column", "caption", "--json"]);
    let (printed, errors) = said(&asked);
    assert_eq!(asked.status.code(), Some(1), "two images of the file are broken: {errors}");
    let answers = json_lines(&printed);
    assert_eq!(answers.len(), 38, "{errors}");
    assert!(errors.contains("00000.parquet#3: ") && errors.contains("00000.parquet#10: there is no image"), "{errors}");
    let prompt = answers[0]["prompt"].as_str().expect("a prompt").to_owned();
    let alone = caption(&["--checkpoint", &stage2, "--prompt", &prompt, "--json", &first]);
    assert!(alone.status.success(), "{}", said(&alone).1);
    assert_eq!(json_lines(&said(&alone).0)[0]["caption"], answers[0]["caption"]);

    // What a model can't be asked.
    let long = "colour ".repeat(150);
    for (checkpoint, prompt, part) in [(&stage1, "what?", "stage 1's"), (&stage2, long.as_str(), "128 positions")] {
        let refused = caption(&["--checkpoint", checkpoint, "--prompt", prompt, &first]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).1.contains(part), "{}", said(&refused).1);
    }
    let unknown = caption(&["--checkpoint", &text(images.path()), &first]);
    assert!(said(&unknown).1.contains("name it with --recipe"), "{}", said(&unknown).1);
    assert_eq!(caption(&["--checkpoint", &stage2]).status.code(), Some(2), "neither images nor a data set");

    // Measures.
    let (recipe, table) = (text(&run.recipe()), text(&corpus().join("00001.parquet")));
    let evaluate = |more: &[&str]| {
        let mut command = quern(&["eval"]);
        command.args(more).args(["--recipe", &recipe, "--dataset", &table, "--device", "cpu", "--limit", "6"]);
        let output = command.output().expect("quern starts");
        assert!(output.status.success(), "{more:?}: {}", said(&output).1);
        said(&output).0
    };
    for checkpoint in [&stage1, &stage2] {
        let report: Value =
            serde_json::from_str(&evaluate(&["caption", "--checkpoint", checkpoint, "--greedy", "--json"]))
                .expect("JSON");
        assert_eq!((&report["n"], &report["step"]), (&6.into(), &4.into()));
        assert!(report["CIDEr"]["value"].is_f64() && report["Bleu_4"].is_f64(), "{report}");
        assert_eq!(report["captions"].as_array().map(Vec::len), Some(6));
    }
    assert!(
        evaluate(&["caption", "--before-stage2", &stage1, "--greedy"]).starts_with("6 images, untrained\n  CIDEr ")
    );
    let retrieval = evaluate(&["retrieval", "--checkpoint", &stage1, "--rerank", "3"]);
    assert_eq!(retrieval.matches("image_to_text_R@1 ").count(), 2, "{retrieval}");
    assert!(retrieval.contains("the best 3 ordered with ITM"), "{retrieval}");
}
