//! Rows whose images are elsewhere, from the file to the row.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Float64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{Field, Fields};
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::ArrowWriter;
use quern_recipes::Columns;
use tokio::sync::Barrier;

use super::*;
use crate::web::{Reply, Web};

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)));
    let batch = batch.unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Hugging Face's image: bytes, a path, both or neither.
fn hugging_face(images: &[(Option<&[u8]>, Option<&str>)]) -> ArrayRef {
    let bytes = BinaryArray::from_iter(images.iter().map(|image| image.0));
    let paths = StringArray::from_iter(images.iter().map(|image| image.1));
    let fields = Fields::from(vec![
        Field::new("bytes", bytes.data_type().clone(), true),
        Field::new("path", paths.data_type().clone(), true),
    ]);
    Arc::new(StructArray::new(fields, vec![Arc::new(bytes), Arc::new(paths)], None))
}

fn dataset(root: &Path, images: Images, image: &str) -> Dataset {
    let columns = Columns { image: image.into(), caption: "TEXT".into(), key: "SAMPLE_ID".into() };
    let path = root.join("rows").to_str().unwrap().into();
    Dataset { name: "web".into(), path, format: None, images, columns, max_rows: None, weight: None, capfilt: true }
}

/// Writes the images' column with captions beside it, and reads it back: each row's image, or the reason and detail.
async fn read(root: &Path, images: Images, column: ArrayRef) -> Vec<Result<Bytes, MissingImage>> {
    let reader = Reader::new(&ImageLimits { max_bytes: 100, ..ImageLimits::default() });
    read_by(&reader, root, images, column).await
}

async fn read_by(reader: &Reader, root: &Path, images: Images, column: ArrayRef) -> Vec<Result<Bytes, MissingImage>> {
    let rows = column.len();
    std::fs::create_dir_all(root.join("rows")).unwrap();
    let captions: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("caption {row}"))));
    let keys: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| 7e12 + row as f64)));
    write(&root.join("rows/0.parquet"), vec![("TEXT", captions), ("where", column), ("SAMPLE_ID", keys)]);
    let stream = reader.rows(&dataset(root, images, "where"), "0.parquet", 0, rows as u64).await.unwrap();
    let found: Vec<RawRow> = stream.try_collect().await.unwrap();
    for (index, row) in found.iter().enumerate() {
        assert_eq!(row.id.row, index as u64);
        assert_eq!(row.caption.as_deref(), Some(format!("caption {index}").as_str()));
        assert_eq!(row.key.as_deref(), Some(format!("700000000000{index}").as_str()));
    }
    found.iter().map(|row| row.image().cloned()).collect()
}

fn reasons(found: &[Result<Bytes, MissingImage>]) -> Vec<&str> {
    found.iter().map(|image| image.as_ref().map_or_else(|missing| missing.reason, |_| "")).collect()
}

fn pictures(root: &Path) -> Images {
    std::fs::create_dir_all(root.join("pictures/deep er")).unwrap();
    std::fs::write(root.join("pictures/a.jpg"), "a").unwrap();
    std::fs::write(root.join("pictures/deep er/ü%20#.jpg"), "deep").unwrap();
    std::fs::write(root.join("pictures/large.jpg"), [0; 101]).unwrap();
    std::fs::write(root.join("outside.jpg"), "secret").unwrap();
    Images::Paths(root.join("pictures").to_str().unwrap().into())
}

#[tokio::test]
async fn images_by_path_are_read_below_the_base_and_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let absolute = root.join("outside.jpg").to_str().unwrap().to_owned();
    let paths = [
        Some("a.jpg"),
        Some("deep er/ü%20#.jpg"),
        Some("../outside.jpg"),
        Some(&absolute),
        Some("b.jpg"),
        Some("deep er"),
        Some("a.jpg/b"),
        Some("large.jpg"),
        None,
    ];
    let found = read(root, pictures(root), Arc::new(StringArray::from_iter(paths))).await;
    assert_eq!(found[0].as_deref().unwrap(), b"a");
    assert_eq!(found[1].as_deref().unwrap(), b"deep");
    let outside = ["image_path_invalid"; 2];
    let absent = ["image_not_found"; 3];
    let wanted = [&["", ""], &outside[..], &absent[..], &["image_bytes_limit", "image_missing"]].concat();
    assert_eq!(reasons(&found), wanted, "{found:?}");
    let detail = &found[4].as_ref().unwrap_err().detail;
    assert!(detail.contains("b.jpg") && !detail.contains(root.to_str().unwrap()), "no place of this machine: {detail}");
}

#[tokio::test]
async fn a_hugging_face_image_has_bytes_or_else_a_path() {
    let root = tempfile::tempdir().unwrap();
    let images = hugging_face(&[
        (Some(b"inline"), Some("a.jpg")),
        (None, Some("a.jpg")),
        (None, Some("../outside.jpg")),
        (Some(b"bare"), None),
        (None, None),
    ]);
    let found = read(root.path(), pictures(root.path()), images).await;
    assert_eq!(reasons(&found), ["", "", "image_path_invalid", "", "image_missing"]);
    assert_eq!(found[0].as_deref().unwrap(), b"inline");
    assert_eq!(found[1].as_deref().unwrap(), b"a");
    assert_eq!(found[3].as_deref().unwrap(), b"bare");
}

/// Later images arrive first; the rows are in their order all the same, each with what became of its own image.
#[tokio::test]
async fn images_by_url_are_fetched_at_once_and_come_in_order() {
    let all_asked = Arc::new(Barrier::new(3));
    let web = Web::start(move |asked| {
        let all_asked = Arc::clone(&all_asked);
        let answer = async move {
            if asked.path.starts_with("/wait") {
                all_asked.wait().await;
            }
            if asked.path.ends_with("gone") {
                Reply::new(404, &[], b"")
            } else {
                Reply::new(200, &[], asked.path.as_bytes())
            }
        };
        answer.boxed()
    });
    let web = web.await;
    let urls = ["/wait1", "/now", "/wait2", "/gone", "/wait3"].map(|path| Some(web.url(path)));
    let column: ArrayRef = Arc::new(StringArray::from_iter(urls.iter().cloned().chain([None])));
    let root = tempfile::tempdir().unwrap();
    let recipe = recipe_of_urls(&web.address.to_string());
    let found = read_by(&Reader::with_web(&recipe).unwrap(), root.path(), Images::Urls, column.clone()).await;
    assert_eq!(reasons(&found), ["", "", "", "fetch_status", "", "image_missing"]);
    let images: Vec<_> = found.iter().flatten().cloned().collect();
    assert_eq!(images, ["/wait1", "/now", "/wait2", "/wait3"]);
    web.asked();

    let found = read_by(&Reader::new(&recipe.limits), root.path(), Images::Urls, column).await;
    assert_eq!(reasons(&found), [["image_not_fetched"; 5].as_slice(), &["image_missing"]].concat());
    assert!(web.asked().is_empty(), "who only reads asks nobody");
}

fn recipe_of_urls(allowed: &str) -> Recipe {
    let text = format!(
        r#"{{"name": "urls", "output": "/out", "datasets": [{{"name": "web", "path": "/in", "images": "urls"}}],
            "fetch": {{"allow_private_hosts": ["{allowed}"]}}, "capfilt": {{"captioner": "/c", "ranker": "/r"}}}}"#
    );
    Recipe::from_json(&text).unwrap()
}

#[cfg(unix)]
#[tokio::test]
async fn a_base_that_lets_nobody_in_is_said_of_the_row() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let images = pictures(root.path());
    let path = root.path().join("pictures/a.jpg");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        return; // root may read anything
    }
    let found = read(root.path(), images, Arc::new(StringArray::from(vec!["a.jpg"]))).await;
    assert_eq!(reasons(&found), ["image_denied"]);
}
