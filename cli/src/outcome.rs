//! How a command ends: docs/reference/exit-codes.md.

use std::process::ExitCode;

/// A command that did what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// All of it.
    Completely,
    /// All but some shards, which are in quarantine.
    WithQuarantinedShards,
}

/// Why a command did not do what it was asked for: one sentence, and what to do.
#[derive(Debug)]
pub enum Failure {
    /// The work failed.
    Failed(String),
    /// The input or the command line is wrong; the same again can't succeed.
    BadInput(String),
}

impl Failure {
    /// The work failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Failure::Failed(message.into())
    }

    /// The input is wrong.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Failure::BadInput(message.into())
    }
}

impl From<quern_recipes::RecipeError> for Failure {
    fn from(error: quern_recipes::RecipeError) -> Self {
        Failure::BadInput(error.to_string())
    }
}

/// Prints the failure, if it is one, and gives the documented exit code.
pub fn exit(ended: Result<Done, Failure>) -> ExitCode {
    match ended {
        Ok(Done::Completely) => ExitCode::SUCCESS,
        Ok(Done::WithQuarantinedShards) => ExitCode::from(3),
        Err(Failure::Failed(message)) => {
            eprintln!("quern: {message}");
            ExitCode::from(1)
        }
        Err(Failure::BadInput(message)) => {
            eprintln!("quern: {message}");
            ExitCode::from(2)
        }
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        // Many errors state their cause themselves.
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}
