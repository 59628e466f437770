//! A shard from lease to commit: read, caption and rank, encode the part, upload it, offer it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use quern_capfilt::{Part, PartRow, Provenance, Stage, encode_part, filter};
use quern_capfilt_engine::{Engine, EngineError, pass_shard};
use quern_corpus::reader::{RawRow, ReadError, Reader, RowStream};
use quern_corpus::store::{self, StoreError};
use quern_corpus::{ShardId, ShardSpec};
use quern_proto::{CommitRequest, PartSummary, QuarantineReason, ShardLease};
use quern_recipes::{Dataset, Recipe};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span, info_span};

use crate::again::Earlier;
use crate::apart::Apart;
use crate::connection::{CallError, Connection, Membership};
use crate::error::AgentError;
use crate::faults::Script;
use crate::heartbeat::Board;
use crate::spans;

/// How a shard ended on this worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardEnd {
    /// The part was accepted.
    Committed,
    /// The shard belongs to another worker by now, or has its part already.
    Lost,
    /// Told to stop.
    Stopped,
    /// The rows can't be read.
    Unreadable {
        /// Why.
        reason: String,
        /// Whether they can't be read later either; else the store failed, and another try may do better.
        permanent: bool,
    },
}

/// What turns shards into parts. The models are loaded with the first shard that needs them, and stay.
pub struct Mill {
    recipe: Arc<Recipe>,
    run_id: String,
    recipe_hash: String,
    device: tch::Device,
    script: Script,
    reader: Option<Reader>,
    engine: Option<Arc<Engine>>,
}

impl Mill {
    /// A mill for this run; nothing is loaded yet.
    pub fn new(recipe: Arc<Recipe>, run_id: String, recipe_hash: String, device: tch::Device, script: Script) -> Self {
        Mill { recipe, run_id, recipe_hash, device, script, reader: None, engine: None }
    }

    /// Whether the models are loaded.
    pub fn is_loaded(&self) -> bool {
        self.engine.is_some()
    }

    /// Forgets the models.
    pub fn unload(&mut self) {
        self.engine = None;
    }

    /// Does the leased shard. An error means that this worker can't go on at all.
    pub async fn grind(
        &mut self,
        connection: &Connection,
        member: &Membership,
        lease: &ShardLease,
        stop: &Arc<AtomicBool>,
        board: &Arc<Board>,
    ) -> Result<ShardEnd, AgentError> {
        let dataset = self.dataset(lease)?;
        let earlier = match &lease.redo {
            Some(redo) => match Earlier::read(&self.recipe.output, redo).await {
                Ok(earlier) => Some(earlier),
                Err(end) => return Ok(end),
            },
            None => None,
        };
        let chosen = earlier.as_ref().map(Earlier::rows);
        let process = info_span!("process", dataset = lease.dataset);
        let rows = match self.rows(&dataset, lease, chosen, stop, board).instrument(process).await? {
            Ok(rows) => rows,
            Err(end) => return Ok(end),
        };
        let spec = ShardSpec {
            shard: ShardId(lease.shard.clone()),
            dataset: lease.dataset.clone(),
            file: lease.file.clone(),
            row_start: lease.row_start,
            rows: lease.rows,
        };
        let rows = match earlier {
            None => filter(rows, &self.recipe),
            Some(earlier) => match earlier.merged(rows, &self.recipe, &self.provenance()) {
                Ok(rows) => rows,
                Err(end) => return Ok(end),
            },
        };
        let part = info_span!("write")
            .in_scope(|| encode_part(&spec, rows, &self.provenance()))
            .map_err(|e| AgentError::Setup(format!("shard {}: {e}", lease.shard)))?;
        let bytes = file_size(&part.data) + file_size(&part.quarantine);
        self.upload(&part).instrument(info_span!("upload", bytes = bytes as i64)).await?;
        self.script.uploaded();
        commit(connection, member, lease, &part, &self.script).await
    }

    fn dataset(&self, lease: &ShardLease) -> Result<Dataset, AgentError> {
        let found = self.recipe.datasets.iter().find(|dataset| dataset.name == lease.dataset);
        let missing =
            || AgentError::Setup(format!("the coordinator leased {}, which the recipe does not name", lease.dataset));
        found.cloned().ok_or_else(missing)
    }

    /// Reads the shard's rows in order, or those that are `chosen`, while those before are processed.
    async fn rows(
        &mut self,
        dataset: &Dataset,
        lease: &ShardLease,
        chosen: Option<&BTreeSet<u64>>,
        stop: &Arc<AtomicBool>,
        board: &Arc<Board>,
    ) -> Result<Result<Vec<PartRow>, ShardEnd>, AgentError> {
        let unreadable = |e: ReadError| ShardEnd::Unreadable { permanent: !e.is_passing(), reason: e.to_string() };
        let (file, start, rows) = (&lease.file, lease.row_start, lease.rows);
        let opened = match chosen {
            None => self.reader()?.rows(dataset, file, start, rows).await,
            Some(chosen) => self.reader()?.chosen_rows(dataset, file, start, rows, chosen.clone()).await,
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(unreadable(error))),
        };
        let engine = if dataset.capfilt { Some(self.engine().await?) } else { None };
        let chunk_rows = self.chunk_rows();
        let (sender, received) = mpsc::channel(chunk_rows);
        let count = chosen.map_or(lease.rows as usize, BTreeSet::len);
        let work = self.process(engine, received, lease, count, stop, board);
        let unread = self.send_rows(&mut stream, sender, chunk_rows, stop).await;
        if unread.is_err() {
            stop.store(true, Ordering::SeqCst);
        }
        let rows = work.await.map_err(|e| AgentError::Setup(format!("the thread of a shard died: {e}")))?;
        let rows = rows.map_err(|e| AgentError::Setup(e.to_string()))?;
        Ok(match unread {
            Err(error) => Err(unreadable(error)),
            Ok(()) if stop.load(Ordering::SeqCst) => Err(ShardEnd::Stopped),
            Ok(()) => Ok(rows),
        })
    }

    /// Hands the rows on in order, until the work on them ends or is told to stop.
    async fn send_rows(
        &self,
        stream: &mut RowStream,
        sender: mpsc::Sender<RawRow>,
        chunk_rows: usize,
        stop: &AtomicBool,
    ) -> Result<(), ReadError> {
        let mut fetch = info_span!("fetch");
        for sent in 1.. {
            let next = stream.next().instrument(fetch.clone()).await;
            if let Some(delay) = self.script.fetch_delay() {
                tokio::time::sleep(delay).await;
            }
            let Some(row) = next.transpose()? else { break };
            if stop.load(Ordering::SeqCst) || sender.send(row).await.is_err() {
                break;
            }
            if sent % chunk_rows == 0 {
                fetch = info_span!("fetch");
            }
        }
        Ok(())
    }

    /// The shard's `count` rows, on a thread of their own: tensor arithmetic must not hold up heartbeats. Without an engine they are
    /// passed through. Where another attempt has brought no part, images are tried apart.
    fn process(
        &self,
        engine: Option<Arc<Engine>>,
        mut received: mpsc::Receiver<RawRow>,
        lease: &ShardLease,
        count: usize,
        stop: &Arc<AtomicBool>,
        board: &Arc<Board>,
    ) -> JoinHandle<Result<Vec<PartRow>, EngineError>> {
        let chunk_rows = self.chunk_rows();
        let (recipe, script, stop, board) = (self.recipe.clone(), self.script.clone(), stop.clone(), board.clone());
        let apart = (lease.attempts_without_part > 0).then(|| Mutex::new(Apart::new(recipe.limits, script.clone())));
        let span = Span::current();
        tokio::task::spawn_blocking(move || {
            let _inside = span.enter();
            let trial = |row: &RawRow| match &apart {
                Some(apart) => apart.lock().unwrap_or_else(PoisonError::into_inner).try_image(row),
                None => {
                    script.decoding(row.id.row);
                    Ok(())
                }
            };
            // OpenMP counts threads per calling thread.
            tch::set_num_threads(recipe.cluster.threads as i32);
            let mut done = Vec::with_capacity(count);
            let each = |row| {
                done.push(row);
                board.done(done.len() as u64);
                script.captioned(1);
            };
            let delayed = script.clone();
            let rows = (0..).map_while(|at| {
                if let Some(delay) = (at % chunk_rows == 0).then(|| delayed.decode_delay()).flatten() {
                    std::thread::sleep(delay);
                }
                received.blocking_recv()
            });
            match engine {
                Some(engine) => engine.run_shard(rows, count, &trial, &stop, each)?,
                None => {
                    let embed = recipe.capfilt.as_ref().map(|capfilt| capfilt.embed_images).unwrap_or_default();
                    pass_shard(rows, chunk_rows, &recipe.limits, embed, &trial, &stop, each);
                }
            }
            Ok(done)
        })
    }

    /// Rows that are worked on together.
    fn chunk_rows(&self) -> usize {
        self.recipe.capfilt.as_ref().map_or(64, |capfilt| capfilt.batch_images as usize)
    }

    /// One for all shards: it bounds what is asked of the web at a time.
    fn reader(&mut self) -> Result<&Reader, AgentError> {
        if self.reader.is_none() {
            let reader = Reader::with_web(&self.recipe).map_err(|e| AgentError::Setup(e.to_string()))?;
            self.reader = Some(reader);
        }
        Ok(self.reader.as_ref().expect("was just made"))
    }

    async fn engine(&mut self) -> Result<Arc<Engine>, AgentError> {
        if let Some(engine) = &self.engine {
            return Ok(engine.clone());
        }
        let recipe = self.recipe.clone();
        let device = self.device;
        let span = info_span!("load");
        let load = tokio::task::spawn_blocking(move || {
            let _inside = span.enter();
            let capfilt = recipe.capfilt.as_ref().ok_or("the recipe has no capfilt section")?;
            Engine::load(capfilt, &recipe.limits, recipe.seed, device).map_err(|e| e.to_string())
        });
        let engine = load.await.map_err(|e| AgentError::Setup(format!("the loading thread died: {e}")))?;
        let engine = Arc::new(engine.map_err(AgentError::Setup)?);
        Ok(self.engine.insert(engine).clone())
    }

    fn provenance(&self) -> Provenance {
        Provenance {
            run_id: self.run_id.clone(),
            recipe_hash: self.recipe_hash.clone(),
            seed: self.recipe.seed,
            models: self.engine.as_ref().map(|engine| engine.model_digests().clone()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    async fn upload(&self, part: &Part) -> Result<(), AgentError> {
        let output = store::open(&self.recipe.output).map_err(|e| AgentError::Setup(e.to_string()))?;
        for (name, bytes) in part.data.iter().chain(&part.quarantine) {
            if self.script.finds_no_space() {
                return Err(AgentError::Setup(StoreError::NoSpace { url: output.url_of(name) }.to_string()));
            }
            output.put(name, bytes.clone()).await.map_err(|e| AgentError::Setup(e.to_string()))?;
        }
        Ok(())
    }
}

fn file_size(file: &Option<(String, Bytes)>) -> u64 {
    file.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64)
}

async fn commit(
    connection: &Connection,
    member: &Membership,
    lease: &ShardLease,
    part: &Part,
    script: &Script,
) -> Result<ShardEnd, AgentError> {
    let name = |file: &Option<(String, Bytes)>| file.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
    let reason = |((stage, reason), rows): (&(Stage, String), &u64)| QuarantineReason {
        stage: stage.as_str().into(),
        reason: reason.clone(),
        rows: *rows,
    };
    let summary = PartSummary {
        data: name(&part.data),
        quarantine: name(&part.quarantine),
        digest: part.digest.clone(),
        rows: part.rows,
        kept: part.kept,
        passed: part.passed,
        quarantined: part.quarantined,
        bytes: file_size(&part.data) + file_size(&part.quarantine),
        reasons: part.reasons.iter().map(reason).collect(),
    };
    let request = CommitRequest {
        credentials: Some(member.credentials.clone()),
        shard: lease.shard.clone(),
        token: lease.token,
        part: Some(summary),
    };
    let answer = connection
        .call("Commit", |mut client| {
            let request = request.clone();
            async move { client.commit(request).await }
        })
        .instrument(spans::call!("commit", "Commit"))
        .await;
    match answer {
        Ok(reply) if reply.accepted => {
            script.committed();
            Ok(ShardEnd::Committed)
        }
        Ok(reply) => {
            tracing::info!(shard = lease.shard, reason = reply.reason, "the part was not needed");
            Ok(ShardEnd::Lost)
        }
        Err(CallError::Stale(reason)) => {
            tracing::info!(shard = lease.shard, reason, "the lease was lost");
            Ok(ShardEnd::Lost)
        }
        Err(error) => Err(error.into()),
    }
}
