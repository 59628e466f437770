//! Planning and reading from a store that fails: the same plan and the same rows, or an error; never a file or a row less.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use quern_corpus::plan::{DatasetPlan, PlanError, plan_folder};
use quern_corpus::reader::{RawRow, ReadError, Reader};
use quern_corpus::store::{Folder, Patient};
use quern_faults::{Call, Fault, Faulty, Op, storm};
use quern_recipes::{Columns, Dataset, ImageLimits, Images};

const ROWS: u64 = 600;

/// A file whose footer is longer than what is fetched of its end at first.
fn parquet() -> Bytes {
    let mut bytes = Vec::new();
    let batch = |row: u64| {
        let image: ArrayRef = Arc::new(BinaryArray::from_iter_values([vec![row as u8; 300]]));
        let caption: ArrayRef = Arc::new(StringArray::from_iter_values([format!("caption {row}")]));
        RecordBatch::try_from_iter([("jpg", image), ("caption", caption)]).unwrap()
    };
    let mut writer = ArrowWriter::try_new(&mut bytes, batch(0).schema(), None).unwrap();
    for row in 0..ROWS {
        writer.write(&batch(row)).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
    bytes.into()
}

fn tar() -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    for row in 0..40_u8 {
        for (extension, content) in [("jpg", vec![row; 200]), ("txt", format!("caption {row}").into_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, format!("{row:03}.{extension}"), &content[..]).unwrap();
        }
    }
    tar.into_inner().unwrap().into()
}

fn dataset() -> Dataset {
    Dataset {
        name: "web".into(),
        path: "unused".into(),
        format: None,
        images: Images::Bytes,
        columns: Columns::default(),
        max_rows: None,
        weight: None,
        capfilt: true,
    }
}

/// A folder with two such files, which fails by a script.
async fn folder(
    extension: &str,
    content: Bytes,
    script: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static,
) -> Folder {
    let memory = InMemory::new();
    for name in ["a", "b"] {
        memory.put(&Path::from(format!("in/{name}.{extension}")), PutPayload::from(content.clone())).await.unwrap();
    }
    let store = Patient::hasty(Arc::new(Faulty::new(Arc::new(memory), script)), 1 << 20);
    Folder::new(Arc::new(store), Path::from("in"), "faulty://in")
}

async fn rows(folder: &Folder, plan: &DatasetPlan) -> Result<Vec<RawRow>, ReadError> {
    let reader = Reader::new(&ImageLimits::default());
    let mut rows = Vec::new();
    for shard in &plan.shards {
        let stream = reader.rows_in(folder, &dataset(), &shard.file, shard.row_start, shard.rows).await?;
        rows.extend(stream.try_collect::<Vec<_>>().await?);
    }
    Ok(rows)
}

#[tokio::test]
async fn in_a_storm_the_plan_and_the_rows_are_the_same() {
    for (extension, content) in [("parquet", parquet()), ("tar", tar())] {
        let calm = folder(extension, content.clone(), |_| None).await;
        let plan = plan_folder(&calm, &dataset(), 100).await.unwrap();
        let expected = rows(&calm, &plan).await.unwrap();
        assert!(plan.unreadable.is_empty() && !expected.is_empty());
        for seed in 0..20 {
            let stormy = folder(extension, content.clone(), storm(seed)).await;
            let found = plan_folder(&stormy, &dataset(), 100).await;
            assert_eq!(found.unwrap_or_else(|error| panic!("seed {seed}: {error}")), plan, "seed {seed}");
            let found = rows(&stormy, &plan).await;
            assert!(
                found.unwrap_or_else(|error| panic!("seed {seed}: {error}")) == expected,
                "seed {seed}: other rows"
            );
        }
    }
}

/// Whatever had been read before, no file may be given up for unreadable: a parquet file's end had come, for example.
#[tokio::test]
async fn a_store_that_stays_out_of_order_is_no_reason_to_leave_a_file_out() {
    for (extension, content) in [("parquet", parquet()), ("tar", tar())] {
        for fault in [Fault::Throttled, Fault::Failed, Fault::Torn, Fault::Short, Fault::Unanswered] {
            let dead = move |call: &Call| (call.op == Op::Get).then_some(fault);
            let error =
                plan_folder(&folder(extension, content.clone(), dead).await, &dataset(), 100).await.unwrap_err();
            assert!(matches!(error, PlanError::Store { .. }), "{extension} {fault:?}: {error}");
        }
    }
    let size = parquet().len() as u64;
    for fault in [Fault::Throttled, Fault::Failed, Fault::Torn, Fault::Short, Fault::Unanswered] {
        let dead = move |call: &Call| (call.op == Op::Get && call.end != Some(size)).then_some(fault);
        let error = plan_folder(&folder("parquet", parquet(), dead).await, &dataset(), 100).await.unwrap_err();
        assert!(matches!(error, PlanError::Store { .. }), "the footer, {fault:?}: {error}");
    }
    let dead = |call: &Call| (call.op == Op::Get && call.path.ends_with("b.parquet")).then_some(Fault::Throttled);
    let error = plan_folder(&folder("parquet", parquet(), dead).await, &dataset(), 100).await.unwrap_err();
    assert!(error.to_string().contains("faulty://in/b.parquet") && error.to_string().contains("SlowDown"), "{error}");
    let dead = |call: &Call| (call.op == Op::List).then_some(Fault::Torn);
    let error = plan_folder(&folder("parquet", parquet(), dead).await, &dataset(), 100).await.unwrap_err();
    assert!(matches!(error, PlanError::Store { .. }), "half a listing is no listing: {error}");
}

/// Rows that came before are right, and the error says that another try may do better.
#[tokio::test]
async fn a_store_that_dies_while_a_shard_is_read_is_told_from_a_bad_file() {
    for (extension, content) in [("parquet", parquet()), ("tar", tar())] {
        let calm = folder(extension, content.clone(), |_| None).await;
        let file = format!("a.{extension}");
        let reader = Reader::new(&ImageLimits::default());
        let whole = reader.rows_in(&calm, &dataset(), &file, 0, 40).await.unwrap();
        let expected: Vec<RawRow> = whole.try_collect().await.unwrap();
        for fault in [Fault::Throttled, Fault::Torn, Fault::Short] {
            let dead = move |call: &Call| (call.op == Op::Get).then_some(fault);
            let stormy = folder(extension, content.clone(), dead).await;
            let mut found = Vec::new();
            let error = match reader.rows_in(&stormy, &dataset(), &file, 0, 40).await {
                Err(error) => error,
                Ok(mut stream) => loop {
                    match stream.next().await.expect("an error comes") {
                        Ok(row) => found.push(row),
                        Err(error) => break error,
                    }
                },
            };
            assert!(error.is_passing(), "{extension} {fault:?}: {error}");
            assert!(found[..] == expected[..found.len()], "{extension} {fault:?}");
        }
    }
}
