//! A cluster of real processes on one machine: a corpus with broken rows in it, a coordinator, workers, and their ends.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

/// How long any process of a test may take; a test that needs this long has failed.
const PATIENCE: Duration = Duration::from_secs(240);

/// Rows per synthesised file; the corpus has [`FILES`] of them and one file that is no parquet at all.
pub const ROWS_PER_FILE: usize = 40;
/// Readable files of the corpus.
pub const FILES: usize = 2;

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// A binary of the workspace, as `make build` leaves it.
pub fn binary(name: &str) -> PathBuf {
    let path = root().join("target/release").join(name);
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// A `quern` command, its output captured.
pub fn quern(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("quern"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The corpus that every test reads: scenes with three sorts of broken rows in the first file (row 3: a truncated
/// image, row 10: no image, row 17: no caption), and a last file of random bytes.
pub fn corpus() -> &'static Path {
    static CORPUS: OnceLock<TempDir> = OnceLock::new();
    let folder = CORPUS.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let rows = (ROWS_PER_FILE * FILES).to_string();
        let per_file = ROWS_PER_FILE.to_string();
        let out = folder.path().to_str().expect("UTF-8");
        let arguments = [
            "corpus",
            "synth",
            "--rows",
            &rows,
            "--rows-per-file",
            &per_file,
            "--junk",
            "0.6",
            "--seed",
            "77",
            "--out",
            out,
        ];
        let output = quern(&arguments).output().expect("quern starts");
        assert!(output.status.success(), "synth: {}", String::from_utf8_lossy(&output.stderr));
        break_rows(&folder.path().join("00000.parquet"));
        fs::write(folder.path().join("zz-broken.parquet"), b"these bytes are no parquet file").expect("written");
        folder
    });
    folder.path()
}

/// Rewrites a file of the corpus with one image cut short, one missing, and one caption missing.
fn break_rows(path: &Path) {
    rewrite(path, |batch| {
        let images: &BinaryArray = column(&batch, "jpg");
        let captions: &StringArray = column(&batch, "caption");
        let images: BinaryArray = images
            .iter()
            .enumerate()
            .map(|(row, bytes)| match row {
                3 => bytes.map(|bytes| &bytes[..bytes.len() / 2]),
                10 => None,
                _ => bytes,
            })
            .collect();
        let captions: StringArray =
            captions.iter().enumerate().map(|(row, text)| if row == 17 { None } else { text }).collect();
        let batch = replace(&batch, "jpg", Arc::new(images));
        replace(&batch, "caption", Arc::new(captions))
    });
}

/// Reads a parquet file whole, changes it, writes it back.
pub fn rewrite(path: &Path, change: impl FnOnce(RecordBatch) -> RecordBatch) {
    let changed = change(read(path));
    let mut writer =
        ArrowWriter::try_new(fs::File::create(path).expect("created"), changed.schema(), None).expect("a writer");
    writer.write(&changed).expect("written");
    writer.close().expect("closed");
}

/// A parquet file's rows.
pub fn read(path: &Path) -> RecordBatch {
    let file = fs::File::open(path).expect("the file opens");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("a reader");
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("a batch")).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).expect("one schema")
}

/// A column of rows.
pub fn column<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> &'a T {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    column.as_any().downcast_ref().unwrap_or_else(|| panic!("{name} is {}", column.data_type()))
}

fn replace(batch: &RecordBatch, name: &str, with: ArrayRef) -> RecordBatch {
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|field| match field.name() == name {
        true => Arc::new(field.as_ref().clone().with_data_type(with.data_type().clone()).with_nullable(true)),
        false => field.clone(),
    });
    let fields: Vec<_> = fields.collect();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns =
        columns.map(|(field, column)| if field.name() == name { with.clone() } else { column.clone() }).collect();
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).expect("the same rows")
}

/// A run to be: a folder of its own with a recipe over [`corpus`] and an output.
pub struct Run {
    folder: TempDir,
}

impl Run {
    /// A CapFilt run over `corpus` with small settings: shards of 10 rows, 3 candidates, short leases.
    pub fn capfilt(corpus: &Path) -> Run {
        let folder = TempDir::new().expect("a temporary folder");
        let recipe = format!(
            "name: cluster-test\nseed: 5\noutput: {output}\nshard_rows: 10\n\
             datasets:\n  - {{ name: web, path: {corpus} }}\n\
             capfilt:\n  captioner: {zoo}/blip\n  ranker: {zoo}/clip\n  candidates: 3\n  batch_images: 4\n\
             \x20 sampling: {{ max_length: 12 }}\n\
             cluster: {{ lease_ms: 3000, heartbeat_ms: 200 }}\n",
            output = folder.path().join("out").display(),
            corpus = corpus.display(),
            zoo = root().join("zoo").display(),
        );
        fs::write(folder.path().join("recipe.yaml"), recipe).expect("written");
        Run { folder }
    }

    /// A run that keeps `corpus`' captions as they are.
    pub fn pass_through(corpus: &Path) -> Run {
        let folder = TempDir::new().expect("a temporary folder");
        let recipe = format!(
            "name: pass-through\noutput: {output}\nshard_rows: 10\n\
             datasets:\n  - {{ name: web, path: {corpus}, capfilt: false }}\n",
            output = folder.path().join("out").display(),
            corpus = corpus.display(),
        );
        fs::write(folder.path().join("recipe.yaml"), recipe).expect("written");
        Run { folder }
    }

    /// The recipe's path.
    pub fn recipe(&self) -> PathBuf {
        self.folder.path().join("recipe.yaml")
    }

    /// The output folder.
    pub fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// The coordinator's journal.
    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("journal.sqlite")
    }

    /// `quern run RECIPE --workers N`, to its end.
    pub fn run_locally(&self, workers: usize) -> ExitStatus {
        let recipe = self.recipe();
        let arguments = ["run", recipe.to_str().expect("UTF-8"), "--workers", &workers.to_string()];
        let output = quern(&arguments).output().expect("quern starts");
        if !matches!(output.status.code(), Some(0 | 3)) {
            panic!("quern run: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        output.status
    }

    /// Starts `quern coordinator` on a port that was free just now.
    pub fn coordinator(&self, port: u16) -> Process {
        self.coordinator_with(port, &[])
    }

    /// Starts a `quern coordinator` that keeps what is handed in beside this run's recipe.
    pub fn coordinator_of_submitted(&self, port: u16) -> Process {
        let mut command = Command::new(binary("quern"));
        command.args(["coordinator", "--listen", &format!("127.0.0.1:{port}"), "--state"]);
        command.arg(self.folder.path().join("state"));
        Process::start("coordinator", command)
    }

    /// The same with more arguments.
    pub fn coordinator_with(&self, port: u16, arguments: &[&str]) -> Process {
        let mut command = Command::new(binary("quern"));
        command.arg("coordinator").arg(self.recipe());
        command.args(["--listen", &format!("127.0.0.1:{port}")]).arg("--journal").arg(self.journal()).args(arguments);
        Process::start("coordinator", command)
    }

    /// Every file under the output with its content, logs left out.
    pub fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        bytes_under(&self.output())
    }

    /// What `quern capfilt verify` says: every input row exactly once, digests, no orphans.
    pub fn verify(&self) {
        verify(&self.output());
    }
}

/// Every file under an output with its content, logs left out.
pub fn bytes_under(output: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned();
            match path.is_dir() {
                true if name == "logs" => {}
                true => walk(&path, root, files),
                false => drop(files.insert(name, fs::read(&path).expect("readable"))),
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(output, output, &mut files);
    files
}

/// What `quern capfilt verify` says of an output.
pub fn verify(output: &Path) {
    let ended = quern(&["capfilt", "verify", output.to_str().expect("UTF-8")]).output().expect("quern starts");
    let (out, error) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "verify: {out}{error}");
}

/// Starts a worker; `faults` are `quern-worker run`'s scripted faults.
pub fn worker(port: u16, name: &str, faults: &[&str]) -> Process {
    let mut command = Command::new(binary("quern-worker"));
    command.args(["run", "--coordinator", &format!("http://127.0.0.1:{port}"), "--device", "cpu", "--name", name]);
    for fault in faults {
        command.args(["--fault", fault]);
    }
    Process::start(name, command)
}

/// `quern COMMAND … --coordinator`, which must end with `code`; what it printed.
pub fn ask(port: u16, command: &[&str], code: i32) -> String {
    let url = format!("http://127.0.0.1:{port}");
    let ended = quern(&[command, &["--coordinator", &url]].concat()).output().expect("quern starts");
    let (out, error) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(code), "{command:?}: {out}{error}");
    format!("{out}{error}")
}

/// Waits until a coordinator answers on `port`.
pub fn until_answered(port: u16) {
    let url = format!("http://127.0.0.1:{port}");
    let answers = || quern(&["ls", "--coordinator", &url]).output().expect("quern starts").status.success();
    until("a coordinator that answers", answers);
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// A child process that never outlives its test.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Process {
    fn start(name: &str, mut command: Command) -> Process {
        let folder = TempDir::new().expect("a temporary folder");
        let log = folder.path().join("log");
        let file = fs::File::create(&log).expect("created");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("cloned")).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Process { name: name.to_owned(), child, log, _folder: folder }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{} is still running; its log:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        // SAFETY: a signal to our own child, which we have not reaped.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) }, 0);
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
