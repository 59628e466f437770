//! Writes a toy corpus in img2dataset's parquet layout: `00000.parquet`, `00001.parquet`, …
//!
//! Columns: `url, caption, key, status, error_message, width, height, original_width, original_height, exif, sha256,
//! jpg`, then `truth` (the scene as JSON), and on demand `question, answer` and `correct_captions, wrong_captions`.
//! A row depends on the seed and its number only (with distinct captions also on the rows before it); memory holds
//! one row group.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int32Builder, ListBuilder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};

use super::grammar::{self, Claim};
use super::questions::Topics;
use super::random::Random;
use super::scene::Scene;
use super::{junk, questions, render};
use crate::store::{self, Folder, StoreError};

/// Rows in a parquet row group: more would be too heavy for dataset viewers.
const ROWS_PER_ROW_GROUP: u64 = 100;

/// Image sides that are drawn from when none is given. Small ones are more frequent.
const IMAGE_SIDES_PX: [u32; 8] = [64, 64, 64, 80, 96, 128, 192, 256];

/// Image sides that can be asked for.
const IMAGE_SIDE_RANGE_PX: std::ops::RangeInclusive<u32> = 64..=256;

/// Scenes drawn for one row of a corpus with distinct captions before it is given up.
const DISTINCT_ATTEMPTS: u32 = 10_000;

/// What to write.
#[derive(Debug, Clone)]
pub struct SynthOptions {
    /// Number of rows, one image each.
    pub rows: u64,
    /// Share of wrong captions, 0 to 1. Drawn per row.
    pub junk: f64,
    /// Seed; see [`super::seeds`].
    pub seed: u64,
    /// Folder to write to: a path or an object-store URL. Files of the same names are replaced.
    pub out: String,
    /// Rows in a file.
    pub rows_per_file: u64,
    /// Side of the images, 64 to 256; `None` varies it.
    pub image_side_px: Option<u32>,
    /// For evaluation sets: every caption is correct, says everything, and no two scenes have the same description.
    pub distinct_captions: bool,
    /// Adds the columns `question` and `answer`, on these topics.
    pub questions: Option<Topics>,
    /// Adds the columns `correct_captions` and `wrong_captions` with this many entries each: of the correct ones the
    /// first says everything; a wrong one differs in one attribute. 0 leaves the columns out.
    pub variants: u32,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self {
            rows: 1000,
            junk: 0.6,
            seed: super::seeds::DEMO,
            out: String::new(),
            rows_per_file: 1000,
            image_side_px: None,
            distinct_captions: false,
            questions: None,
            variants: 0,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthSummary {
    /// Rows written.
    pub rows: u64,
    /// Rows whose caption is correct.
    pub correct_rows: u64,
    /// Parquet files written.
    pub files: u64,
}

/// Why a toy corpus could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The options contradict each other or are out of range.
    #[error("{0}")]
    Options(String),
    /// The output can't be opened, listed or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output folder holds parquet files that this corpus would not replace.
    #[error("“{out}” already holds {file}, which is not part of this corpus: choose an empty folder")]
    OutputHoldsOther {
        /// As given.
        out: String,
        /// The first such file.
        file: String,
    },
    /// No further scene with a description of its own was found.
    #[error("no scene with a new description was found for row {row}: ask for fewer rows")]
    Exhausted {
        /// The row.
        row: u64,
    },
    /// The parquet writer failed.
    #[error("{file}: {source}")]
    Parquet {
        /// The file.
        file: String,
        /// Why.
        source: ParquetError,
    },
    /// An image could not be compressed.
    #[error("row {row}: {source}")]
    Jpeg {
        /// The row.
        row: u64,
        /// Why.
        source: turbojpeg::Error,
    },
}

/// Writes the corpus; `progress` is told the number of rows written so far, about every hundred.
pub async fn synth(options: SynthOptions, mut progress: impl FnMut(u64)) -> Result<SynthSummary, SynthError> {
    validate(&options)?;
    let folder = store::open(&options.out)?;
    let files = options.rows.div_ceil(options.rows_per_file);
    refuse_other_files(&folder, files, &options.out).await?;

    let mut generator = Generator::new(options.clone());
    let mut summary = SynthSummary { rows: 0, correct_rows: 0, files };
    for file in 0..files {
        let name = file_name(file);
        let parquet = |source| unwritten(folder.url_of(&name), source);
        let output = BufWriter::new(Arc::clone(&folder.store), folder.path_of(&name)?);
        let properties = Some(writer_properties());
        let mut writer =
            AsyncArrowWriter::try_new(output, Arc::clone(&generator.schema), properties).map_err(parquet)?;
        let end = options.rows.min((file + 1) * options.rows_per_file);
        while summary.rows < end {
            let rows = summary.rows..end.min(summary.rows + ROWS_PER_ROW_GROUP);
            summary.rows = rows.end;
            let (returned, group) = off_the_runtime(generator, rows).await;
            generator = returned;
            let group = group?;
            summary.correct_rows += group.correct_rows;
            writer.write(&group.batch).await.map_err(parquet)?;
            progress(summary.rows);
        }
        writer.close().await.map_err(parquet)?;
    }
    Ok(summary)
}

/// Makes a row group on a blocking thread: drawing is all arithmetic.
async fn off_the_runtime(
    mut generator: Generator,
    rows: std::ops::Range<u64>,
) -> (Generator, Result<Group, SynthError>) {
    let work = tokio::task::spawn_blocking(move || {
        let group = generator.group(rows);
        (generator, group)
    });
    match work.await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn validate(options: &SynthOptions) -> Result<(), SynthError> {
    let refuse = |message: &str| Err(SynthError::Options(message.to_owned()));
    if !(0.0..=1.0).contains(&options.junk) {
        return refuse("the share of wrong captions (junk) must be between 0 and 1");
    }
    if options.distinct_captions && options.junk > 0.0 {
        return refuse("distinct captions are all correct: set the share of wrong captions (junk) to 0");
    }
    if options.rows_per_file == 0 {
        return refuse("a file must hold at least one row");
    }
    if options.image_side_px.is_some_and(|side| !IMAGE_SIDE_RANGE_PX.contains(&side)) {
        return refuse("the image size must be 64 to 256 pixels");
    }
    Ok(())
}

// --------------------------------------------------------------------------------------------------------- output

fn file_name(file: u64) -> String {
    format!("{file:05}.parquet")
}

/// A larger corpus written here earlier would silently mix with this one.
async fn refuse_other_files(folder: &Folder, files: u64, out: &str) -> Result<(), SynthError> {
    let ours: HashSet<String> = (0..files).map(file_name).collect();
    let found = folder.list("").await?;
    let other = found.into_iter().find(|name| name.ends_with(".parquet") && !ours.contains(name));
    match other {
        Some(file) => Err(SynthError::OutputHoldsOther { out: out.to_owned(), file }),
        None => Ok(()),
    }
}

/// A failure of the parquet writer, or of the store that it writes to.
fn unwritten(file: String, source: ParquetError) -> SynthError {
    match source {
        ParquetError::External(source) => {
            SynthError::Store(StoreError::new("write", file, object_store::Error::Generic { store: "output", source }))
        }
        source => SynthError::Parquet { file, source },
    }
}

fn writer_properties() -> WriterProperties {
    let image = ColumnPath::from("jpg");
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(ROWS_PER_ROW_GROUP as usize))
        .set_column_dictionary_enabled(image.clone(), false)
        .set_column_statistics_enabled(image, EnabledStatistics::None)
        .build()
}

// ------------------------------------------------------------------------------------------------------------ rows

/// Makes row groups in order.
struct Generator {
    options: SynthOptions,
    schema: SchemaRef,
    /// Digests of the descriptions given so far; filled for distinct captions only.
    described: HashSet<[u8; 16]>,
}

/// A row group's columns, and how many of its captions are correct.
struct Group {
    batch: RecordBatch,
    correct_rows: u64,
}

impl Generator {
    fn new(options: SynthOptions) -> Self {
        let schema = schema(&options);
        Self { options, schema, described: HashSet::new() }
    }

    fn group(&mut self, rows: std::ops::Range<u64>) -> Result<Group, SynthError> {
        let mut columns = Columns::default();
        let mut correct_rows = 0;
        for row in rows {
            let scene = self.scene(row)?;
            let caption = self.caption(row, &scene);
            let is_correct = caption.as_deref().is_some_and(|text| grammar::is_correct(text, &scene));
            correct_rows += u64::from(is_correct);
            columns.append(&self.options, row, &scene, caption)?;
        }
        let batch = columns.finish(&self.options, &self.schema);
        Ok(Group { batch, correct_rows })
    }

    fn scene(&mut self, row: u64) -> Result<Scene, SynthError> {
        if !self.options.distinct_captions {
            return Ok(Scene::sample(self.options.seed, row));
        }
        let mut random = Random::new(self.options.seed, row, "scene");
        for _ in 0..DISTINCT_ATTEMPTS {
            let scene = Scene::draw(&mut random);
            if self.described.insert(description_digest(&scene)) {
                return Ok(scene);
            }
        }
        Err(SynthError::Exhausted { row })
    }

    /// The row's web caption; `None` is null.
    fn caption(&self, row: u64, scene: &Scene) -> Option<String> {
        let mut random = Random::new(self.options.seed, row, "caption");
        if self.options.distinct_captions {
            return Some(grammar::write_varied(&Claim::full(scene), &mut random));
        }
        if random.chance(self.options.junk) {
            return junk::write_junk(scene, &mut random);
        }
        Some(grammar::write_correct(scene, &mut random))
    }
}

/// Scenes that read the same in full have the same digest.
fn description_digest(scene: &Scene) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(Claim::full(scene).write().as_bytes()).as_bytes()[..16]);
    digest
}

fn image_side_px(options: &SynthOptions, row: u64) -> u32 {
    options.image_side_px.unwrap_or_else(|| *Random::new(options.seed, row, "image side").choose(&IMAGE_SIDES_PX))
}

fn schema(options: &SynthOptions) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int32, true);
    let texts = |name: &str| Field::new_list(name, Field::new_list_field(DataType::Utf8, true), true);
    let mut fields = vec![
        text("url"),
        text("caption"),
        text("key"),
        text("status"),
        text("error_message"),
        number("width"),
        number("height"),
        number("original_width"),
        number("original_height"),
        text("exif"),
        text("sha256"),
        Field::new("jpg", DataType::Binary, true),
        text("truth"),
    ];
    if options.questions.is_some() {
        fields.extend([text("question"), text("answer")]);
    }
    if options.variants > 0 {
        fields.extend([texts("correct_captions"), texts("wrong_captions")]);
    }
    Arc::new(Schema::new(fields))
}

/// The columns of a row group under construction.
#[derive(Default)]
struct Columns {
    url: StringBuilder,
    caption: StringBuilder,
    key: StringBuilder,
    status: StringBuilder,
    error_message: StringBuilder,
    side_px: Int32Builder,
    exif: StringBuilder,
    sha256: StringBuilder,
    jpg: BinaryBuilder,
    truth: StringBuilder,
    question: StringBuilder,
    answer: StringBuilder,
    correct_captions: ListBuilder<StringBuilder>,
    wrong_captions: ListBuilder<StringBuilder>,
}

impl Columns {
    fn append(
        &mut self,
        options: &SynthOptions,
        row: u64,
        scene: &Scene,
        caption: Option<String>,
    ) -> Result<(), SynthError> {
        let side_px = image_side_px(options, row);
        let jpg = render::render_jpeg(scene, side_px).map_err(|source| SynthError::Jpeg { row, source })?;
        self.url.append_value(format!("https://toy.example/{}/{row:09}.jpg", options.seed));
        self.caption.append_option(caption);
        self.key.append_value(format!("{row:09}"));
        self.status.append_value("success");
        self.error_message.append_null();
        self.side_px.append_value(side_px as i32);
        self.exif.append_value("{}");
        self.sha256.append_value(hex(&Sha256::digest(&jpg)));
        self.jpg.append_value(jpg);
        self.truth.append_value(serde_json::to_string(scene).expect("a scene is plain data"));
        if let Some(topics) = options.questions {
            let asked = questions::ask(scene, topics, &mut Random::new(options.seed, row, "question"));
            self.question.append_value(asked.question);
            self.answer.append_value(asked.answer);
        }
        if options.variants > 0 {
            let mut random = Random::new(options.seed, row, "variants");
            for variant in 0..options.variants {
                self.correct_captions.values().append_value(match variant {
                    0 => grammar::write_varied(&Claim::full(scene), &mut random),
                    _ => grammar::write_correct(scene, &mut random),
                });
                self.wrong_captions.values().append_value(junk::write_one_change(scene, &mut random));
            }
            self.correct_captions.append(true);
            self.wrong_captions.append(true);
        }
        Ok(())
    }

    fn finish(mut self, options: &SynthOptions, schema: &SchemaRef) -> RecordBatch {
        let side_px: ArrayRef = Arc::new(self.side_px.finish());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.url.finish()),
            Arc::new(self.caption.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.status.finish()),
            Arc::new(self.error_message.finish()),
            Arc::clone(&side_px),
            Arc::clone(&side_px),
            Arc::clone(&side_px),
            side_px,
            Arc::new(self.exif.finish()),
            Arc::new(self.sha256.finish()),
            Arc::new(self.jpg.finish()),
            Arc::new(self.truth.finish()),
        ];
        if options.questions.is_some() {
            columns.push(Arc::new(self.question.finish()));
            columns.push(Arc::new(self.answer.finish()));
        }
        if options.variants > 0 {
            columns.push(Arc::new(self.correct_captions.finish()));
            columns.push(Arc::new(self.wrong_captions.finish()));
        }
        RecordBatch::try_new(Arc::clone(schema), columns).expect("columns follow the schema")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
