//! Whole and broken files (`broken/images`, `broken/files`, written by the scripts beside them): each one's name says what
//! must happen to it.

#![cfg(feature = "images")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use quern_corpus::images::{Orientation, decode_oriented};
use quern_corpus::plan::plan_folder;
use quern_corpus::reader::Reader;
use quern_corpus::store::Folder;
use quern_recipes::{Columns, Dataset, ImageLimits, Images};

/// What happens to a file, in the words of its name, and why.
type Outcome = (String, String);

/// The names of a folder's files, WHAT.VERDICT.ENDING, whose outcome is not their verdict; each verdict of `all` is there.
fn disappointments(folder: &str, all: &[&str], outcome: impl Fn(&Path, &str) -> Outcome) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let [_, verdict, ending] = name.split('.').collect::<Vec<_>>()[..] else {
            panic!("{name} is not called WHAT.VERDICT.ENDING")
        };
        let (found, why) = outcome(file, ending);
        if found != verdict {
            wrong.push(format!("{name}: {found} {why}"));
        }
        seen.push(verdict);
    }
    for verdict in all {
        assert!(seen.iter().filter(|seen| *seen == verdict).count() >= 3, "few files are {verdict}");
    }
    wrong
}

/// An image decodes to a size, or has a reason to be quarantined.
fn of_image(file: &Path) -> Outcome {
    match decode_oriented(&std::fs::read(file).unwrap(), &ImageLimits::default(), Orientation::Apply) {
        Ok(image) => {
            assert_eq!(image.pixels.len(), image.width as usize * image.height as usize * 3);
            (format!("{}x{}", image.width, image.height), String::new())
        }
        Err(error) => (error.reason().to_owned(), error.to_string()),
    }
}

#[test]
fn every_image_meets_the_end_that_its_name_says() {
    let reasons = ["24x16", "image_corrupt", "image_size_limit", "image_frames_limit", "image_unsupported"];
    let wrong = disappointments("images", &reasons, |file, _| of_image(file));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A file is planned and read to its end, or there is a reason why not.
async fn of_file(file: &Path, ending: &str) -> Outcome {
    let folder = Folder::new(Arc::new(InMemory::new()), "data".into(), "memory:///data");
    let name = format!("file.{ending}");
    folder.put(&name, Bytes::from(std::fs::read(file).unwrap())).await.unwrap();
    let dataset = Dataset {
        name: "web".into(),
        path: "memory:///data".into(),
        columns: Columns::default(),
        format: None,
        images: Images::Bytes,
        max_rows: None,
        weight: None,
        capfilt: true,
    };
    let plan = plan_folder(&folder, &dataset, 100).await.unwrap();
    if let Some(unreadable) = plan.unreadable.first() {
        return ("unreadable".into(), unreadable.reason.clone());
    }
    let reader = Reader::new(&ImageLimits::default());
    let mut rows = 0;
    for shard in plan.shards {
        let read = async {
            reader.rows_in(&folder, &dataset, &shard.file, shard.row_start, shard.rows).await?.try_collect().await
        };
        let read: Vec<_> = match read.await {
            Ok(read) => read,
            Err(error) => return (quern_corpus::reader::ReadError::reason(&error).into(), error.to_string()),
        };
        for row in &read {
            assert_eq!(row.caption.as_deref(), Some("caption"), "{}: {row:?}", file.display());
            assert!(row.image().unwrap().starts_with(b"image"), "{}: {row:?}", file.display());
        }
        assert_eq!(read.len() as u64, shard.rows);
        rows += read.len();
    }
    (format!("{rows}-rows"), String::new())
}

#[test]
fn every_file_meets_the_end_that_its_name_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let verdicts = ["2-rows", "unreadable", "file_unreadable"];
    let wrong = disappointments("files", &verdicts, |file, ending| runtime.block_on(of_file(file, ending)));
    assert!(wrong.is_empty(), "{wrong:#?}");
}
