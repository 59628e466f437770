//! Stage 1, then stage 2 towards a language model of the zoo: one run, two ranks, and one that is killed in stage 2; then
//! another language model from the same captions and checkpoint.

use std::fs;

use crate::harness::{Run, corpus, free_port, quern, root, until, worker};

/// The checkpoint that a run ends with.
pub const LAST: &str = "stage2/step-000060";
const CLUSTER: &str = "cluster: { lease_ms: 3000, heartbeat_ms: 200 }\n";

fn stage2(language_model: &str, more: &str) -> String {
    format!(
        "stage2:\n  language_model: {zoo}/{language_model}\n  batch: 9\n  steps: 60\n  ranks: 2\n\
         \x20 checkpoint_every: 10\n  max_text_length: 24\n  optimiser: {{ peak_lr: 1.0e-3, warmup_steps: 5 }}\n{more}",
        zoo = root().join("zoo").display(),
    )
}

/// Captions as they are, then both stages.
pub fn run() -> Run {
    let run = Run::pass_through(corpus());
    let plain = fs::read_to_string(run.recipe()).expect("the recipe");
    let stage1 = format!(
        "stage1:\n  image_encoder: {zoo}/clip\n  tokenizer: {zoo}/blip\n  batch: 9\n  steps: 12\n  ranks: 2\n\
         \x20 checkpoint_every: 10\n  max_text_length: 24\n  optimiser: {{ peak_lr: 1.0e-3, warmup_steps: 5 }}\n\
         \x20 qformer: {{ hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64,\n\
         \x20   max_position_embeddings: 64, num_query_token: 4, embed_dim: 16 }}\n",
        zoo = root().join("zoo").display(),
    );
    fs::write(run.recipe(), plain + &stage1 + &stage2("opt", "") + CLUSTER).expect("written");
    run
}

/// What the run ended with.
pub fn weights(run: &Run) -> Vec<u8> {
    let path = run.output().join(LAST).join("model.safetensors");
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn stage_2_follows_stage_1_and_a_killed_rank_changes_no_weight() {
    let undisturbed = run();
    undisturbed.run_locally(2);
    assert!(undisturbed.output().join("stage1/step-000012/state.json").exists());

    let disturbed = run();
    let port = free_port();
    let mut coordinator = disturbed.coordinator(port);
    let (mut first, mut killed) = (worker(port, "first", &[]), worker(port, "killed", &[]));
    let state = disturbed.output().join("stage2/step-000010/state.json");
    until("step 10 of stage 2", || state.exists());
    killed.kill();
    assert!(!disturbed.output().join(LAST).exists(), "the run was over before the rank was killed");
    let mut second = worker(port, "second", &[]);
    let status = coordinator.wait();
    // One file of the corpus is no parquet: done, with a shard in quarantine.
    assert_eq!(status.code(), Some(3), "the coordinator's log:\n{}", coordinator.log());
    for worker in [&mut first, &mut second] {
        assert!(worker.wait().success(), "a worker's log:\n{}", worker.log());
    }
    assert!(weights(&undisturbed) == weights(&disturbed), "other weights");

    another_language_model(&undisturbed);
}

/// Stage 2 alone, from the captions and the stage 1 of `earlier`.
fn another_language_model(earlier: &Run) {
    let run = Run::pass_through(corpus());
    let plain = fs::read_to_string(run.recipe()).expect("the recipe");
    let output = earlier.output();
    let beginning = format!(
        "  qformer: {}/stage1/step-000012\n  image_encoder: {}/clip\ncaptions: {}\n",
        output.display(),
        root().join("zoo").display(),
        output.display()
    );
    fs::write(run.recipe(), plain + &stage2("t5", &beginning) + CLUSTER).expect("written");
    let recipe = run.recipe();
    let arguments = ["run", recipe.to_str().expect("UTF-8"), "--workers", "2"];
    let ended = quern(&arguments).output().expect("quern starts");
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("stage 2      step 60 of 60, loss") && said.contains(LAST), "{said}");
    assert!(!run.output().join("data").exists(), "nothing is captioned anew");
    let projects_to = |run: &Run, name: &str| weights(run).windows(name.len()).any(|bytes| bytes == name.as_bytes());
    assert!(projects_to(&run, "t5_proj.weight") && projects_to(earlier, "opt_proj.weight"), "another projection");

    // The output states the recipe, so that the checkpoint is enough.
    let checkpoint = run.output().join(LAST).display().to_string();
    let images = corpus().display().to_string();
    let arguments = ["caption", "--checkpoint", &checkpoint, "--dataset", &images, "--limit", "1", "--device", "cpu"];
    let ended = quern(&arguments).output().expect("quern starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
