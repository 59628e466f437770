//! Stage 1 on two ranks ends in the same weights, bit for bit, whatever happens on the way: a rank killed, the
//! coordinator killed and restarted, a rank told to leave.

use std::fs;

use crate::harness::{Process, Run, corpus, free_port, root, until, worker};

const STEPS: u64 = 120;
const LAST: &str = "stage1/step-000120";

/// CapFilt, then training on two ranks with a checkpoint every 10 steps.
fn run() -> Run {
    let run = Run::capfilt(corpus());
    let capfilt = fs::read_to_string(run.recipe()).expect("the recipe");
    let stage1 = format!(
        "stage1:\n  image_encoder: {zoo}/clip\n  tokenizer: {zoo}/blip\n  batch: 9\n  steps: {STEPS}\n  ranks: 2\n\
         \x20 checkpoint_every: 10\n  max_text_length: 24\n  optimiser: {{ peak_lr: 1.0e-3, warmup_steps: 5 }}\n\
         \x20 qformer: {{ hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64,\n\
         \x20   max_position_embeddings: 64, num_query_token: 4, embed_dim: 16 }}\n",
        zoo = root().join("zoo").display(),
    );
    fs::write(run.recipe(), capfilt + &stage1).expect("written");
    run
}

fn weights(run: &Run) -> Vec<u8> {
    let path = run.output().join(LAST).join("model.safetensors");
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn wait_for_step(run: &Run, step: u64) {
    let state = run.output().join(format!("stage1/step-{step:06}/state.json"));
    until(&format!("step {step}"), || state.exists());
}

#[test]
fn killed_and_leaving_ranks_and_a_killed_coordinator_change_no_weight() {
    let undisturbed = run();
    undisturbed.run_locally(2);

    let disturbed = run();
    let port = free_port();
    let mut coordinator = disturbed.coordinator(port);
    let start = |name: &str| -> Process { worker(port, name, &[]) };
    let (mut killed, mut leaving) = (start("killed"), start("leaving"));
    wait_for_step(&disturbed, 20);
    killed.kill();
    let mut second = start("second");
    wait_for_step(&disturbed, 40);
    coordinator.kill();
    let mut coordinator = disturbed.coordinator(port);
    wait_for_step(&disturbed, 60);
    leaving.terminate();
    assert_eq!(leaving.wait().code(), Some(143), "its log:\n{}", leaving.log());
    assert!(!disturbed.output().join(LAST).exists(), "the run was over before the rank was told to leave");
    let mut third = start("third");
    let status = coordinator.wait();
    // One file of the corpus is no parquet: done, with a shard in quarantine.
    assert_eq!(status.code(), Some(3), "the coordinator's log:\n{}", coordinator.log());
    for worker in [&mut second, &mut third] {
        assert!(worker.wait().success(), "a worker's log:\n{}", worker.log());
    }
    assert!(weights(&undisturbed) == weights(&disturbed), "other weights");
}
