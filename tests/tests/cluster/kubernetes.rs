//! What `k8s/base` relies on beyond what other tests show (SIGTERM and exit code 143: `same_bytes`, `training`): a
//! coordinator that stays after its run, so that nothing starts it again and again.

use std::fs;

use crate::harness::{Run, corpus, free_port, quern, until, worker};

#[test]
fn a_coordinator_that_stays_answers_until_it_is_told_to_leave() {
    let run = Run::pass_through(corpus());
    let recipe = fs::read_to_string(run.recipe()).expect("readable");
    fs::write(run.recipe(), recipe + "cluster: { lease_ms: 3000, heartbeat_ms: 200 }\n").expect("written");
    for start in ["first", "again"] {
        let port = free_port();
        let mut coordinator = run.coordinator_with(port, &["--stay"]);
        let come_and_go = |name: &str| {
            let mut worker = worker(port, name, &[]);
            assert!(worker.wait().success(), "{start}: the {name} worker's log:\n{}", worker.log());
        };
        come_and_go("early");
        // Any other coordinator leaves when its run is over and every worker has gone.
        let url = format!("http://127.0.0.1:{port}");
        until("the early worker is given up for lost", || {
            let status = quern(&["status", "--coordinator", &url]).output().expect("quern starts");
            assert!(status.status.success(), "{start}: the coordinator's log:\n{}", coordinator.log());
            String::from_utf8_lossy(&status.stdout).contains("lost")
        });
        come_and_go("late");
        coordinator.terminate();
        // The corpus has a file that is no parquet, so a shard is in quarantine.
        assert_eq!(coordinator.wait().code(), Some(3), "{start}: the coordinator's log:\n{}", coordinator.log());
    }
}
