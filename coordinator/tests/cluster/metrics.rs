//! What Prometheus sees of a run's work: histograms and counters, measured around the machine.

use quern_coordinator::Coordinator;

use crate::harness::{Site, Worker, get, phase};

/// One sample of the page as it is now.
async fn sample(coordinator: &Coordinator, series: &str) -> f64 {
    let page = get(coordinator, "/metrics", |_| false).await;
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is missing in\n{page}")).parse().unwrap()
}

#[tokio::test]
async fn leases_commits_shards_and_the_journal_are_measured() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let run = coordinator.status().borrow().run_id.clone();
    let of_run = |name: &str, more: &str| format!("{name}{{run=\"{run}\"{more}}}");
    let mut worker = Worker::register(&coordinator, "w").await;
    let lease = worker.shard().await;
    site.clock.advance(3_000);
    assert!(worker.commit(&lease, "d").await.unwrap().accepted);
    // Asked again, as when the answer got lost; and what another attempt would have made of it.
    assert!(worker.commit(&lease, "d").await.unwrap().accepted);
    assert!(!worker.commit(&lease, "other").await.unwrap().accepted);
    let second = worker.shard().await;
    worker.fail(&second, false).await.unwrap();

    let shards = sample(&coordinator, &of_run("quern_shard_duration_seconds_sum", "")).await;
    let count = sample(&coordinator, &of_run("quern_shard_duration_seconds_count", "")).await;
    assert_eq!((shards, count), (3.0, 1.0));
    for (series, expected) in [
        (of_run("quern_lease_duration_seconds_count", ""), 2.0),
        (of_run("quern_commit_duration_seconds_count", ""), 3.0),
        (of_run("quern_commits_refused_total", ",reason=\"superseded\""), 1.0),
        (of_run("quern_shard_failures_total", ""), 1.0),
        (of_run("quern_journal_failures_total", ",reason=\"full\""), 0.0),
        ("quern_grpc_requests_total{method=\"Commit\",code=\"OK\"}".into(), 3.0),
        ("quern_grpc_requests_total{method=\"Register\",code=\"OK\"}".into(), 1.0),
    ] {
        assert_eq!(sample(&coordinator, &series).await, expected, "{series}");
    }
    let syncs = sample(&coordinator, &of_run("quern_journal_sync_seconds_count", "")).await;
    let records = sample(&coordinator, &of_run("quern_journal_batch_records_sum", "")).await;
    // The start, the plan, a registration, two leases, a commit, a failure.
    assert!(syncs >= 7.0 && records >= syncs, "{syncs} syncs of {records} records");
    assert!(sample(&coordinator, &of_run("quern_journal_size_bytes", "")).await > 4_096.0);
    assert!(sample(&coordinator, "process_resident_memory_bytes").await > 1e6);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn calls_that_fail_are_counted_by_their_code() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    let mut worker = Worker::register(&coordinator, "w").await;
    worker.credentials.as_mut().unwrap().secret = "wrong".into();
    assert!(worker.work().await.is_err());
    let series = "quern_grpc_requests_total{method=\"Lease\",code=\"UNAUTHENTICATED\"}";
    assert_eq!(sample(&coordinator, series).await, 1.0);
    coordinator.shutdown().await;
}
