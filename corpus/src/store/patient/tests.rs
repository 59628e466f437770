use object_store::memory::InMemory;
use quern_faults::{Call, Fault, Faulty, Op, storm};

use super::*;

const PART_BYTES: usize = 100;

/// A store in memory with the object `a` in it, which fails by a script; what is behind it; and patience before it.
async fn faulty(
    content: &[u8],
    script: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static,
) -> (Arc<InMemory>, Faulty, Patient) {
    let memory = Arc::new(InMemory::new());
    memory.put(&Path::from("a"), Bytes::copy_from_slice(content).into()).await.unwrap();
    let faulty = Faulty::new(memory.clone(), script);
    (memory, faulty.clone(), Patient::hasty(Arc::new(faulty), PART_BYTES))
}

async fn read(store: &Patient) -> Result<Bytes> {
    store.get(&Path::from("a")).await?.bytes().await
}

#[tokio::test]
async fn what_passes_is_waited_for() {
    for fault in [Fault::Throttled, Fault::Failed, Fault::Torn, Fault::Short, Fault::Unanswered] {
        let (memory, faulty, store) = faulty(b"all of it", move |call| (call.before < 4).then_some(fault)).await;
        let at = Path::from("a");
        assert_eq!(read(&store).await.unwrap(), "all of it", "{fault:?}");
        assert_eq!(store.get_range(&at, 2..8).await.unwrap(), "l of i", "{fault:?}");
        assert_eq!(store.head(&at).await.unwrap().size, 9, "{fault:?}");
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1, "{fault:?}");
        store.put(&Path::from("b"), "also".into()).await.unwrap();
        assert_eq!(memory.get(&Path::from("b")).await.unwrap().bytes().await.unwrap(), "also", "{fault:?}");
        store.delete(&at).await.unwrap();
        assert!(memory.head(&at).await.is_err(), "{fault:?}");
        assert_eq!(faulty.asked(Op::Put), 5, "{fault:?}");
    }
}

#[tokio::test]
async fn patience_ends() {
    let (_, faulty, store) = faulty(b"x", |_| Some(Fault::Throttled)).await;
    let error = read(&store).await.unwrap_err();
    assert!(error.to_string().contains("SlowDown"), "{error}");
    assert!(store.put(&Path::from("b"), "x".into()).await.is_err());
    assert_eq!((faulty.asked(Op::Get), faulty.asked(Op::Put)), (5, 5));
    let (_, faulty, store) = self::faulty(b"some text", |_| Some(Fault::Short)).await;
    let error = read(&store).await.unwrap_err();
    assert!(error.to_string().contains("ended early"), "{error}");
    assert_eq!(faulty.asked(Op::Get), 5);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let (_, faulty, store) = faulty(b"x", |_| Some(Fault::Denied)).await;
    assert!(matches!(read(&store).await, Err(Error::PermissionDenied { .. })));
    assert!(matches!(store.put(&Path::from("b"), "x".into()).await, Err(Error::PermissionDenied { .. })));
    assert_eq!((faulty.asked(Op::Get), faulty.asked(Op::Put)), (1, 1));
    let status = |code: u16| Error::Generic {
        store: "S3",
        source: format!("Error performing GET - Server returned non-2xx status code: {code} Said: why").into(),
    };
    for (code, passes) in [(400, false), (410, false), (451, false), (408, true), (429, true), (500, true), (503, true)]
    {
        assert_eq!(may_pass(&status(code)), passes, "{code}");
    }
}

/// Half of an old object and half of a new one is nobody's object.
#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_no_object() {
    let (memory, _, store) = faulty(b"old old old", |call| (call.before == 0).then_some(Fault::Torn)).await;
    let mut body = store.get(&Path::from("a")).await.unwrap().into_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "old o");
    memory.put(&Path::from("a"), "new new new".into()).await.unwrap();
    let error = body.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}

#[tokio::test]
async fn a_large_object_appears_as_a_whole_or_not_at_all() {
    let large: Bytes = (0..950_u32).map(|byte| byte as u8).collect();
    let at = Path::from("large");
    let lost = [
        (Op::Begin, Fault::Throttled),
        (Op::Begin, Fault::Unanswered),
        (Op::Part, Fault::Failed),
        (Op::Part, Fault::Torn),
        (Op::Complete, Fault::Throttled),
        (Op::Complete, Fault::Unanswered),
    ];
    for (op, fault) in lost {
        let passing = move |call: &Call| (call.op == op && call.before == 0).then_some(fault);
        let (memory, faulty, store) = faulty(b"", passing).await;
        store.put(&at, large.clone().into()).await.unwrap();
        assert_eq!(memory.get(&at).await.unwrap().bytes().await.unwrap(), large, "{op:?} {fault:?}");
        assert_eq!((faulty.asked(Op::Put), faulty.asked(Op::Begin)), (0, 2), "{op:?} {fault:?}");

        let lasting = move |call: &Call| (call.op == op).then_some(fault);
        if fault != Fault::Unanswered {
            let (memory, faulty, store) = self::faulty(b"", lasting).await;
            assert!(store.put(&at, large.clone().into()).await.is_err(), "{op:?} {fault:?}");
            assert!(memory.head(&at).await.is_err(), "{op:?} {fault:?}: a part of it is there");
            let begun = faulty.asked(Op::Begin);
            assert_eq!((begun, faulty.asked(Op::Abort)), (5, if op == Op::Begin { 0 } else { 5 }), "{op:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_conditional_put_is_never_in_parts_and_happens_once() {
    let (memory, faulty, store) = faulty(b"", |call| (call.before == 0).then_some(Fault::Unanswered)).await;
    let large: Bytes = vec![7; 950].into();
    let put = |content: Bytes| {
        let store = store.clone();
        async move { store.put_opts(&Path::from("c"), content.into(), PutMode::Create.into()).await }
    };
    // Its own object is in its way: whoever asks must take it for another's.
    assert!(matches!(put(large.clone()).await, Err(Error::AlreadyExists { .. })));
    assert!(matches!(put("late".into()).await, Err(Error::AlreadyExists { .. })));
    assert_eq!(memory.get(&Path::from("c")).await.unwrap().bytes().await.unwrap(), large);
    assert_eq!(faulty.asked(Op::Begin), 0);
}

#[tokio::test]
async fn a_listing_that_breaks_off_is_begun_again() {
    let (memory, _, store) = faulty(b"", |call| (call.op == Op::List && call.before < 3).then_some(Fault::Torn)).await;
    for name in ["b", "c", "d", "e"] {
        memory.put(&Path::from(name), "".into()).await.unwrap();
    }
    let listed: Vec<_> = store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    assert_eq!(listed, ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn in_a_storm_everything_is_as_it_was_put() {
    for seed in 0..200 {
        let (memory, _, store) = faulty(b"", storm(seed)).await;
        let objects: Vec<(Path, Bytes)> =
            (0..12_u8).map(|at| (Path::from(format!("o/{at}")), vec![at; usize::from(at) * 40].into())).collect();
        for (at, content) in &objects {
            store.put(at, content.clone().into()).await.unwrap_or_else(|error| panic!("seed {seed}: {at}: {error}"));
        }
        for (at, content) in &objects {
            assert_eq!(memory.get(at).await.unwrap().bytes().await.unwrap(), *content, "seed {seed}: {at} is written");
            let found = store.get(at).await.unwrap().bytes().await;
            assert_eq!(
                found.unwrap_or_else(|error| panic!("seed {seed}: {at}: {error}")),
                *content,
                "seed {seed}: {at}"
            );
        }
        let listed: Vec<_> = store.list(Some(&Path::from("o"))).try_collect().await.unwrap();
        assert_eq!(listed.len(), objects.len(), "seed {seed}");
    }
}
