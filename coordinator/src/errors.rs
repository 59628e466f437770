//! The one place where errors become gRPC codes.

use quern_machine::Refusal;
use quern_recipes::redacted;
use tonic::{Code, Status};

/// Why a call has no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The machine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing happened; the caller may try again.
    #[error("nothing happened, try again: {0}")]
    Unavailable(String),
    /// The call carries no credentials that could be anyone's.
    #[error("the call carries no credentials: register first")]
    NoCredentials,
    /// A message without a field that it must have.
    #[error("{0}")]
    Malformed(String),
    /// There is no run at all.
    #[error("no run is here: hand a recipe in with `quern submit`")]
    NoRuns,
    /// There is no such run.
    #[error("there is no run {0:?} here; `quern ls` lists them")]
    UnknownRun(String),
    /// More than one run may be meant.
    #[error("{said:?} may mean {runs} runs: say more of the id, as `quern ls` shows it")]
    SeveralRuns {
        /// What was said.
        said: String,
        /// How many it fits.
        runs: usize,
    },
    /// This coordinator carries out one recipe.
    #[error(
        "this coordinator carries out the one recipe that it was started with: start one with --state to hand recipes in"
    )]
    OneRunOnly,
    /// The same run is here, with another output.
    #[error(
        "this recipe is run {run} already, whose output is {output}: the output doesn't make it another run, a seed does"
    )]
    KnownElsewhere {
        /// The run.
        run: String,
        /// Its output.
        output: String,
    },
    /// New input can't be looked for.
    #[error("what has come to the data sets can't be planned: {0}")]
    Unplanned(String),
    /// The output was written by another build, whose parts may differ.
    #[error(
        "{output} was written by quern {wrote}, and this is {coordinator}: go on with that version, or begin anew elsewhere"
    )]
    OtherWriter {
        /// The output.
        output: String,
        /// Who wrote it.
        wrote: String,
        /// Ours.
        coordinator: &'static str,
    },
    /// The worker is of another build.
    #[error("the worker is of version {worker}, the coordinator of {coordinator}: run the same version on both sides")]
    OtherVersion {
        /// The worker's.
        worker: String,
        /// Ours.
        coordinator: &'static str,
    },
}

impl CallError {
    /// Whether the run is where this can't be asked for, and may soon be elsewhere.
    pub fn is_too_early(&self) -> bool {
        matches!(self, CallError::Refused(Refusal::NotNow { .. }))
    }

    /// Whether what was asked for is wrong, and asking again can't help.
    pub fn is_bad_input(&self) -> bool {
        matches!(self, CallError::Refused(_) | CallError::OtherWriter { .. })
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Refused(refusal) => code_of(refusal),
            CallError::Unavailable(_) => Code::Unavailable,
            CallError::NoCredentials => Code::Unauthenticated,
            CallError::NoRuns | CallError::UnknownRun(_) => Code::NotFound,
            CallError::OneRunOnly
            | CallError::KnownElsewhere { .. }
            | CallError::Unplanned(_)
            | CallError::OtherWriter { .. } => Code::FailedPrecondition,
            CallError::SeveralRuns { .. } => Code::InvalidArgument,
            CallError::Malformed(_) | CallError::OtherVersion { .. } => Code::InvalidArgument,
        };
        Status::new(code, redacted(&error.to_string()))
    }
}

fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NotAMember(_) | Refusal::NoSuchWorker(_) | Refusal::NotDenied(_) => Code::NotFound,
        Refusal::WrongSecret(_) => Code::Unauthenticated,
        Refusal::Over { .. }
        | Refusal::NotNow { .. }
        | Refusal::NothingToRetry { .. }
        | Refusal::Draining(_)
        | Refusal::StaleAttempt { .. }
        | Refusal::StaleTask { .. }
        | Refusal::StaleWorld { .. } => Code::FailedPrecondition,
        Refusal::NotRankZero(_) | Refusal::Denied { .. } => Code::PermissionDenied,
        Refusal::UnknownShard(_) | Refusal::Malformed(_) => Code::InvalidArgument,
    }
}
