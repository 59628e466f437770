//! A run in an operator's hands: paused in stage 2, a worker sent away meanwhile, resumed; and another one, cancelled.

use serde_json::Value;

use crate::harness::{ask, free_port, until, until_answered, worker};
use crate::stages::{LAST, run, weights};

fn status(port: u16) -> Value {
    serde_json::from_str(&ask(port, &["status", "-o", "json"], 0)).expect("JSON")
}

#[test]
fn a_paused_run_goes_on_with_other_workers_to_the_same_weights() {
    let undisturbed = run();
    undisturbed.run_locally(2);

    let operated = run();
    let port = free_port();
    let mut coordinator = operated.coordinator(port);
    let (mut leaving, mut staying) = (worker(port, "leaving", &[]), worker(port, "staying", &[]));
    let state = operated.output().join("stage2/step-000010/state.json");
    until("step 10 of stage 2", || state.exists());
    assert!(ask(port, &["pause", "--reason", "for the night"], 0).contains("paused (for the night)"));
    until("the end of what was in hand", || ask(port, &["explain"], 0).contains("nothing is in work"));
    assert_eq!(status(port)["paused"], "for the night");
    assert!(!operated.output().join(LAST).exists(), "the run was over before it was paused");
    let safe = status(port)["step"].as_u64().expect("a step");
    assert!(operated.output().join(format!("stage2/step-{safe:06}")).exists(), "training stops with a checkpoint");

    ask(port, &["drain", "leaving"], 0);
    assert!(leaving.wait().success(), "a worker that is sent away leaves in peace:\n{}", leaving.log());
    assert!(ask(port, &["drain", "nobody"], 2).contains("no worker nobody"));
    let mut coming = worker(port, "coming", &[]);
    ask(port, &["resume"], 0);
    // One file of the corpus is no parquet: done, with a shard in quarantine.
    assert_eq!(coordinator.wait().code(), Some(3), "the coordinator's log:\n{}", coordinator.log());
    for worker in [&mut staying, &mut coming] {
        assert!(worker.wait().success(), "a worker's log:\n{}", worker.log());
    }
    assert!(weights(&undisturbed) == weights(&operated), "other weights");
}

#[test]
fn a_cancelled_run_ends_its_workers_and_stays_cancelled() {
    let cancelled = run();
    let port = free_port();
    let mut coordinator = cancelled.coordinator(port);
    let mut workers = [worker(port, "one", &[]), worker(port, "two", &[])];
    let state = cancelled.output().join("stage2/step-000010/state.json");
    until("step 10 of stage 2", || state.exists());
    ask(port, &["cancel", "--reason", "the recipe was wrong"], 0);
    assert_eq!(coordinator.wait().code(), Some(4), "the coordinator's log:\n{}", coordinator.log());
    for worker in &mut workers {
        assert_eq!(worker.wait().code(), Some(1), "a worker's log:\n{}", worker.log());
        assert!(worker.log().contains("the recipe was wrong"), "{}", worker.log());
    }
    assert!(!cancelled.output().join(LAST).exists());
    // Started again, it says so at once.
    let mut again = cancelled.coordinator(free_port());
    assert_eq!(again.wait().code(), Some(4), "the coordinator's log:\n{}", again.log());
    assert!(again.log().contains("the recipe was wrong"), "{}", again.log());
}

#[test]
fn a_run_without_workers_is_cancelled_at_once() {
    let cancelled = run();
    let port = free_port();
    let mut coordinator = cancelled.coordinator(port);
    until_answered(port);
    ask(port, &["cancel", "--reason", "nobody came"], 0);
    assert_eq!(coordinator.wait().code(), Some(4), "the coordinator's log:\n{}", coordinator.log());
}
