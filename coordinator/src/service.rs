//! The gRPC service: messages to events, answers to messages. It decides nothing.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt};
use quern_machine::{
    Answer, Call, Caller, Checkpoint, Control, Epoch, Event, Generation, Incarnation, Losses, PartSummary, Place, Redo,
    Registration, Seat, ShardId, ShardProgress, ShardToken, StepLosses, Task, TaskResult, Warmth, Work, WorkerId,
    WorldToken,
};
use quern_proto as wire;
use quern_proto::coordinator_server::Coordinator;
use quern_proto::{control_request, join_world_reply, lease_reply};
use tonic::{Request, Response, Status};

use crate::access::validate::valid;
use crate::errors::CallError;
use crate::runs::{Run, Runs, Stopping};
use crate::{VERSION, secrets, status};

/// How long a worker waits that no run needs, before it asks again.
const IDLE_MS: u64 = 1_000;

/// The service.
pub(crate) struct Service {
    pub runs: Arc<Runs>,
    /// Turns true when the server stops: streams end.
    pub stopping: Stopping,
}

/// A member's call, with the run that it is a member of.
struct Member {
    run: Arc<Run>,
    caller: Caller,
}

impl Service {
    fn member(&self, credentials: Option<wire::Credentials>) -> Result<Member, CallError> {
        let credentials = credentials.ok_or(CallError::NoCredentials)?;
        let worker = worker_from_wire(&credentials.worker).ok_or(CallError::NoCredentials)?;
        let caller = Caller { worker, secret: secrets::digest(&credentials.secret) };
        Ok(Member { run: self.runs.of(&credentials)?, caller })
    }

    async fn call(&self, credentials: Option<wire::Credentials>, call: Call) -> Result<Answer, CallError> {
        self.member(credentials)?.call(call).await
    }

    /// Lets a worker go that its run only keeps waiting, when another run needs it.
    async fn released(&self, member: &Member) -> Result<Option<wire::Released>, CallError> {
        let Some(other) = self.runs.better_use(&member.run) else { return Ok(None) };
        let reason = format!("run {} ({}) needs workers", other.id, other.name);
        member.call(Call::Drain { reason: reason.clone() }).await?;
        member.run.note("info", format!("{} moves on: {reason}", member.caller.worker));
        Ok(Some(wire::Released { reason }))
    }
}

impl Member {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        self.run.tell(Event::Call { caller: self.caller.clone(), call }).await
    }

    fn wait(&self) -> wire::Wait {
        wire::Wait { retry_ms: self.run.terms.retry_ms }
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn register(&self, request: Request<wire::RegisterRequest>) -> Result<Response<wire::RegisterReply>, Status> {
        let wire::RegisterRequest { name, device, version, address, host, memory_bytes } = valid(request)?;
        if version != VERSION {
            return Err(CallError::OtherVersion { worker: version, coordinator: VERSION }.into());
        }
        let Some(run) = self.runs.for_new_worker(&Place::of(&host, &device, &name)) else {
            let wait = Some(wire::Wait { retry_ms: IDLE_MS });
            return Ok(Response::new(wire::RegisterReply { wait, more: true, ..wire::RegisterReply::default() }));
        };
        let secret = secrets::draw().map_err(|error| CallError::Unavailable(error.to_string()))?;
        let joined = format!("({name}) on {device} joined");
        let secret_digest = secrets::digest(&secret);
        let registration = Registration { name, device, address, secret: secret_digest, host, memory_bytes };
        let Answer::Registered { worker, incarnation } = run.tell(Event::Register(registration)).await? else {
            unreachable!("a registration is answered with a name");
        };
        run.note("info", format!("{worker} {joined}"));
        Ok(Response::new(wire::RegisterReply {
            credentials: Some(wire::Credentials { worker: worker.to_string(), secret, run: run.id.clone() }),
            incarnation: incarnation.0,
            heartbeat_ms: run.terms.heartbeat_ms,
            lease_ms: run.terms.lease_ms,
            recipe_json: run.terms.recipe_json.clone(),
            recipe_hash: run.terms.recipe_hash.clone(),
            run_id: run.id.clone(),
            wait: None,
            more: self.runs.are_submitted(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatReply>, Status> {
        let wire::HeartbeatRequest { credentials, progress, log, warm } = valid(request)?;
        let warm = warm.iter().filter_map(|word| Warmth::named(word)).collect();
        let progress = progress.into_iter().map(progress_from_wire).collect::<Result<_, _>>()?;
        let member = self.member(credentials)?;
        let answer = member.call(Call::Heartbeat { progress, warm }).await?;
        member.run.log.hear(&member.caller.worker.to_string(), log);
        let Answer::Heard { drain, pause, revoked, world } = answer else {
            unreachable!("a heartbeat is heard");
        };
        Ok(Response::new(wire::HeartbeatReply {
            drain,
            pause,
            revoked_shards: revoked.into_iter().map(|shard| shard.0).collect(),
            world_generation: world.map_or(0, |generation| generation.0),
        }))
    }

    async fn lease(&self, request: Request<wire::LeaseRequest>) -> Result<Response<wire::LeaseReply>, Status> {
        let member = self.member(valid(request)?.credentials)?;
        let _answering = member.run.metrics.lease_duration.time();
        let Answer::Work(work) = member.call(Call::Lease).await? else {
            unreachable!("a request for work is answered with work");
        };
        let work = match work {
            Work::Shard { plan, token, without_part, redo } => {
                member.run.metrics.granted(&plan.shard, token.epoch, member.run.now_ms());
                lease_reply::Work::Shard(wire::ShardLease {
                    shard: plan.shard.0,
                    token: Some(wire::ShardToken { incarnation: token.incarnation.0, epoch: token.epoch.0 }),
                    dataset: plan.dataset,
                    file: plan.file,
                    row_start: plan.row_start,
                    rows: plan.rows,
                    attempts_without_part: without_part,
                    redo: redo.map(|redo| redo_to_wire(*redo)),
                })
            }
            Work::Task { task, token, stage, checkpoint, stage1 } => lease_reply::Work::Task(wire::TaskLease {
                task: task.name().into(),
                token: Some(wire::ShardToken { incarnation: token.incarnation.0, epoch: token.epoch.0 }),
                stage: stage.name().into(),
                checkpoint: checkpoint.path,
                step: checkpoint.step,
                stage1_checkpoint: stage1.map_or_else(String::new, |stage1| stage1.path),
            }),
            Work::World(generation) => lease_reply::Work::World(wire::WorldInvitation { generation: generation.0 }),
            Work::Wait => match self.released(&member).await? {
                Some(released) => lease_reply::Work::Released(released),
                None => lease_reply::Work::Wait(member.wait()),
            },
            Work::Finished(finished) => lease_reply::Work::Finished(finished_to_wire(finished)),
        };
        if matches!(work, lease_reply::Work::Wait(_) | lease_reply::Work::Finished(_)) {
            // Who waits asks many times a second: such answers are not traced.
            quern_telemetry::leave_out(&tracing::Span::current());
        }
        Ok(Response::new(wire::LeaseReply { work: Some(work) }))
    }

    async fn commit(&self, request: Request<wire::CommitRequest>) -> Result<Response<wire::CommitReply>, Status> {
        let wire::CommitRequest { credentials, shard, token, part } = valid(request)?;
        let token = token_from_wire(token)?;
        let part = part.ok_or_else(|| CallError::Malformed(format!("the commit of {shard} has no part")))?;
        let member = self.member(credentials)?;
        let _answering = member.run.metrics.commit_duration.time();
        let shard = ShardId(shard);
        let call = Call::Commit { shard: shard.clone(), token, part: part_from_wire(part) };
        let answer = member.call(call).await;
        member.run.metrics.offered(&shard, token.epoch, member.run.now_ms(), &answer);
        let (accepted, reason) = acceptance(answer?);
        Ok(Response::new(wire::CommitReply { accepted, reason }))
    }

    async fn fail(&self, request: Request<wire::FailRequest>) -> Result<Response<wire::FailReply>, Status> {
        let wire::FailRequest { credentials, shard, token, reason, permanent } = valid(request)?;
        let token = token_from_wire(token)?;
        let member = self.member(credentials)?;
        let failure = format!("{} failed at {shard}: {reason}", member.caller.worker);
        let shard = ShardId(shard);
        member.call(Call::Fail { shard: shard.clone(), token, reason, permanent }).await?;
        member.run.metrics.failed(&shard, token.epoch);
        member.run.note("warn", failure);
        Ok(Response::new(wire::FailReply {}))
    }

    async fn commit_task(
        &self,
        request: Request<wire::CommitTaskRequest>,
    ) -> Result<Response<wire::CommitTaskReply>, Status> {
        let wire::CommitTaskRequest { credentials, task, token, result } = valid(request)?;
        let wire::TaskResult { path, digest, summary } = result.unwrap_or_default();
        let (task, token) = (task_from_wire(&task)?, token_from_wire(token)?);
        let call = Call::CommitTask { task, token, result: TaskResult { path, digest, summary } };
        let (accepted, reason) = acceptance(self.call(credentials, call).await?);
        Ok(Response::new(wire::CommitTaskReply { accepted, reason }))
    }

    async fn fail_task(
        &self,
        request: Request<wire::FailTaskRequest>,
    ) -> Result<Response<wire::FailTaskReply>, Status> {
        let wire::FailTaskRequest { credentials, task, token, reason } = valid(request)?;
        let (task, token) = (task_from_wire(&task)?, token_from_wire(token)?);
        let member = self.member(credentials)?;
        let failure = format!("{} failed to {}: {reason}", member.caller.worker, task.name());
        member.call(Call::FailTask { task, token, reason }).await?;
        member.run.note("warn", failure);
        Ok(Response::new(wire::FailTaskReply {}))
    }

    async fn join_world(
        &self,
        request: Request<wire::JoinWorldRequest>,
    ) -> Result<Response<wire::JoinWorldReply>, Status> {
        let wire::JoinWorldRequest { credentials, generation } = valid(request)?;
        let member = self.member(credentials)?;
        let answer = member.call(Call::JoinWorld { generation: Generation(generation) }).await?;
        let Answer::Seat(seat) = answer else {
            unreachable!("a request for a seat is answered with one");
        };
        let outcome = match seat {
            Seat::Wait => join_world_reply::Outcome::Wait(member.wait()),
            Seat::Finished(finished) => join_world_reply::Outcome::Finished(finished_to_wire(finished)),
            Seat::Taken { token, rank, addresses, stage, checkpoint, stage1 } => {
                let (path, step) = checkpoint.map_or_else(Default::default, |found| (found.path, found.step));
                join_world_reply::Outcome::World(wire::World {
                    generation: token.generation.0,
                    rank: rank.0,
                    addresses,
                    checkpoint: path,
                    step,
                    incarnation: token.incarnation.0,
                    stage: stage.name().into(),
                    stage1_checkpoint: stage1.map_or_else(String::new, |checkpoint| checkpoint.path),
                })
            }
        };
        Ok(Response::new(wire::JoinWorldReply { outcome: Some(outcome) }))
    }

    async fn report_steps(
        &self,
        request: Request<wire::ReportStepsRequest>,
    ) -> Result<Response<wire::ReportStepsReply>, Status> {
        let wire::ReportStepsRequest { credentials, generation, incarnation, steps } = valid(request)?;
        if let Some(last) = steps.into_iter().max_by_key(|losses| losses.step) {
            let token = world_from_wire(incarnation, generation);
            self.call(credentials, Call::ReportSteps { token, losses: losses_from_wire(last) }).await?;
        }
        Ok(Response::new(wire::ReportStepsReply {}))
    }

    async fn commit_checkpoint(
        &self,
        request: Request<wire::CommitCheckpointRequest>,
    ) -> Result<Response<wire::CommitCheckpointReply>, Status> {
        let wire::CommitCheckpointRequest { credentials, generation, incarnation, step, path, digest, last } =
            valid(request)?;
        let token = world_from_wire(incarnation, generation);
        let member = self.member(credentials)?;
        let checkpoint = Checkpoint { step, path: path.clone(), digest };
        let answer = member.call(Call::CommitCheckpoint { token, checkpoint, last }).await?;
        let (accepted, reason) = acceptance(answer);
        if accepted {
            member.run.note("info", format!("the checkpoint {path} is accepted"));
        }
        Ok(Response::new(wire::CommitCheckpointReply { accepted, reason }))
    }

    async fn leave_world(
        &self,
        request: Request<wire::LeaveWorldRequest>,
    ) -> Result<Response<wire::LeaveWorldReply>, Status> {
        let wire::LeaveWorldRequest { credentials, generation, incarnation, reason } = valid(request)?;
        let token = world_from_wire(incarnation, generation);
        let member = self.member(credentials)?;
        let left = format!("{} left generation {generation} of the training world: {reason}", member.caller.worker);
        member.call(Call::LeaveWorld { token, reason }).await?;
        member.run.note("warn", left);
        Ok(Response::new(wire::LeaveWorldReply {}))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainReply>, Status> {
        let wire::DrainRequest { credentials, reason } = valid(request)?;
        let member = self.member(credentials)?;
        let gone = format!("{} goes away: {reason}", member.caller.worker);
        member.call(Call::Drain { reason }).await?;
        member.run.note("info", gone);
        Ok(Response::new(wire::DrainReply {}))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let run = self.runs.named(&valid(request)?.run)?;
        let status = run.status().clone();
        Ok(Response::new(status))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::StatusReply, Status>> + Send>>;

    async fn watch(&self, request: Request<wire::StatusRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let run = self.runs.named(&valid(request)?.run)?;
        let statuses = status::follow(run.statuses(), self.stopping.clone());
        Ok(Response::new(Box::pin(statuses.map(Ok))))
    }

    async fn control(&self, request: Request<wire::ControlRequest>) -> Result<Response<wire::ControlReply>, Status> {
        let wire::ControlRequest { run, command } = valid(request)?;
        let run = self.runs.named(&run)?;
        match command {
            Some(control_request::Command::Extend(wire::Extend {})) => run.extend().await?,
            command => run.control(control_from_wire(command)?).await?,
        }
        Ok(Response::new(wire::ControlReply {}))
    }

    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Result<Response<wire::SubmitReply>, Status> {
        let (run, known) = self.runs.submit(&valid(request)?.recipe_json).await?;
        if known && !run.recipe.trains() && run.status().phase == "done" {
            run.extend().await?;
        }
        Ok(Response::new(wire::SubmitReply { run_id: run.id.clone(), known }))
    }

    async fn list_runs(
        &self,
        request: Request<wire::ListRunsRequest>,
    ) -> Result<Response<wire::ListRunsReply>, Status> {
        let wire::ListRunsRequest {} = valid(request)?;
        let runs = self.runs.list().iter().map(|run| run.summary()).collect();
        Ok(Response::new(wire::ListRunsReply { runs }))
    }

    type LogsStream = Pin<Box<dyn Stream<Item = Result<wire::LogLine, Status>> + Send>>;

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let wire::LogsRequest { run, worker, last, follow } = valid(request)?;
        let run = self.runs.named(&run)?;
        let wanted = move |line: &wire::LogLine| worker.is_empty() || line.worker == worker || line.name == worker;
        let until_over = follow.then(|| run.over().boxed());
        let lines = Arc::clone(&run.log).lines(last, wanted, until_over, self.stopping.clone());
        Ok(Response::new(Box::pin(lines.map(Ok))))
    }
}

/// A worker's id as it is shown and said: `w7`.
pub(crate) fn worker_from_wire(worker: &str) -> Option<WorkerId> {
    worker.strip_prefix('w')?.parse().ok().map(WorkerId)
}

fn control_from_wire(command: Option<control_request::Command>) -> Result<Control, CallError> {
    Ok(match command {
        Some(control_request::Command::Pause(wire::Pause { reason })) => Control::Pause { reason },
        Some(control_request::Command::Resume(wire::Resume {})) => Control::Resume,
        Some(control_request::Command::Cancel(wire::Cancel { reason })) => Control::Cancel { reason },
        Some(control_request::Command::Drain(wire::DrainWorker { worker, reason })) => {
            let named = worker_from_wire(&worker);
            let worker = named.ok_or_else(|| CallError::Malformed(format!("{worker:?} is no worker's id")))?;
            Control::Drain { worker, reason }
        }
        Some(control_request::Command::Allow(wire::Allow { name })) => Control::Allow { name },
        Some(control_request::Command::Retry(wire::Retry { reasons })) => {
            Control::Retry { reasons: reasons.into_iter().collect() }
        }
        Some(control_request::Command::Extend(_)) | None => {
            return Err(CallError::Malformed("the request to control the run says nothing".into()));
        }
    })
}

fn task_from_wire(task: &str) -> Result<Task, CallError> {
    Task::named(task).ok_or_else(|| CallError::Malformed(format!("{task:?} is no task")))
}

fn token_from_wire(token: Option<wire::ShardToken>) -> Result<ShardToken, CallError> {
    let token = token.ok_or_else(|| CallError::Malformed("the call carries no token of an attempt".into()))?;
    Ok(ShardToken { incarnation: Incarnation(token.incarnation), epoch: Epoch(token.epoch) })
}

fn world_from_wire(incarnation: u64, generation: u64) -> WorldToken {
    WorldToken { incarnation: Incarnation(incarnation), generation: Generation(generation) }
}

fn progress_from_wire(progress: wire::ShardProgress) -> Result<ShardProgress, CallError> {
    let wire::ShardProgress { shard, token, rows_done } = progress;
    Ok(ShardProgress { shard: ShardId(shard), token: token_from_wire(token)?, rows_done })
}

fn part_from_wire(part: wire::PartSummary) -> PartSummary {
    let wire::PartSummary { data, quarantine, digest, rows, kept, passed, quarantined, bytes, reasons } = part;
    let mut by_name = BTreeMap::new();
    for wire::QuarantineReason { stage, reason, rows } in reasons {
        let counted: &mut u64 = by_name.entry(format!("{stage}/{reason}")).or_default();
        *counted = counted.saturating_add(rows);
    }
    let named = |name: String| (!name.is_empty()).then_some(name);
    let (data, quarantine) = (named(data), named(quarantine));
    PartSummary { data, quarantine, digest, rows, kept, passed, quarantined, bytes, reasons: by_name }
}

fn losses_from_wire(losses: wire::StepLosses) -> StepLosses {
    let wire::StepLosses { step, itc, itg, itm, lr, seconds, lm } = losses;
    let losses = lm.map_or(Losses::Stage1 { itc, itg, itm }, |lm| Losses::Stage2 { lm });
    StepLosses { step, losses, lr, seconds }
}

fn redo_to_wire(Redo { part, reasons }: Redo) -> wire::Redo {
    let PartSummary { data, quarantine, .. } = part;
    let (data, quarantine) = (data.unwrap_or_default(), quarantine.unwrap_or_default());
    wire::Redo { data, quarantine, reasons: reasons.into_iter().collect() }
}

fn finished_to_wire(finished: quern_machine::Finished) -> wire::Finished {
    wire::Finished { succeeded: finished.succeeded, message: finished.message }
}

fn acceptance(answer: Answer) -> (bool, String) {
    match answer {
        Answer::Accepted => (true, String::new()),
        Answer::Superseded { reason } => (false, reason),
        other => unreachable!("an offer is accepted or superseded, not {other:?}"),
    }
}
