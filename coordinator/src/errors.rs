//! The one place where errors become gRPC codes.

use quern_machine::Refusal;
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
    /// The worker is of another build.
    #[error("the worker is of version {worker}, the coordinator of {coordinator}: run the same version on both sides")]
    OtherVersion {
        /// The worker's.
        worker: String,
        /// Ours.
        coordinator: &'static str,
    },
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Refused(refusal) => code_of(refusal),
            CallError::Unavailable(_) => Code::Unavailable,
            CallError::NoCredentials => Code::Unauthenticated,
            CallError::Malformed(_) | CallError::OtherVersion { .. } => Code::InvalidArgument,
        };
        Status::new(code, error.to_string())
    }
}

fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NotAMember(_) | Refusal::NoSuchWorker(_) => Code::NotFound,
        Refusal::WrongSecret(_) => Code::Unauthenticated,
        Refusal::Over { .. } | Refusal::Draining(_) | Refusal::StaleAttempt { .. } | Refusal::StaleWorld { .. } => {
            Code::FailedPrecondition
        }
        Refusal::NotRankZero(_) => Code::PermissionDenied,
        Refusal::UnknownShard(_) | Refusal::Malformed(_) => Code::InvalidArgument,
    }
}
