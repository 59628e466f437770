use futures::{TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use quern_faults::{Call, Fault, Faulty, Op};

use super::*;
use crate::counted::Counted;
use crate::rows::RowId;

#[test]
fn paths_stay_below_their_folder() {
    for (path, wanted) in [
        ("a.jpg", "a.jpg"),
        ("a/b c/é#?%2e%2e.jpg", "a/b c/é#?%2e%2e.jpg"),
        ("./a/b.jpg", "a/b.jpg"),
        ("a/...jpg", "a/...jpg"),
        ("..a/b..", "..a/b.."),
    ] {
        assert_eq!(inside(path), Some(wanted));
    }
    let long = "x".repeat(256);
    let deep = "x/".repeat(600) + "x";
    for path in [
        "",
        ".",
        "./",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "./../a",
        "/etc/passwd",
        "//a",
        "a//b",
        "a/",
        "a/./b",
        "..\\a",
        "a\\..\\b",
        "s3://bucket/a",
        "file:///etc/passwd",
        "a\0b",
        "a\nb",
        &long,
        &deep,
    ] {
        assert_eq!(inside(path), None, "{path:?}");
    }
}

#[tokio::test]
async fn what_is_no_path_is_shown_without_secrets() {
    let folder = Folder::new(Arc::new(InMemory::new()), Path::default(), "memory://pictures");
    for url in ["https://ann:hush@host/a.jpg", "https://host/a.jpg?sig=hush"] {
        let missing = read(&folder, url, 100).await.unwrap().unwrap_err();
        assert_eq!(missing.reason, "image_path_invalid");
        assert!(missing.detail.contains("a.jpg") && !missing.detail.contains("hush"), "{missing}");
    }
}

fn found(paths: &[&str]) -> BoxStream<'static, Result<Found, ReadError>> {
    let found = |(row, path): (usize, &&str)| {
        let id = RowId { dataset: "web".into(), file: "f.parquet".into(), row: row as u64 };
        let row = RawRow { id, key: None, image: None, missing: None, caption: None };
        Ok(Found { row, path: Some((*path).to_owned()) })
    };
    stream::iter(paths.iter().enumerate().map(found).collect::<Vec<_>>()).boxed()
}

/// What a store does once in a while is no reason to give a row up: the shard is read again.
#[tokio::test]
async fn a_store_that_fails_ends_the_stream() {
    for fault in [Fault::Throttled, Fault::Torn] {
        let fails = move |call: &Call| (call.op == Op::Get && call.path == "b.jpg").then_some(fault);
        let store = Faulty::new(Arc::new(InMemory::new()), fails);
        let folder = Folder::new(Arc::new(store), Path::default(), "memory://pictures");
        for name in ["a.jpg", "b.jpg", "c.jpg"] {
            folder.put(name, Bytes::from("whole image")).await.unwrap();
        }
        let mut rows = with_images(found(&["a.jpg", "b.jpg", "c.jpg"]), Source::Folder(folder), 100);
        assert_eq!(rows.try_next().await.unwrap().unwrap().image.unwrap(), "whole image");
        let error = rows.try_next().await.unwrap_err();
        assert!(error.is_passing() && error.to_string().contains("memory://pictures/b.jpg"), "{error}");
    }
}

/// Only so many images are read ahead while the consumer waits.
#[tokio::test]
async fn what_is_ahead_is_bounded() {
    let store = Arc::new(Counted::new(InMemory::new()));
    let folder = Folder::new(store.clone(), Path::default(), "memory://pictures");
    folder.put("a.jpg", Bytes::from("x")).await.unwrap();
    let mut rows = with_images(found(&["a.jpg"; 200]), Source::Folder(folder), 100);
    rows.try_next().await.unwrap().unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await; // the tasks run as far as they will
    }
    let ahead = store.bytes() - 1;
    assert!((1..=AHEAD_ROWS as u64).contains(&ahead), "{ahead} images");
    assert_eq!(rows.try_collect::<Vec<_>>().await.unwrap().len(), 199);
}
