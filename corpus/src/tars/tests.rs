//! Tar files as writers leave them, from the file to the rows.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use quern_faults::{Fault, Faulty, Op};
use quern_recipes::{Columns, Dataset, Images};
use tar::{Builder, EntryType, Header};

use super::*;
use crate::counted::Counted;
use crate::plan::{DatasetPlan, PlanError, plan_folder};
use crate::reader::{RawRow, ReadError, Reader};
use crate::store::Folder;

fn header(kind: EntryType, bytes: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    header
}

/// A tar file in the making.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Tar(Builder::new(Vec::new()))
    }

    fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.0.append_data(&mut header(EntryType::Regular, content.len()), name, content).unwrap();
        self
    }

    fn other(mut self, name: &str, kind: EntryType, content: &[u8]) -> Self {
        let mut header = header(kind, content.len());
        header.set_path(name).unwrap();
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn pax(mut self, fields: &[(&str, &str)]) -> Self {
        self.0.append_pax_extensions(fields.iter().map(|(key, value)| (*key, value.as_bytes()))).unwrap();
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.get_mut().write_all(bytes).unwrap();
        self
    }

    fn done(self) -> Bytes {
        self.0.into_inner().unwrap().into()
    }
}

fn sample(tar: Tar, row: usize) -> Tar {
    let key = format!("a/{row:05}");
    tar.file(&format!("{key}.jpg"), format!("image {row}").as_bytes())
        .file(&format!("{key}.txt"), format!("caption {row}").as_bytes())
        .file(&format!("{key}.json"), b"{}")
}

fn samples(rows: usize) -> Bytes {
    (0..rows).fold(Tar::new(), sample).done()
}

fn dataset(columns: Columns) -> Dataset {
    let (name, path) = ("web".into(), "unused".into());
    Dataset { name, path, format: None, images: Images::Bytes, columns, max_rows: None, weight: None, capfilt: true }
}

async fn folder(files: &[(&str, Bytes)]) -> Folder {
    let folder = Folder::new(Arc::new(InMemory::new()), Path::from("in"), "memory://in");
    for (name, bytes) in files {
        folder.put(name, bytes.clone()).await.unwrap();
    }
    folder
}

async fn plan(files: &[(&str, Bytes)]) -> Result<DatasetPlan, PlanError> {
    plan_folder(&folder(files).await, &dataset(Columns::default()), 10).await
}

async fn rows(folder: &Folder, columns: Columns, start: u64, rows: u64) -> Result<Vec<RawRow>, ReadError> {
    let limits = quern_recipes::ImageLimits { max_bytes: 100, ..Default::default() };
    Reader::new(&limits).rows_in(folder, &dataset(columns), "0.tar", start, rows).await?.try_collect().await
}

/// Key, image or the reason for none, and caption of every row of a file.
async fn all(tar: Bytes, columns: Columns) -> Vec<(String, String, Option<String>)> {
    let folder = folder(&[("0.tar", tar.clone())]).await;
    let mut names = Samples::open(&folder, "0.tar", tar.len() as u64).unwrap();
    let mut count = 0;
    while names.next().await.unwrap().is_some() {
        count += 1;
    }
    let found = rows(&folder, columns, 0, count).await.unwrap();
    let image = |row: &RawRow| match row.image() {
        Ok(image) => String::from_utf8_lossy(image).into_owned(),
        Err(missing) => missing.reason.into(),
    };
    found.iter().map(|row| (row.key.clone().unwrap(), image(row), row.caption.clone())).collect()
}

fn row(key: &str, image: &str, caption: Option<&str>) -> (String, String, Option<String>) {
    (key.into(), image.into(), caption.map(Into::into))
}

#[tokio::test]
async fn shards_are_ranges_of_samples_and_any_range_is_read() {
    let files =
        [("0.tar", samples(23)), ("sub/1.tar", samples(3)), ("sub/2.tar", samples(0)), ("notes.txt", "x".into())];
    let found = plan(&files).await.unwrap();
    let shards: Vec<_> = found.shards.iter().map(|s| (s.shard.0.as_str(), s.row_start, s.rows)).collect();
    assert_eq!(
        shards,
        [
            ("web-00000-000000000", 0, 10),
            ("web-00000-000000010", 10, 10),
            ("web-00000-000000020", 20, 3),
            ("web-00001-000000000", 0, 3)
        ]
    );
    assert!(found.unreadable.is_empty(), "{:?}", found.unreadable);
    let folder = folder(&files).await;
    for (start, count) in [(0, 23), (0, 1), (22, 1), (7, 9), (0, 0), (23, 0)] {
        let found = rows(&folder, Columns::default(), start, count).await.unwrap();
        let wanted: Vec<_> = (start..start + count).map(|row| format!("image {row}")).collect();
        assert_eq!(found.iter().map(|row| row.image.clone().unwrap()).collect::<Vec<_>>(), wanted, "{start}, {count}");
        assert!(found.iter().all(|row| row.caption == Some(format!("caption {}", row.id.row))));
        assert!(found.iter().all(|row| row.key == Some(format!("a/{:05}", row.id.row)) && &*row.id.file == "0.tar"));
    }
    let error = rows(&folder, Columns::default(), 20, 4).await.unwrap_err();
    assert!(matches!(error, ReadError::OutOfRange { row_start: 20, row_end: 24, rows: 23, .. }), "{error}");
}

#[tokio::test]
async fn names_are_read_as_writers_write_them() {
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(120));
    let mut prefixed = Header::new_ustar();
    prefixed.set_path(format!("{}/{}.jpg", "p".repeat(90), "q".repeat(90))).unwrap();
    prefixed.set_size(1);
    prefixed.set_cksum();
    let mut block = vec![0; 512];
    block[0] = b'u';
    let tar = Tar::new()
        .file(&format!("{long}.jpg"), b"gnu")
        .file(&format!("{long}.txt"), b"long")
        .raw(&[prefixed.as_bytes().as_slice(), &block].concat())
        .pax(&[("path", "pax/é.png"), ("mtime", "1.5")])
        .file("short", b"pax")
        .file("pax/é.caption", b"of pax")
        .file("./dotted.webp", b"dot")
        .done();
    let prefixed = format!("{}/{}", "p".repeat(90), "q".repeat(90));
    let wanted = [
        row(&long, "gnu", Some("long")),
        row(&prefixed, "u", None),
        row("pax/é", "pax", Some("of pax")),
        row("dotted", "dot", None),
    ];
    assert_eq!(all(tar, Columns::default()).await, wanted);
}

#[tokio::test]
async fn what_is_no_file_is_no_member() {
    let mut extended = header(EntryType::GNUSparse, 512);
    extended.set_path("1.jpg").unwrap();
    extended.as_gnu_mut().unwrap().set_is_extended(true);
    extended.set_cksum();
    let tar = Tar::new()
        .other("0", EntryType::Directory, b"")
        .other("0/", EntryType::Regular, b"")
        .other("0.jpg", EntryType::Symlink, b"")
        .other("0.png", EntryType::Link, b"")
        .other("g", EntryType::XGlobalHeader, b"16 comment=none\n")
        .file("0.webp", b"zero")
        .other("0.txt", EntryType::GNUSparse, b"sparse")
        .raw(&[extended.as_bytes().as_slice(), &[0; 512], &[b's'; 512]].concat())
        .pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.name", "1.png")])
        .file("GNUSparseFile.0/1.png", b"sparse")
        .file("._1.jpg", b"a Mac's")
        .file("README", b"none")
        .file("1.jpeg", b"one")
        .done();
    assert_eq!(all(tar, Columns::default()).await, [row("0", "zero", None), row("1", "one", None)]);
}

#[tokio::test]
async fn members_that_follow_each_other_are_a_sample() {
    let tar = Tar::new()
        .file("a.JPG", b"first")
        .file("a.jpg", b"second")
        .file("a.cls", b"7")
        .file("b.json", br#"{"caption": "of json", "width": 3}"#)
        .file("b.jpg", b"b")
        .file("a.jpg", b"again")
        .file("c.txt", b"no image")
        .file("d.jpg", &[0; 101])
        .file("d.txt", b"caf\xff")
        .file("e.png", b"")
        .file("e.json", b"broken")
        .done();
    let wanted = [
        row("a", "first", None),
        row("b", "b", Some("of json")),
        row("a", "again", None),
        row("c", "image_missing", Some("no image")),
        row("d", "image_bytes_limit", Some("caf\u{fffd}")),
        row("e", "", None),
    ];
    assert_eq!(all(tar, Columns::default()).await, wanted);
}

#[tokio::test]
async fn columns_name_extensions() {
    let tar = Tar::new()
        .file("a.jpg", b"no")
        .file("a.seg.png", b"segments")
        .file("a.txt", b"no")
        .file("a.json", br#"{"alt": "alternative"}"#)
        .done();
    let columns =
        |image: &str, caption: &str| Columns { image: image.into(), caption: caption.into(), ..Columns::default() };
    assert_eq!(all(tar.clone(), columns("seg.png", "alt")).await, [row("a", "segments", Some("alternative"))]);
    let foreign = plan_folder(&folder(&[("0.tar", tar)]).await, &dataset(columns("bmp", "txt")), 10).await.unwrap_err();
    assert!(foreign.to_string().contains("`jpg`, `json`, `seg.png`, `txt`"), "{foreign}");
}

#[tokio::test]
async fn a_damaged_file_is_planned_as_unreadable_and_says_why() {
    let whole = samples(3);
    let content = whole.len() - 1024; // two blocks of zeros are the end mark
    let content = (0..content).rev().find(|&at| whole[at] != 0).unwrap() / 512 * 512 + 512;
    let mut garbled = whole.to_vec();
    garbled[1024 + 10] ^= 1;
    for (bytes, words) in [
        (whole.slice(..content), "without an end mark"),
        (whole.slice(..content - 1), "cut off: `a/00002.json` should end"),
        (whole.slice(..content - 700), "cut off: a header"),
        (whole.slice(..700), "cut off: `a/00000.jpg` should end at byte 1024, but the file has 700"),
        (Bytes::new(), "without an end mark"),
        (Bytes::from("this is no tar"), "cut off: a header"),
        (Bytes::from(vec![b'x'; 2048]), "no header at byte 0"),
        (Bytes::from([&[0x1f, 0x8b][..], &[8; 1000]].concat()), "compressed (gzip)"),
        (Bytes::from(garbled), "no header at byte 1024"),
    ] {
        let found = plan(&[("0.tar", samples(1)), ("1.tar", bytes), ("2.tar", samples(1))]).await.unwrap();
        assert_eq!(found.shards.len(), 2);
        assert_eq!(found.unreadable.len(), 1, "{words}");
        let reason = &found.unreadable[0].reason;
        assert!(reason.contains("not a readable tar file") && reason.contains(words), "{words}: {reason}");
    }
    // What is read before the damage is good.
    let cut = folder(&[("0.tar", whole.slice(..content - 1))]).await;
    assert_eq!(rows(&cut, Columns::default(), 0, 1).await.unwrap().len(), 1);
    let error = rows(&cut, Columns::default(), 0, 3).await.unwrap_err();
    assert_eq!((error.reason(), error.is_passing()), ("file_unreadable", false));
}

#[tokio::test]
async fn what_is_meant_is_asked_where_it_is_not_clear() {
    let parquet = Bytes::from("not looked at");
    let mixed = plan(&[("0.tar", samples(1)), ("other.parquet", parquet.clone())]).await.unwrap_err();
    assert!(mixed.to_string().contains("format: webdataset"), "{mixed}");
    let found = plan(&[("0.tar", samples(1)), ("0.parquet", parquet)]).await.unwrap();
    assert_eq!((found.shards.len(), found.unreadable.len()), (1, 0), "img2dataset's metadata");
    let urls = Dataset { images: Images::Urls, ..dataset(Columns::default()) };
    let error = plan_folder(&folder(&[("0.tar", samples(1))]).await, &urls, 10).await.unwrap_err();
    assert!(matches!(error, PlanError::ImagesInTars { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_fails_is_no_damaged_file() {
    let store = Faulty::new(Arc::new(InMemory::new()), |call| (call.op == Op::Get).then_some(Fault::Throttled));
    let folder = Folder::new(Arc::new(store), Path::default(), "memory://in");
    folder.put("0.tar", samples(3)).await.unwrap();
    let error = plan_folder(&folder, &dataset(Columns::default()), 10).await.unwrap_err();
    assert!(matches!(error, PlanError::Store { .. }), "{error}");
    assert!(rows(&folder, Columns::default(), 0, 1).await.unwrap_err().is_passing());
}

/// Contents are skipped, and what comes after the range is not looked at.
#[tokio::test]
async fn headers_are_read_and_contents_skipped() {
    let large = vec![1; 8 << 20];
    let tar =
        (0..4).fold(Tar::new(), |tar, row| tar.file(&format!("{row}.jpg"), &large).file(&format!("{row}.txt"), b"x"));
    let (tar, far) = (tar.done(), 2 << 20);
    let store = Arc::new(Counted::new(InMemory::new()));
    let folder = Folder::new(store.clone(), Path::default(), "memory://in");
    folder.put("0.tar", tar).await.unwrap();
    plan_folder(&folder, &dataset(Columns::default()), 10).await.unwrap();
    let planning = store.bytes();
    assert!(planning <= 5 * far, "{planning} bytes");
    rows(&folder, Columns::default(), 1, 1).await.unwrap();
    let reading = store.bytes() - planning;
    assert!(reading <= 3 * far, "{reading} bytes");

    let root = tempfile::tempdir().unwrap();
    let local = crate::store::open(root.path().to_str().unwrap()).unwrap();
    local.put("0.tar", samples(500)).await.unwrap();
    assert_eq!(rows(&local, Columns::default(), 490, 10).await.unwrap().len(), 10);
}

/// Each member is compared with those of its sample before it, so a sample has no more than are worth it.
#[tokio::test]
async fn a_sample_of_very_many_members_costs_no_more_than_its_length() {
    let tar = (0..1500).fold(Tar::new(), |tar, index| tar.file(&format!("a.{index}"), b"")).done();
    let folder = Folder::new(Arc::new(InMemory::new()), Path::default(), "memory://");
    let bytes = tar.len() as u64;
    folder.put("a.tar", tar).await.unwrap();
    let mut samples = Samples::open(&folder, "a.tar", bytes).unwrap();
    assert_eq!(samples.next().await.unwrap().unwrap().members.len(), 1024);
    assert_eq!(samples.next().await.unwrap(), None);
}
