//! Evaluation and export as phases of a run: what they write is what the commands write, whatever happens on the way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::harness::{Process, Run, ask, bytes_under, corpus, free_port, quern, root, until, until_answered, worker};

/// The checkpoint that a run ends with.
const LAST: &str = "stage1/step-000004";

/// CapFilt, a short stage 1, retrieval on `held_out`, and an export for LAVIS.
fn run(held_out: &Path) -> Run {
    let run = Run::capfilt(corpus());
    let capfilt = fs::read_to_string(run.recipe()).expect("the recipe");
    let more = format!(
        "stage1:\n  image_encoder: {zoo}/clip\n  tokenizer: {zoo}/blip\n  batch: 9\n  steps: 4\n\
         \x20 max_text_length: 24\n  optimiser: {{ warmup_steps: 1 }}\n\
         \x20 qformer: {{ hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64,\n\
         \x20   max_position_embeddings: 64, num_query_token: 4, embed_dim: 16 }}\n\
         evaluation:\n  retrieval: {{ dataset: {held_out}, limit: 6, rerank: 3 }}\n\
         export: {{ to: lavis }}\n",
        zoo = root().join("zoo").display(),
        held_out = held_out.display(),
    );
    fs::write(run.recipe(), capfilt + &more).expect("written");
    run
}

fn held_out() -> PathBuf {
    corpus().join("00001.parquet")
}

/// A run that nothing disturbed.
struct Reference {
    run: Run,
    /// What `quern run` printed.
    said: String,
}

fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let run = run(&held_out());
        let recipe = run.recipe();
        let ended = quern(&["run", recipe.to_str().expect("UTF-8")]).output().expect("quern starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // One file of the corpus is no parquet: done, with a shard in quarantine.
        assert_eq!(ended.status.code(), Some(3), "{}{}", text(&ended.stdout), text(&ended.stderr));
        Reference { said: text(&ended.stdout), run }
    })
}

fn assert_same(run: &Run, what: &str) {
    run.verify();
    let (expected, found) = (reference().run.bytes(), run.bytes());
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found), "{what}: other files");
    for (name, bytes) in expected {
        assert!(found[&name] == bytes, "{what}: {name} has other bytes");
    }
}

/// The manifest's entries of tasks.
fn tasks(run: &Run) -> Vec<Value> {
    let manifest: Value = serde_json::from_slice(&run.bytes()["manifest.json"]).expect("JSON");
    manifest["tasks"].as_array().cloned().unwrap_or_default()
}

fn finish(coordinator: &mut Process, worker: &mut Process) {
    assert_eq!(coordinator.wait().code(), Some(3), "the coordinator's log:\n{}", coordinator.log());
    assert!(worker.wait().success(), "the worker's log:\n{}", worker.log());
}

#[test]
fn results_are_what_the_commands_give_and_the_manifest_names_them() {
    let Reference { run, said } = reference();
    run.verify();
    let entries = tasks(run);
    let named = |index: usize, task: &str, folder: &str| {
        let entry = &entries[index];
        assert_eq!((&entry["task"], &entry["checkpoint"]), (&task.into(), &LAST.into()));
        let path = entry["path"].as_str().expect("a path");
        assert_eq!(path, format!("{folder}/{}", entry["digest"].as_str().expect("a digest")));
        run.output().join(path)
    };
    let (evaluation, export) = (named(0, "evaluate", "evaluation"), named(1, "export", "export"));
    assert_eq!(entries.len(), 2);
    let shown = format!("result       evaluation/{}\n", entries[0]["digest"].as_str().expect("a digest"));
    assert!(
        said.contains("evaluate     retrieval, 6 images: ITC image_to_text_R@1 ") && said.contains(&shown),
        "{said}"
    );
    assert!(said.contains("export       stage1/step-000004 for LAVIS"), "{said}");

    let (recipe, table) = (run.recipe().display().to_string(), held_out().display().to_string());
    let measured = quern(&["eval", "retrieval", "--recipe", &recipe, "--checkpoint", LAST, "--dataset", &table])
        .args(["--limit", "6", "--rerank", "3", "--device", "cpu", "--json"])
        .output()
        .expect("quern starts");
    let report = evaluation.join("retrieval.json");
    assert_eq!(String::from_utf8_lossy(&measured.stdout), fs::read_to_string(&report).expect("a report"));

    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("exported");
    let exported = quern(&["export", "--to", "lavis", "--recipe", &recipe, LAST])
        .arg(&out)
        .arg("--metrics")
        .arg(&report)
        .output()
        .expect("quern starts");
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let (by_command, by_run) = (bytes_under(&out), bytes_under(&export));
    assert!(by_run.contains_key("model.pth") && by_run.contains_key("README.md"), "{:?}", by_run.keys());
    assert!(by_command == by_run, "the export has other bytes than the command's");
    assert!(String::from_utf8_lossy(&by_run["README.md"]).contains("image_to_text R@1 value"), "the card has measures");
}

#[test]
fn workers_that_are_killed_or_leave_within_a_task_change_nothing() {
    let run = run(&held_out());
    let port = free_port();
    let mut coordinator = run.coordinator(port);
    until_answered(port);

    // Told to leave while it is at the evaluation, it hands it back.
    let mut leaving = worker(port, "leaving", &["delay-task:600000"]);
    until("the evaluation has begun", || ask(port, &["status"], 0).contains("alive, evaluate"));
    leaving.terminate();
    assert_eq!(leaving.wait().code(), Some(143), "its log:\n{}", leaving.log());
    assert!(!ask(port, &["explain"], 0).contains("failed"), "leaving is no failure");

    // Killed when the evaluation's only file is written, and when the first of the export's is.
    for nth in ["kill-after-file:1", "kill-after-file:2"] {
        let mut killed = worker(port, "killed", &[nth]);
        assert_eq!(killed.wait().signal(), Some(libc::SIGKILL), "its log:\n{}", killed.log());
    }
    assert_eq!(tasks(&run).len(), 1, "the evaluation is named before the export begins");
    let mut sound = worker(port, "sound", &[]);
    finish(&mut coordinator, &mut sound);
    assert_same(&run, "killed within tasks");
}

#[test]
fn a_task_that_fails_too_often_fails_the_run_which_goes_on_from_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = folder.path().join("held-out.parquet");
    let run = run(&gone);
    let early = quern(&["run", run.recipe().to_str().expect("UTF-8")]).output().expect("quern starts");
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert_eq!(early.status.code(), Some(2), "{said}");
    assert!(said.contains("`evaluation.retrieval.dataset`: there is no "), "{said}");

    let port = free_port();
    let mut coordinator = run.coordinator(port);
    let mut first = worker(port, "first", &[]);
    assert_eq!(coordinator.wait().code(), Some(1), "the coordinator's log:\n{}", coordinator.log());
    let said = coordinator.log();
    assert!(
        said.contains("5 attempts to evaluate failed, the last one: ") && said.contains("held-out.parquet"),
        "{said}"
    );
    assert_eq!(first.wait().code(), Some(1), "its log:\n{}", first.log());
    run.verify();
    assert_eq!(tasks(&run), Vec::<Value>::new());
    let before = run.bytes();
    assert!(before.contains_key(&format!("{LAST}/state.json")), "what was trained stays");

    fs::copy(held_out(), &gone).expect("copied");
    let mut coordinator = run.coordinator(port);
    let mut second = worker(port, "second", &[]);
    finish(&mut coordinator, &mut second);
    assert_eq!(tasks(&run).len(), 2);
    let after = run.bytes();
    let is_kept = |name: &String| name == "manifest.json" || after.get(name) == before.get(name);
    assert!(before.keys().all(is_kept), "what was committed stays");
}

#[test]
fn a_rebuilt_ledger_does_the_tasks_again_to_the_same_bytes() {
    let run = run(&held_out());
    run.run_locally(1);
    let output = run.output().display().to_string();
    let journal = run.journal().display().to_string();
    let rebuilt =
        quern(&["coordinator", "rebuild", "--from", &output, "--journal", &journal]).output().expect("starts");
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let port = free_port();
    let mut coordinator = run.coordinator(port);
    let mut again = worker(port, "again", &[]);
    finish(&mut coordinator, &mut again);
    assert_same(&run, "a rebuilt ledger");
}
