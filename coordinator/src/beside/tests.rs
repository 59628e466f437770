use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use quern_corpus::store::Patient;
use quern_faults::{Call, Fault, Faulty, Op, storm};
use quern_machine::PartSummary;

use super::*;

fn recipe() -> Recipe {
    let text =
        r#"{"name": "toy", "output": "/out", "datasets": [{"name": "web", "path": "/data/web", "capfilt": false}]}"#;
    serde_json::from_str(text).unwrap()
}

fn beside(memory: &Arc<InMemory>, script: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) -> Beside {
    let store = Patient::hasty(Arc::new(Faulty::new(memory.clone(), script)), 200);
    Beside::of(Folder::new(Arc::new(store), Path::from("out"), "faulty://out"), &recipe())
}

fn acceptances(from: u64, count: u64) -> Vec<Acceptance> {
    let accepted = |at: u64| Acceptance::Part {
        shard: quern_machine::ShardId(format!("web-00000-{at:09}")),
        file: "f".into(),
        part: PartSummary { data: Some(format!("data/{at}.parquet")), rows: 1, passed: 1, ..PartSummary::default() },
    };
    (from..from + count).map(accepted).collect()
}

async fn with_parts(memory: &Arc<InMemory>, count: u64) {
    let output = Folder::new(memory.clone(), Path::from("out"), "memory://out");
    for at in 0..count {
        output.put(&format!("data/{at}.parquet"), "a part".into()).await.unwrap();
    }
}

/// Two coordinators after each other in a storm: each has an incarnation of its own, and the second knows all that was
/// accepted.
#[tokio::test]
async fn in_a_storm_nothing_that_was_accepted_is_lost() {
    for seed in 0..50 {
        let memory = Arc::new(InMemory::new());
        with_parts(&memory, 12).await;
        let first = beside(&memory, storm(seed));
        let taken = first.take(Incarnation(0), 0).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for from in [0, 4, 8] {
            first.keep(taken.incarnation, from, &acceptances(from, 4)).await.unwrap();
        }
        let second = beside(&memory, storm(seed + 1000));
        let newer = second.take(Incarnation(0), 0).await.unwrap();
        assert!(newer.incarnation > taken.incarnation && newer.behind, "seed {seed}: {taken:?}, {newer:?}");
        let found = second.read().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(found.len(), 12, "seed {seed}");
        assert_eq!(first.superseded(taken.incarnation).await.unwrap(), Some(newer.incarnation), "seed {seed}");
        assert_eq!(second.superseded(newer.incarnation).await.unwrap(), None, "seed {seed}");
    }
}

/// The answer to the creation of an incarnation's object is lost: nobody can say whose it is, so the next one is taken,
/// and what is beside the output is read again.
#[tokio::test]
async fn an_incarnation_whose_answer_was_lost_is_nobodys() {
    let memory = Arc::new(InMemory::new());
    let lost = |call: &Call| {
        (call.op == Op::Put && call.path.ends_with("00000001") && call.before == 0).then_some(Fault::Unanswered)
    };
    let taken = beside(&memory, lost).take(Incarnation(0), 0).await.unwrap();
    assert_eq!(taken, Taken { incarnation: Incarnation(2), behind: true });
}

#[tokio::test]
async fn half_of_what_was_accepted_is_an_error() {
    let memory = Arc::new(InMemory::new());
    with_parts(&memory, 4).await;
    let calm = beside(&memory, |_| None);
    calm.keep(Incarnation(1), 0, &acceptances(0, 4)).await.unwrap();
    for fault in [Fault::Throttled, Fault::Torn, Fault::Short] {
        let dead = beside(&memory, move |call| (call.op == Op::Get).then_some(fault));
        let error = dead.read().await.unwrap_err();
        assert!(error.contains("faulty://out.coordinators/acceptances/"), "{fault:?}: {error}");
        let half = beside(&memory, move |call| (call.op == Op::List && !call.path.contains('.')).then_some(fault));
        assert!(half.read().await.is_err(), "{fault:?}: parts that are not listed are not gone");
    }
    assert_eq!(calm.read().await.unwrap().len(), 4);
}
