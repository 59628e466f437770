//! Recipes handed in to a coordinator with real workers: they go from run to run, and a restart in between loses nothing.

use serde_json::Value;

use crate::harness::{Run, ask, corpus, free_port, until, until_answered, worker};

fn submit(port: u16, run: &Run) -> String {
    let recipe = run.recipe();
    let reply = ask(port, &["submit", recipe.to_str().expect("UTF-8"), "-o", "json"], 0);
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    reply["run_id"].as_str().expect("an id").to_owned()
}

/// What `quern ls` says: name and phase of each run.
fn list(port: u16) -> Vec<(String, String)> {
    let text = |run: &Value, key: &str| run[key].as_str().expect("a text").to_owned();
    let lines = ask(port, &["ls", "-o", "json"], 0);
    let runs = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    runs.map(|run| (text(&run, "name"), text(&run, "phase"))).collect()
}

#[test]
fn workers_go_from_run_to_run_and_a_restart_loses_none() {
    let alone = Run::capfilt(corpus());
    alone.run_locally(1);

    let (captioned, passed) = (Run::capfilt(corpus()), Run::pass_through(corpus()));
    let port = free_port();
    let mut coordinator = captioned.coordinator_of_submitted(port);
    until_answered(port);
    assert!(ask(port, &["ls"], 0).starts_with("RUN"));
    assert!(ask(port, &["status"], 2).contains("quern submit"));
    let mut workers = [worker(port, "one", &[]), worker(port, "two", &[])];
    let first = submit(port, &captioned);
    until("a first part", || captioned.output().join("data").exists());
    coordinator.kill();
    let mut coordinator = captioned.coordinator_of_submitted(port);
    until_answered(port);
    let second = submit(port, &passed);
    assert_ne!(first, second);
    assert!(ask(port, &["submit", captioned.recipe().to_str().expect("UTF-8")], 0).contains("before"));
    let watched = ask(port, &["submit", passed.recipe().to_str().expect("UTF-8"), "--watch"], 3);
    assert!(watched.contains(&second), "{watched}");
    ask(port, &["watch", &first], 3);

    let done = |name: &str| (name.to_owned(), "done".to_owned());
    assert_eq!(list(port), [done("cluster-test"), done("pass-through")]);
    for run in [&captioned, &passed] {
        run.verify();
    }
    assert!(alone.bytes() == captioned.bytes(), "other bytes");
    let logs = ask(port, &["logs", &second], 0);
    assert!(logs.contains("joined") && logs.contains("registered"), "{logs}");

    // Both wait for the next recipe, and leave when they are told to.
    for worker in &mut workers {
        worker.terminate();
        assert_eq!(worker.wait().code(), Some(143), "{}", worker.log());
    }
    coordinator.terminate();
    assert_eq!(coordinator.wait().code(), Some(143), "{}", coordinator.log());
    assert!(coordinator.log().contains("goes on from here"), "{}", coordinator.log());
}
