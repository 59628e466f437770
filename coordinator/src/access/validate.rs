//! What a request's fields may hold. A field that can't be true is refused with its name before anyone looks at it;
//! whether it is true, the machine decides.

use quern_proto::{
    CommitCheckpointRequest, CommitRequest, CommitTaskRequest, ControlRequest, Credentials, DrainRequest, FailRequest,
    FailTaskRequest, HeartbeatRequest, JoinWorldRequest, LeaseRequest, LeaveWorldRequest, ListRunsRequest, LogLine,
    LogsRequest, PartSummary, RegisterRequest, ReportStepsRequest, StatusRequest, SubmitRequest, control_request,
};
use tonic::Request;

use crate::errors::CallError;

/// Characters of a name.
const NAME: usize = 253;
/// Characters of a reason that is told for people.
const REASON: usize = 16 << 10;
/// Bytes of a line of a worker's log.
const LINE: usize = 64 << 10;
/// Lines of a log in one heartbeat.
const LINES: usize = 1_000;
/// Shards of which one heartbeat tells.
const SHARDS: usize = 1_000;
/// Words for what a worker has at hand.
const WORDS: usize = 16;
/// Bytes of a task's summary.
const SUMMARY: usize = 64 << 10;
/// Steps that are reported at once.
const STEPS: usize = 10_000;
/// Bytes of a recipe.
const RECIPE: usize = 1 << 20;
/// Reasons to retry rows for.
const RETRIED: usize = 64;
/// Characters of a path in the output.
const PATH: usize = 1_024;

/// A field, or why it can't be.
type Checked = Result<(), CallError>;

/// A message whose fields can be checked.
pub(crate) trait Valid {
    /// Checks every field.
    ///
    /// # Errors
    /// The first that can't be, by its name.
    fn check(&self) -> Checked;
}

/// The message of a request, once all its fields can be.
///
/// # Errors
/// When one can't.
pub(crate) fn valid<M: Valid>(request: Request<M>) -> Result<M, CallError> {
    let message = request.into_inner();
    message.check()?;
    Ok(message)
}

fn require(holds: bool, field: &str, expected: &str) -> Checked {
    if holds { Ok(()) } else { Err(CallError::Malformed(format!("`{field}` {expected}"))) }
}

/// Something for people, in one line.
fn name(field: &str, text: &str) -> Checked {
    require(text.chars().count() <= NAME, field, "has more than 253 characters")?;
    require(!text.chars().any(char::is_control), field, "must not hold control characters")
}

/// Something for people, in as many lines as it takes.
fn reason(field: &str, text: &str) -> Checked {
    require(text.len() <= REASON, field, "has more than 16 KiB")?;
    require(!text.contains('\0'), field, "must not hold NUL")
}

/// What `fits` one by one, from `least` to `most` of them.
fn of(
    field: &str,
    text: &str,
    sizes: std::ops::RangeInclusive<usize>,
    fits: fn(u8) -> bool,
    expected: &str,
) -> Checked {
    require(sizes.contains(&text.len()) && text.bytes().all(fits), field, expected)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn shard(field: &str, text: &str) -> Checked {
    of(field, text, 1..=NAME, is_plain, "is no shard's id: letters, digits, `-`, `_` and `.` are expected")
}

fn digest(field: &str, text: &str) -> Checked {
    of(
        field,
        text,
        1..=128,
        |byte| byte.is_ascii_alphanumeric(),
        "is no digest: up to 128 letters and digits are expected",
    )
}

/// A path below the output's root that can't lead out of it.
fn path(field: &str, text: &str) -> Checked {
    let plain =
        text.split('/').all(|step| !step.is_empty() && step != "." && step != ".." && step.bytes().all(is_plain));
    require(text.len() <= PATH && plain, field, "is no path below the output: names with `/` between them are expected")
}

/// `host:port`, where a worker's peers reach it.
fn address(field: &str, text: &str) -> Checked {
    let is_one = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => (1..=NAME).contains(&host.len()) && host.bytes().all(is_plain),
        };
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    require(is_one, field, "must be HOST:PORT")
}

fn member(credentials: Option<&Credentials>) -> Checked {
    // Whether there are any is asked elsewhere.
    let Some(Credentials { worker, secret, run }) = credentials else { return Ok(()) };
    of("credentials.worker", worker, 0..=32, is_plain, "is no worker's id")?;
    of("credentials.secret", secret, 0..=128, |byte| byte.is_ascii_alphanumeric(), "is no secret")?;
    of("credentials.run", run, 0..=64, is_plain, "is no run's id")
}

/// A data set's or quarantine's file of a part.
fn part_file(field: &str, text: &str, folder: &str, shard: &str, digests: &str) -> Checked {
    if text.is_empty() {
        return Ok(());
    }
    path(field, text)?;
    let rest =
        text.strip_prefix(folder).and_then(|rest| rest.strip_prefix(shard)).and_then(|rest| rest.strip_prefix('-'));
    let is_one = rest
        .and_then(|rest| rest.strip_suffix(".parquet"))
        .is_some_and(|digest| !digest.is_empty() && digest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    require(is_one, field, digests)
}

fn part(part: &PartSummary, shard: &str) -> Checked {
    part_file("part.data", &part.data, "data/", shard, "must be data/SHARD-DIGEST.parquet")?;
    part_file("part.quarantine", &part.quarantine, "quarantine/", shard, "must be quarantine/SHARD-DIGEST.parquet")?;
    digest("part.digest", &part.digest)
}

fn line(line: &LogLine) -> Checked {
    require(line.text.len() <= LINE, "log.text", "has more than 64 KiB")?;
    name("log.name", &line.name)?;
    let known = ["error", "warn", "info", "debug", "trace"].contains(&line.level.as_str());
    require(known, "log.level", "must be error, warn, info, debug or trace")
}

fn run(text: &str) -> Checked {
    name("run", text)
}

impl Valid for RegisterRequest {
    fn check(&self) -> Checked {
        name("name", &self.name)?;
        let fits = |byte: u8| is_plain(byte) || byte == b':';
        of("device", &self.device, 1..=64, fits, "is no device: cpu or cuda:N is expected")?;
        name("version", &self.version)?;
        address("address", &self.address)?;
        name("host", &self.host)
    }
}

impl Valid for HeartbeatRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        require(self.progress.len() <= SHARDS, "progress", "tells of more than 1000 shards")?;
        self.progress.iter().try_for_each(|progress| shard("progress.shard", &progress.shard))?;
        require(self.warm.len() <= WORDS, "warm", "has more than 16 words")?;
        self.warm.iter().try_for_each(|word| name("warm", word))?;
        require(self.log.len() <= LINES, "log", "has more than 1000 lines")?;
        self.log.iter().try_for_each(line)
    }
}

impl Valid for LeaseRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())
    }
}

impl Valid for CommitRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        shard("shard", &self.shard)?;
        self.part.as_ref().map_or(Ok(()), |summary| part(summary, &self.shard))
    }
}

impl Valid for FailRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        shard("shard", &self.shard)?;
        reason("reason", &self.reason)
    }
}

impl Valid for CommitTaskRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        of("task", &self.task, 1..=NAME, is_plain, "is no task's name")?;
        let Some(result) = &self.result else { return Ok(()) };
        path("result.path", &result.path)?;
        digest("result.digest", &result.digest)?;
        require(result.summary.len() <= SUMMARY, "result.summary", "has more than 64 KiB")
    }
}

impl Valid for FailTaskRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        of("task", &self.task, 1..=NAME, is_plain, "is no task's name")?;
        reason("reason", &self.reason)
    }
}

impl Valid for JoinWorldRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())
    }
}

impl Valid for ReportStepsRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        require(self.steps.len() <= STEPS, "steps", "has more than 10000 steps")
    }
}

impl Valid for CommitCheckpointRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        path("path", &self.path)?;
        digest("digest", &self.digest)
    }
}

impl Valid for LeaveWorldRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        reason("reason", &self.reason)
    }
}

impl Valid for DrainRequest {
    fn check(&self) -> Checked {
        member(self.credentials.as_ref())?;
        reason("reason", &self.reason)
    }
}

impl Valid for StatusRequest {
    fn check(&self) -> Checked {
        run(&self.run)
    }
}

impl Valid for ControlRequest {
    fn check(&self) -> Checked {
        run(&self.run)?;
        match &self.command {
            Some(control_request::Command::Pause(pause)) => reason("pause.reason", &pause.reason),
            Some(control_request::Command::Cancel(cancel)) => reason("cancel.reason", &cancel.reason),
            Some(control_request::Command::Drain(drain)) => {
                name("drain.worker", &drain.worker)?;
                reason("drain.reason", &drain.reason)
            }
            Some(control_request::Command::Allow(allow)) => name("allow.name", &allow.name),
            Some(control_request::Command::Retry(retry)) => {
                require(retry.reasons.len() <= RETRIED, "retry.reasons", "has more than 64 entries")?;
                retry.reasons.iter().try_for_each(|reason| name("retry.reasons", reason))
            }
            Some(control_request::Command::Resume(_) | control_request::Command::Extend(_)) | None => Ok(()),
        }
    }
}

impl Valid for SubmitRequest {
    fn check(&self) -> Checked {
        require(self.recipe_json.len() <= RECIPE, "recipe_json", "has more than 1 MiB")
    }
}

impl Valid for ListRunsRequest {
    fn check(&self) -> Checked {
        Ok(())
    }
}

impl Valid for LogsRequest {
    fn check(&self) -> Checked {
        run(&self.run)?;
        name("worker", &self.worker)
    }
}

#[cfg(test)]
mod tests;
