//! What a real run says: traces from lease to commit across its processes, and a log that programs can read.

use std::fs;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::collector::{Collector, Span, below};
use crate::harness::{Run, corpus, quern, until};
use crate::stages;

/// A corpus without broken files.
fn whole_corpus() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    fs::copy(corpus().join("00001.parquet"), folder.path().join("00001.parquet")).expect("copied");
    folder
}

/// `quern run` with one worker, and these variables.
fn run(run: &Run, variables: &[(&str, &str)], code: i32) -> Output {
    run_on(1, run, variables, code)
}

fn run_on(workers: usize, run: &Run, variables: &[(&str, &str)], code: i32) -> Output {
    let recipe = run.recipe();
    let mut command = quern(&["run", recipe.to_str().expect("UTF-8"), "--workers", &workers.to_string()]);
    command.envs(variables.iter().copied());
    let ended = command.output().expect("quern starts");
    assert_eq!(ended.status.code(), Some(code), "{}", errors(&ended));
    ended
}

fn errors(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

/// What the run's worker wrote.
fn workers_log(run: &Run) -> String {
    let folder = format!("{}.logs", run.output().display());
    fs::read_to_string(format!("{folder}/worker-0.log")).expect("a log")
}

#[test]
fn a_trace_goes_from_lease_to_commit_through_both_programs() {
    let collector = Collector::start();
    let traced = Run::capfilt(corpus());
    run(&traced, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)], 3);

    let spans = collector.spans();
    let committed = |span: &&Span| span.name == "shard" && span.attribute("end") == "committed";
    let shards: Vec<&Span> = spans.iter().filter(committed).collect();
    let arrived: Vec<_> = spans.iter().map(|span| (&span.service, &span.name, span.attribute("end"))).collect();
    assert_eq!(shards.len(), 8, "80 rows are 8 shards: {arrived:?}");
    for shard in &shards {
        assert_eq!(shard.service, "quern-worker");
        assert!(shard.parent.is_empty(), "{shard:?}");
        for key in ["run", "worker", "shard", "epoch", "incarnation"] {
            assert!(!shard.attribute(key).is_empty(), "{key}: {shard:?}");
        }
        assert_eq!(shard.attribute("rows"), "10");
        let below = below(shard, &spans);
        let own = ["lease", "process", "fetch", "decode", "caption", "rank", "write", "upload", "commit"];
        let coordinators = ["Lease", "Commit", "journal.append"];
        let own = own.map(|name| ("quern-worker".to_owned(), name.to_owned()));
        let coordinators = coordinators.map(|name| ("quern".to_owned(), name.to_owned()));
        for expected in own.into_iter().chain(coordinators) {
            assert!(below.contains(&expected), "{expected:?} is not in {below:?}");
        }
    }
    // Questions without work, and heartbeats, leave nothing.
    assert!(!spans.iter().any(|span| ["turn", "Heartbeat", "heartbeat"].contains(&span.name.as_str())));
    for span in spans.iter().filter(|span| !span.parent.is_empty()) {
        assert!(spans.iter().any(|parent| parent.id == span.parent), "the parent of {span:?} is missing");
    }
}

#[test]
fn training_is_a_span_per_stretch_between_checkpoints() {
    let collector = Collector::start();
    run_on(2, &stages::run(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)], 3);

    let spans = collector.spans();
    let generations: Vec<&Span> = spans.iter().filter(|span| span.name == "generation").collect();
    assert!(generations.len() >= 4, "two ranks in two stages: {generations:?}");
    let stretch = |first: &str, last: &str| {
        let is_it = |span: &&Span| span.attribute("first") == first && span.attribute("last") == last;
        let found = spans.iter().filter(|span| span.name == "steps").find(is_it).expect("a stretch");
        assert!(generations.iter().any(|generation| generation.id == found.parent));
        below(found, &spans)
    };
    let committed = ("quern".to_owned(), "CommitCheckpoint".to_owned());
    for (first, last) in [("1", "10"), ("11", "12"), ("51", "60")] {
        assert!(stretch(first, last).contains(&committed), "steps {first} to {last}");
    }
}

#[test]
fn without_an_endpoint_or_switched_off_nothing_is_sent() {
    let collector = Collector::start();
    let to = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str());
    let corpus = whole_corpus();
    let switched = |name, value| run(&Run::pass_through(corpus.path()), &[to, (name, value)], 0);
    run(&Run::pass_through(corpus.path()), &[], 0);
    switched("OTEL_SDK_DISABLED", "true");
    switched("OTEL_TRACES_EXPORTER", "none");
    switched("OTEL_TRACES_SAMPLER", "always_off");
    let refused = errors(&switched("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"));
    assert!(refused.contains("no traces are sent: ") && refused.contains("quern speaks grpc"), "{refused}");
    assert!(collector.spans().is_empty());
}

#[test]
fn a_collector_that_is_away_is_said_once_and_stops_nothing() {
    let corpus = whole_corpus();
    let passed = Run::pass_through(corpus.path());
    let away = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let ended = run(&passed, &away, 0);
    for log in [errors(&ended), workers_log(&passed)] {
        assert_eq!(log.matches("traces can't be sent to http://127.0.0.1:9").count(), 1, "{log}");
    }
    passed.verify();
}

#[test]
fn every_line_of_a_json_log_is_an_object() {
    let logged = Run::capfilt(corpus());
    let ended = run(&logged, &[("QUERN_LOG_FORMAT", "json")], 3);
    let (command, worker) = (errors(&ended), workers_log(&logged));
    for log in [&command, &worker] {
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert!(!lines.is_empty());
        for line in &lines {
            for key in ["timestamp", "level", "target", "message"] {
                assert!(line[key].is_string(), "{key}: {line}");
            }
        }
    }
    assert!(command.contains("coordinator at http://"), "{command}");
    let registered = worker.lines().find(|line| line.contains("\"registered\"")).expect(&worker);
    let registered: Value = serde_json::from_str(registered).expect("JSON");
    assert_eq!((&registered["level"], &registered["device"]), (&"INFO".into(), &"cpu".into()));

    let failed = quern(&["--log-format", "json", "run", "no-such-recipe.yaml"]).output().expect("quern starts");
    assert_eq!(failed.status.code(), Some(2));
    let said: Value = serde_json::from_str(&errors(&failed)).expect("one JSON line");
    assert_eq!(said["level"], "ERROR");
    assert!(said["message"].as_str().is_some_and(|text| text.contains("no-such-recipe.yaml")), "{said}");
}

#[test]
fn what_waits_is_sent_when_a_signal_ends_a_run() {
    let collector = Collector::start();
    let stopped = Run::capfilt(corpus());
    let recipe = stopped.recipe();
    let mut command = quern(&["run", recipe.to_str().expect("UTF-8")]);
    // Nothing is sent before the end.
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url).env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let running = command.spawn().expect("quern starts");
    until("a first part", || stopped.output().join("data").exists());
    // SAFETY: a signal to our own child, which we have not reaped.
    assert_eq!(unsafe { libc::kill(running.id() as i32, libc::SIGTERM) }, 0);
    let ended = running.wait_with_output().expect("a child");
    assert_eq!(ended.status.code(), Some(143), "{}", errors(&ended));
    let spans = collector.spans();
    let has = |service: &str, name: &str| spans.iter().any(|span| span.service == service && span.name == name);
    assert!(has("quern-worker", "shard") && has("quern", "Drain"), "{spans:?}");
}

#[test]
fn tokens_are_in_no_log() {
    let folder = whole_corpus();
    let [tokens, token] = ["tokens", "token"].map(|name| folder.path().join(name));
    fs::write(&tokens, "worker hush-hush-hush-hush\n").expect("written");
    fs::write(&token, "hush-hush-hush-hush\n").expect("written");
    let logged = Run::pass_through(folder.path());
    let recipe = logged.recipe();
    let mut command = quern(&["run", recipe.to_str().expect("UTF-8"), "--log-format", "json"]);
    command.arg("--tokens").arg(&tokens).arg("--token-file").arg(&token);
    let ended = command.env("RUST_LOG", "trace").output().expect("quern starts");
    assert_eq!(ended.status.code(), Some(0), "{}", errors(&ended));
    for log in [errors(&ended), workers_log(&logged)] {
        assert!(log.contains("authorization") || log.contains("HEADERS") || log.contains("Headers"), "a fine log");
        let told = log.lines().find(|line| line.contains("hush"));
        assert_eq!(told, None);
    }
}
