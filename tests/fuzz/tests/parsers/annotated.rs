//! Annotated images in parquet: one text per row or a list of them.

use futures::TryStreamExt;
use quern_corpus::annotated::{Annotated, AnnotatedColumns, read_annotated};
use quern_fuzz::Target;

#[test]
fn annotated() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.parquet");
    let columns =
        AnnotatedColumns { image: "jpg".into(), texts: vec!["captions".into(), "caption".into()], key: "key".into() };
    Target::new("annotated").seeds_of("corpus/tests/broken/files", ".parquet").run(|bytes| {
        std::fs::write(&path, bytes).expect("the folder can be written");
        let read = runtime.block_on(async {
            let rows = read_annotated(path.to_str().expect("plain"), &columns).await?;
            rows.try_collect::<Vec<Annotated>>().await
        });
        for (row, number) in read.iter().flatten().zip(0..) {
            assert_eq!(row.id.row, number);
        }
    });
}
