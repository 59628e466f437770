//! The gRPC service: messages to events, answers to messages. It decides nothing.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use quern_machine::{
    Answer, Call, Caller, Checkpoint, Control, Epoch, Event, Generation, Incarnation, Losses, PartSummary,
    Registration, Seat, ShardId, ShardProgress, ShardToken, StepLosses, Work, WorkerId, WorldToken,
};
use quern_proto as wire;
use quern_proto::coordinator_server::Coordinator;
use quern_proto::{control_request, join_world_reply, lease_reply};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::errors::CallError;
use crate::ledger::Ledger;
use crate::{VERSION, secrets, status};

/// What a worker is told at registration that never changes.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub heartbeat_ms: u64,
    pub lease_ms: u64,
    pub recipe_json: String,
    pub recipe_hash: String,
    pub run_id: String,
    /// How long a worker waits before it asks again.
    pub retry_ms: u64,
}

/// The service.
pub(crate) struct Service {
    pub ledger: Ledger,
    pub terms: Terms,
    pub status: watch::Receiver<wire::StatusReply>,
    /// Turns true when the server stops: streams end.
    pub stopping: watch::Receiver<bool>,
}

impl Service {
    async fn call(&self, credentials: Option<wire::Credentials>, call: Call) -> Result<Answer, CallError> {
        let credentials = credentials.ok_or(CallError::NoCredentials)?;
        let worker = worker_from_wire(&credentials.worker).ok_or(CallError::NoCredentials)?;
        let caller = Caller { worker, secret: secrets::digest(&credentials.secret) };
        self.ledger.tell(Event::Call { caller, call }).await
    }

    fn wait(&self) -> wire::Wait {
        wire::Wait { retry_ms: self.terms.retry_ms }
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn register(&self, request: Request<wire::RegisterRequest>) -> Result<Response<wire::RegisterReply>, Status> {
        let wire::RegisterRequest { name, device, version, address } = request.into_inner();
        if version != VERSION {
            return Err(CallError::OtherVersion { worker: version, coordinator: VERSION }.into());
        }
        let secret = secrets::draw().map_err(|error| CallError::Unavailable(error.to_string()))?;
        let registration = Registration { name, device, address, secret: secrets::digest(&secret) };
        let Answer::Registered { worker, incarnation } = self.ledger.tell(Event::Register(registration)).await? else {
            unreachable!("a registration is answered with a name");
        };
        Ok(Response::new(wire::RegisterReply {
            credentials: Some(wire::Credentials { worker: worker.to_string(), secret }),
            incarnation: incarnation.0,
            heartbeat_ms: self.terms.heartbeat_ms,
            lease_ms: self.terms.lease_ms,
            recipe_json: self.terms.recipe_json.clone(),
            recipe_hash: self.terms.recipe_hash.clone(),
            run_id: self.terms.run_id.clone(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatReply>, Status> {
        let wire::HeartbeatRequest { credentials, progress } = request.into_inner();
        let progress = progress.into_iter().map(progress_from_wire).collect::<Result<_, _>>()?;
        let answer = self.call(credentials, Call::Heartbeat { progress }).await?;
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
        let Answer::Work(work) = self.call(request.into_inner().credentials, Call::Lease).await? else {
            unreachable!("a request for work is answered with work");
        };
        let work = match work {
            Work::Shard { plan, token } => lease_reply::Work::Shard(wire::ShardLease {
                shard: plan.shard.0,
                token: Some(wire::ShardToken { incarnation: token.incarnation.0, epoch: token.epoch.0 }),
                dataset: plan.dataset,
                file: plan.file,
                row_start: plan.row_start,
                rows: plan.rows,
            }),
            Work::World(generation) => lease_reply::Work::World(wire::WorldInvitation { generation: generation.0 }),
            Work::Wait => lease_reply::Work::Wait(self.wait()),
            Work::Finished(finished) => lease_reply::Work::Finished(finished_to_wire(finished)),
        };
        Ok(Response::new(wire::LeaseReply { work: Some(work) }))
    }

    async fn commit(&self, request: Request<wire::CommitRequest>) -> Result<Response<wire::CommitReply>, Status> {
        let wire::CommitRequest { credentials, shard, token, part } = request.into_inner();
        let token = token_from_wire(token)?;
        let part = part.ok_or_else(|| CallError::Malformed(format!("the commit of {shard} has no part")))?;
        let call = Call::Commit { shard: ShardId(shard), token, part: part_from_wire(part) };
        let (accepted, reason) = acceptance(self.call(credentials, call).await?);
        Ok(Response::new(wire::CommitReply { accepted, reason }))
    }

    async fn fail(&self, request: Request<wire::FailRequest>) -> Result<Response<wire::FailReply>, Status> {
        let wire::FailRequest { credentials, shard, token, reason, permanent } = request.into_inner();
        let token = token_from_wire(token)?;
        self.call(credentials, Call::Fail { shard: ShardId(shard), token, reason, permanent }).await?;
        Ok(Response::new(wire::FailReply {}))
    }

    async fn join_world(
        &self,
        request: Request<wire::JoinWorldRequest>,
    ) -> Result<Response<wire::JoinWorldReply>, Status> {
        let wire::JoinWorldRequest { credentials, generation } = request.into_inner();
        let answer = self.call(credentials, Call::JoinWorld { generation: Generation(generation) }).await?;
        let Answer::Seat(seat) = answer else {
            unreachable!("a request for a seat is answered with one");
        };
        let outcome = match seat {
            Seat::Wait => join_world_reply::Outcome::Wait(self.wait()),
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
        let wire::ReportStepsRequest { credentials, generation, incarnation, steps } = request.into_inner();
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
            request.into_inner();
        let token = world_from_wire(incarnation, generation);
        let call = Call::CommitCheckpoint { token, checkpoint: Checkpoint { step, path, digest }, last };
        let (accepted, reason) = acceptance(self.call(credentials, call).await?);
        Ok(Response::new(wire::CommitCheckpointReply { accepted, reason }))
    }

    async fn leave_world(
        &self,
        request: Request<wire::LeaveWorldRequest>,
    ) -> Result<Response<wire::LeaveWorldReply>, Status> {
        let wire::LeaveWorldRequest { credentials, generation, incarnation, reason } = request.into_inner();
        let token = world_from_wire(incarnation, generation);
        self.call(credentials, Call::LeaveWorld { token, reason }).await?;
        Ok(Response::new(wire::LeaveWorldReply {}))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainReply>, Status> {
        let wire::DrainRequest { credentials, reason } = request.into_inner();
        self.call(credentials, Call::Drain { reason }).await?;
        Ok(Response::new(wire::DrainReply {}))
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        Ok(Response::new(self.status.borrow().clone()))
    }

    async fn control(&self, request: Request<wire::ControlRequest>) -> Result<Response<wire::ControlReply>, Status> {
        let control = control_from_wire(request.into_inner().command)?;
        self.ledger.tell(Event::Control(control)).await?;
        Ok(Response::new(wire::ControlReply {}))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::StatusReply, Status>> + Send>>;

    async fn watch(&self, _: Request<wire::StatusRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = status::follow(self.status.clone(), self.stopping.clone());
        Ok(Response::new(Box::pin(statuses.map(Ok))))
    }
}

fn worker_from_wire(worker: &str) -> Option<WorkerId> {
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
        None => return Err(CallError::Malformed("the request to control the run says nothing".into())),
    })
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
    let wire::PartSummary { data, quarantine, digest, rows, kept, passed, quarantined, bytes } = part;
    let named = |name: String| (!name.is_empty()).then_some(name);
    PartSummary { data: named(data), quarantine: named(quarantine), digest, rows, kept, passed, quarantined, bytes }
}

fn losses_from_wire(losses: wire::StepLosses) -> StepLosses {
    let wire::StepLosses { step, itc, itg, itm, lr, seconds, lm } = losses;
    let losses = lm.map_or(Losses::Stage1 { itc, itg, itm }, |lm| Losses::Stage2 { lm });
    StepLosses { step, losses, lr, seconds }
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
