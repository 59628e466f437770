//! Parts, manifest and card in a store that fails: as they should be, or an error; nothing torn is taken for whole.

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use quern_capfilt::{Manifest, VerifyError, verify};
use quern_corpus::store::{Folder, Patient};
use quern_faults::{Call, Fault, Faulty, Op, storm};

use crate::fixture::{Output, part, shard};

/// What is written has some thousand bytes: most of it goes in parts.
const PART_BYTES: usize = 1000;

fn folder(memory: &Arc<InMemory>, script: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) -> Folder {
    let store = Patient::hasty(Arc::new(Faulty::new(memory.clone(), script)), PART_BYTES);
    Folder::new(Arc::new(store), Path::default(), "faulty://output")
}

fn calm(memory: &Arc<InMemory>) -> Folder {
    Folder::new(memory.clone(), Path::default(), "memory://output")
}

async fn files(folder: &Folder) -> Vec<(String, bytes::Bytes)> {
    let mut files = Vec::new();
    for name in folder.list("").await.unwrap() {
        files.push((name.clone(), folder.get(&name).await.unwrap()));
    }
    files
}

#[tokio::test]
async fn in_a_storm_an_output_is_written_and_verified() {
    let whole = Output::whole().await;
    let expected = files(&whole.folder).await;
    for seed in 0..50 {
        let memory = Arc::new(InMemory::new());
        let stormy = folder(&memory, storm(seed));
        let mut output = Output { folder: stormy, entries: Vec::new(), plan: Vec::new(), quarantined: Vec::new() };
        for spec in [shard(0, 4), shard(1, 4)] {
            output.add(&spec, &part(&spec)).await;
        }
        whole.manifest().write(&output.folder).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(files(&calm(&memory)).await, expected, "seed {seed}");
        let verified = verify(&output.folder, Some(&whole.plan)).await;
        let violations = verified.unwrap_or_else(|error| panic!("seed {seed}: {error}")).violations;
        assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    }
}

/// A store that fails is no output that breaks a promise.
#[tokio::test]
async fn verification_of_what_can_not_be_read_is_an_error_and_no_violation() {
    let whole = Output::whole().await;
    let memory = Arc::new(InMemory::new());
    for (name, content) in files(&whole.folder).await {
        calm(&memory).put(&name, content).await.unwrap();
    }
    for fault in [Fault::Throttled, Fault::Failed, Fault::Torn, Fault::Short, Fault::Unanswered] {
        for below in ["data/", "quarantine/", "README.md", "manifest.json"] {
            let dead = move |call: &Call| (call.op == Op::Get && call.path.starts_with(below)).then_some(fault);
            let end = verify(&folder(&memory, dead), Some(&whole.plan)).await;
            assert!(end.is_err(), "{fault:?} at {below}: {:?}", end.map(|end| end.violations));
        }
    }
}

/// A manifest of which a part was written is none, and a part of a part is a violation.
#[tokio::test]
async fn what_is_torn_is_not_taken_for_whole() {
    let memory = Arc::new(InMemory::new());
    let whole = Output::whole().await;
    for (name, content) in files(&whole.folder).await {
        calm(&memory).put(&name, content).await.unwrap();
    }
    let manifest = calm(&memory).get("manifest.json").await.unwrap();
    calm(&memory).put("manifest.json", manifest.slice(..manifest.len() / 2)).await.unwrap();
    assert!(Manifest::read(&calm(&memory)).await.is_err());
    assert!(matches!(verify(&calm(&memory), None).await, Err(VerifyError::Manifest(_))));
    calm(&memory).put("manifest.json", manifest).await.unwrap();
    let name = calm(&memory).list("data").await.unwrap().remove(0);
    let part = calm(&memory).get(&name).await.unwrap();
    calm(&memory).put(&name, part.slice(..part.len() / 2)).await.unwrap();
    assert!(!verify(&calm(&memory), Some(&whole.plan)).await.unwrap().violations.is_empty());
    // The same write again mends it, and one that is never answered is an error.
    let torn = folder(&memory, |call| (call.op == Op::Part && call.before == 1).then_some(Fault::Torn));
    torn.put(&name, part.clone()).await.unwrap();
    assert_eq!(calm(&memory).get(&name).await.unwrap(), part);
    let dead = folder(&memory, |call| (call.op == Op::Complete).then_some(Fault::Failed));
    assert!(dead.put(&name, part.clone()).await.unwrap_err().is_passing());
    assert_eq!(calm(&memory).get(&name).await.unwrap(), part, "what was there before stays");
}
