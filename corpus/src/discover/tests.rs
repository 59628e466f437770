use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;

use super::*;

fn chosen(names: &[&str]) -> Result<[String; 3], &'static str> {
    choose(names, NamedColumns::default()).map(|columns| [columns.image, columns.caption, columns.key])
}

#[test]
fn the_usual_layouts_are_known() {
    let img2dataset = ["url", "caption", "key", "status", "error_message", "width", "height", "exif", "sha256", "jpg"];
    assert_eq!(chosen(&img2dataset).unwrap(), ["jpg", "caption", "key"]);
    assert_eq!(chosen(&["image", "text"]).unwrap(), ["image", "text", "key"]);
    assert_eq!(chosen(&["SAMPLE_ID", "URL", "TEXT", "jpg"]).unwrap(), ["jpg", "TEXT", "SAMPLE_ID"]);
    assert_eq!(chosen(&["SAMPLE_ID", "URL", "TEXT"]).unwrap(), ["URL", "TEXT", "SAMPLE_ID"]);
    assert_eq!(chosen(&["__key__", "png", "txt"]).unwrap(), ["png", "txt", "__key__"]);
}

#[test]
fn what_is_named_is_taken_and_what_is_unclear_is_said() {
    let named = NamedColumns { image: Some("photo".into()), ..NamedColumns::default() };
    assert_eq!(choose(&["photo", "jpg", "caption"], named).unwrap().image, "photo");
    assert_eq!(chosen(&["photo", "caption"]).unwrap_err(), "image");
    assert_eq!(chosen(&["jpg", "words"]).unwrap_err(), "caption");
}

fn parquet(text: &[&str], bytes: &[&str]) -> Bytes {
    let texts = text.iter().map(|name| (*name, Arc::new(StringArray::from(vec!["x"])) as ArrayRef));
    let images = bytes.iter().map(|name| (*name, Arc::new(BinaryArray::from_vec(vec![&b"x"[..]])) as ArrayRef));
    let batch = RecordBatch::try_from_iter(texts.chain(images)).unwrap();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file.into()
}

fn tar(names: &[&str]) -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        tar.append_data(&mut header, name, &b"x"[..]).unwrap();
    }
    tar.into_inner().unwrap().into()
}

async fn discovered(files: &[(&str, Bytes)], named: NamedColumns) -> Result<Discovered, DiscoverError> {
    let folder = Folder::new(Arc::new(InMemory::new()), Path::default(), "memory://in");
    for (name, bytes) in files {
        folder.put(name, bytes.clone()).await.unwrap();
    }
    discover_columns(&folder, named).await
}

fn found(image: &str, caption: &str, key: &str, images: Images) -> Discovered {
    Discovered { columns: Columns { image: image.into(), caption: caption.into(), key: key.into() }, images }
}

#[tokio::test]
async fn a_column_of_text_holds_urls_or_paths() {
    let none = NamedColumns::default;
    let laion = [("0.parquet", parquet(&["SAMPLE_ID", "URL", "TEXT"], &[]))];
    assert_eq!(discovered(&laion, none()).await.unwrap(), found("URL", "TEXT", "SAMPLE_ID", Images::Urls));
    let both = [("0.parquet", parquet(&["url", "caption"], &["jpg"]))];
    assert_eq!(discovered(&both, none()).await.unwrap(), found("jpg", "caption", "key", Images::Bytes));
    let text = [("0.parquet", parquet(&["image", "text"], &[]))];
    assert_eq!(discovered(&text, none()).await.unwrap().images, Images::Urls);
    let based = NamedColumns { image_base: Some("pictures".into()), ..none() };
    assert_eq!(discovered(&text, based).await.unwrap().images, Images::Paths("pictures".into()));
}

#[tokio::test]
async fn tar_files_have_extensions_for_columns() {
    let none = NamedColumns::default;
    let img2dataset = [("0.tar", tar(&["0.json", "0.txt", "0.webp"])), ("0.parquet", parquet(&["url"], &[]))];
    assert_eq!(discovered(&img2dataset, none()).await.unwrap(), found("webp", "txt", "key", Images::Bytes));
    let in_json = [("0.tar", tar(&["0.jpg", "0.json"]))];
    assert_eq!(discovered(&in_json, none()).await.unwrap(), found("jpg", "caption", "key", Images::Bytes));
    let foreign = discovered(&[("0.tar", tar(&["0.npy", "0.txt"]))], none()).await.unwrap_err();
    assert!(foreign.to_string().contains("`npy`, `txt`"), "{foreign}");
    let cut = discovered(&[("0.tar", tar(&["0.jpg"]).slice(..700))], none()).await.unwrap_err();
    assert!(cut.to_string().contains("cut off"), "{cut}");
    let mixed = [("0.tar", tar(&["0.jpg"])), ("other.parquet", parquet(&["url"], &[]))];
    assert!(matches!(discovered(&mixed, none()).await, Err(DiscoverError::TwoFormats(_))));
    assert!(matches!(discovered(&[], none()).await, Err(DiscoverError::NoFiles(_))));
}
