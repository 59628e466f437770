//! What `k8s/base` relies on beyond what other tests show (SIGTERM and exit code 143: `same_bytes`, `training`): a
//! coordinator that stays after its run, so that nothing starts it again and again.

use crate::harness::{Run, corpus, free_port, worker};

#[test]
fn a_coordinator_that_stays_answers_until_it_is_told_to_leave() {
    let run = Run::pass_through(corpus());
    for start in ["first", "again"] {
        let port = free_port();
        let mut coordinator = run.coordinator_with(port, &["--stay"]);
        for name in ["early", "late"] {
            let mut worker = worker(port, name, &[]);
            assert!(worker.wait().success(), "{start}: the {name} worker's log:\n{}", worker.log());
        }
        coordinator.terminate();
        // The corpus has a file that is no parquet, so a shard is in quarantine.
        assert_eq!(coordinator.wait().code(), Some(3), "{start}: the coordinator's log:\n{}", coordinator.log());
    }
}
