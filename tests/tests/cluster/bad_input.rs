//! Bad input gets one clear sentence, what, where and what to do, and the documented exit code.

use std::fs;
use std::net::TcpListener;

use crate::harness::{Run, corpus, free_port, quern, until, worker};

/// Runs `quern` with the arguments; returns its exit code and what it printed on standard error.
fn outcome(arguments: &[&str]) -> (Option<i32>, String) {
    let output = quern(arguments).output().expect("quern starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn edited(run: &Run, from: &str, to: &str) -> String {
    let text = fs::read_to_string(run.recipe()).expect("the recipe");
    assert!(text.contains(from), "{from} is in the recipe");
    fs::write(run.recipe(), text.replacen(from, to, 1)).expect("written");
    run.recipe().to_str().expect("UTF-8").to_owned()
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_column() {
    let run = Run::capfilt(corpus());
    let recipe = edited(&run, "shard_rows: 10", "shard_rowz: 10");
    let (code, error) = outcome(&["run", &recipe, "--workers", "1"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("shard_rowz") && error.contains("recipe.yaml:4:"), "{error}");
    assert!(error.contains("shard_rows"), "says what was expected: {error}");
}

#[test]
fn a_wrong_type_is_named_with_file_line_and_column() {
    let run = Run::capfilt(corpus());
    let recipe = edited(&run, "seed: 5", "seed: five");
    let (code, error) = outcome(&["run", &recipe, "--workers", "1"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("recipe.yaml:2:"), "{error}");
}

#[test]
fn a_missing_recipe_is_named() {
    let (code, error) = outcome(&["run", "/nonexistent/recipe.yaml", "--workers", "1"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("/nonexistent/recipe.yaml"), "{error}");
}

#[test]
fn a_missing_model_is_named_by_its_path() {
    let run = Run::capfilt(corpus());
    let text = fs::read_to_string(run.recipe()).expect("the recipe");
    let changed = text.replace("/blip\n", "/no-such-model\n");
    assert_ne!(text, changed);
    fs::write(run.recipe(), changed).expect("written");
    let (code, error) = outcome(&["run", run.recipe().to_str().expect("UTF-8"), "--workers", "1"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("zoo/no-such-model"), "{error}");
}

#[test]
fn a_port_in_use_is_one_sentence() {
    let run = Run::capfilt(corpus());
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("an address").to_string();
    let journal = run.journal();
    let recipe = run.recipe();
    let arguments = [
        "coordinator",
        recipe.to_str().expect("UTF-8"),
        "--listen",
        &address,
        "--journal",
        journal.to_str().expect("UTF-8"),
    ];
    let (code, error) = outcome(&arguments);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&address) && error.contains("in use"), "{error}");
}

#[test]
fn a_coordinator_out_of_reach_is_one_sentence() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let (code, error) = outcome(&["status", "--coordinator", &url]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&url), "{error}");
}

#[test]
fn a_worker_says_at_once_that_it_waits_for_its_coordinator() {
    let port = free_port();
    let waiting = worker(port, "waiting", &[]);
    let expected = format!("no coordinator answers at http://127.0.0.1:{port}");
    until("the worker says so", || waiting.log().contains(&expected));
}
