//! One run's folders, and a worker's side of the protocol.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use quern_coordinator::{Coordinator, ScriptedClock, ServeOptions, VERSION, serve};
use quern_proto::coordinator_client::CoordinatorClient;
use quern_proto::lease_reply::Work;
use quern_proto::*;
use quern_recipes::Recipe;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

pub const LEASE_MS: u64 = 60_000;
pub const STAGE1: &str = "
stage1:
  image_encoder: encoder
  tokenizer: encoder
  batch: 8
  steps: 10
  ranks: 2
  optimiser:
    warmup_steps: 2
";

/// After [`STAGE1`], on one rank.
pub const STAGE2: &str = "
stage2:
  language_model: llm
  batch: 8
  steps: 4
  optimiser:
    warmup_steps: 1
";

/// One run's folders; coordinators come and go over them.
pub struct Site {
    pub folder: TempDir,
    pub recipe: Recipe,
    pub clock: Arc<ScriptedClock>,
}

impl Site {
    /// A corpus of two files with 10 rows each in row groups of 5, whose captions are kept as they are.
    pub fn new(more: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let corpus = folder.path().join("corpus");
        std::fs::create_dir(&corpus).unwrap();
        write_parquet(&corpus.join("0.parquet"));
        write_parquet(&corpus.join("1.parquet"));
        let yaml = format!(
            "name: test\noutput: out\nshard_rows: 10\ndatasets:\n  - name: toy\n    path: corpus\n    capfilt: false\n\
             cluster:\n  lease_ms: {LEASE_MS}\n  heartbeat_ms: 160\n  attempts: 2\n{more}"
        );
        let recipe = Recipe::parse("test.yaml", &yaml).unwrap().resolve(folder.path());
        Site { folder, recipe, clock: Arc::new(ScriptedClock::default()) }
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("run.journal")
    }

    pub fn options(&self) -> ServeOptions {
        let options = ServeOptions::new(self.recipe.clone(), "127.0.0.1:0", self.journal());
        ServeOptions { clock: self.clock.clone(), ..options }
    }

    pub async fn serve(&self) -> Coordinator {
        serve(self.options()).await.unwrap()
    }

    /// A coordinator to which recipes are handed in.
    pub async fn serve_submitted(&self) -> Coordinator {
        let options = ServeOptions::submitted(self.folder.path().join("state"), "127.0.0.1:0");
        serve(ServeOptions { clock: self.clock.clone(), ..options }).await.unwrap()
    }

    /// The same recipe as another run: with another seed, name and output.
    pub fn recipe_of(&self, name: &str, seed: u64) -> Recipe {
        let output = self.folder.path().join(name).to_string_lossy().into_owned();
        Recipe { name: name.into(), seed, output, ..self.recipe.clone() }
    }

    pub fn manifest(&self) -> Option<serde_json::Value> {
        let text = std::fs::read(self.folder.path().join("out/manifest.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }
}

fn write_parquet(path: &Path) {
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..10).map(|row| [row as u8])));
    let captions: ArrayRef = Arc::new(StringArray::from_iter_values((0..10).map(|row| format!("caption {row}"))));
    let batch = RecordBatch::try_from_iter([("jpg", images), ("caption", captions)]).unwrap();
    let groups = WriterProperties::builder().set_max_row_group_row_count(Some(5)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(groups)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A worker's side of the protocol.
pub struct Worker {
    pub client: CoordinatorClient<Channel>,
    pub credentials: Option<Credentials>,
}

pub async fn client(coordinator: &Coordinator) -> CoordinatorClient<Channel> {
    CoordinatorClient::connect(coordinator.url()).await.unwrap()
}

pub fn introduction(name: &str, version: &str) -> RegisterRequest {
    let host: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let address = format!("{host}:1");
    RegisterRequest {
        name: name.into(),
        device: "cpu".into(),
        version: version.into(),
        address,
        ..RegisterRequest::default()
    }
}

impl Worker {
    pub async fn register(coordinator: &Coordinator, name: &str) -> Self {
        let mut client = client(coordinator).await;
        let reply = client.register(introduction(name, VERSION)).await.unwrap().into_inner();
        assert_eq!(reply.heartbeat_ms, 160);
        Worker { client, credentials: reply.credentials }
    }

    /// The same worker, when the coordinator has been restarted at another address.
    pub async fn move_to(&mut self, coordinator: &Coordinator) {
        self.client = client(coordinator).await;
    }

    pub async fn work(&mut self) -> Result<Work, Status> {
        let request = LeaseRequest { credentials: self.credentials.clone() };
        Ok(self.client.lease(request).await?.into_inner().work.unwrap())
    }

    pub async fn shard(&mut self) -> ShardLease {
        match self.work().await {
            Ok(Work::Shard(lease)) => lease,
            other => panic!("a shard expected: {other:?}"),
        }
    }

    pub async fn commit(&mut self, lease: &ShardLease, digest: &str) -> Result<CommitReply, Status> {
        let part = PartSummary {
            data: format!("data/{}-{digest}.parquet", lease.shard),
            quarantine: String::new(),
            digest: digest.into(),
            rows: lease.rows,
            kept: 0,
            passed: lease.rows,
            quarantined: 0,
            bytes: 100,
            ..PartSummary::default()
        };
        self.commit_part(lease, part).await
    }

    pub async fn commit_part(&mut self, lease: &ShardLease, part: PartSummary) -> Result<CommitReply, Status> {
        let request = CommitRequest {
            credentials: self.credentials.clone(),
            shard: lease.shard.clone(),
            token: lease.token,
            part: Some(part),
        };
        Ok(self.client.commit(request).await?.into_inner())
    }

    pub async fn heartbeat(&mut self, leases: &[&ShardLease]) -> Result<HeartbeatReply, Status> {
        let progress =
            leases.iter().map(|lease| ShardProgress { shard: lease.shard.clone(), token: lease.token, rows_done: 3 });
        let (credentials, progress) = (self.credentials.clone(), progress.collect());
        let request = HeartbeatRequest { credentials, progress, ..HeartbeatRequest::default() };
        Ok(self.client.heartbeat(request).await?.into_inner())
    }

    pub async fn fail(&mut self, lease: &ShardLease, permanent: bool) -> Result<(), Status> {
        let request = FailRequest {
            credentials: self.credentials.clone(),
            shard: lease.shard.clone(),
            token: lease.token,
            reason: "scripted".into(),
            permanent,
        };
        self.client.fail(request).await.map(|_| ())
    }

    pub async fn join(&mut self, generation: u64) -> Result<join_world_reply::Outcome, Status> {
        let request = JoinWorldRequest { credentials: self.credentials.clone(), generation };
        Ok(self.client.join_world(request).await?.into_inner().outcome.unwrap())
    }

    pub async fn seat(&mut self, generation: u64) -> World {
        match self.join(generation).await {
            Ok(join_world_reply::Outcome::World(world)) => world,
            other => panic!("a seat expected: {other:?}"),
        }
    }

    pub async fn report(&mut self, world: &World, step: u64) -> Result<(), Status> {
        let losses = match world.stage.as_str() {
            "stage1" => StepLosses { step, itc: 3.0, itg: 2.0, itm: 0.5, lr: 1e-4, seconds: 0.1, lm: None },
            _ => StepLosses { step, lm: Some(2.5), ..StepLosses::default() },
        };
        let request = ReportStepsRequest {
            credentials: self.credentials.clone(),
            generation: world.generation,
            incarnation: world.incarnation,
            steps: vec![losses],
        };
        self.client.report_steps(request).await.map(|_| ())
    }

    pub async fn checkpoint(&mut self, world: &World, step: u64, last: bool) -> Result<CommitCheckpointReply, Status> {
        let request = CommitCheckpointRequest {
            credentials: self.credentials.clone(),
            generation: world.generation,
            incarnation: world.incarnation,
            step,
            path: format!("{}/step-{step:06}", world.stage),
            digest: format!("digest{step}"),
            last,
        };
        Ok(self.client.commit_checkpoint(request).await?.into_inner())
    }

    pub async fn drain(&mut self) -> Result<(), Status> {
        let request = DrainRequest { credentials: self.credentials.clone(), reason: "SIGTERM".into() };
        self.client.drain(request).await.map(|_| ())
    }
}

pub fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}

/// Waits until the status says `phase`.
pub async fn phase(coordinator: &Coordinator, phase: &str) -> StatusReply {
    coordinator.status().wait_for(|status| status.phase == phase).await.unwrap().clone()
}

/// Mills all shards.
pub async fn mill(worker: &mut Worker) {
    while let Work::Shard(lease) = worker.work().await.unwrap() {
        assert!(worker.commit(&lease, "d").await.unwrap().accepted);
    }
}

/// `GET path` on the coordinator's port; head and body, of which at most until `enough` is there.
pub async fn get(coordinator: &Coordinator, path: &str, enough: impl Fn(&str) -> bool) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(coordinator.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: coordinator\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    while !enough(&String::from_utf8_lossy(&reply)) {
        if stream.read_buf(&mut reply).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8(reply).unwrap()
}

pub fn cancelled() -> control_request::Command {
    control_request::Command::Cancel(Cancel { reason: "enough".into() })
}
