//! How a command ends: docs/reference/exit-codes.md.

use std::process::ExitCode;

use quern_capfilt::visible;

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
    /// An operator cancelled the run.
    Cancelled(String),
    /// Another coordinator has taken the output over.
    Superseded(String),
    /// A signal asked for an end before the work was done.
    Stopped {
        /// The signal's number.
        signal: i32,
        /// How to go on.
        message: String,
    },
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

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Failure::Failed(message)
        | Failure::BadInput(message)
        | Failure::Cancelled(message)
        | Failure::Superseded(message)
        | Failure::Stopped { message, .. }) = self;
        f.write_str(message)
    }
}

impl From<quern_coordinator::Superseded> for Failure {
    fn from(by: quern_coordinator::Superseded) -> Self {
        Failure::Superseded(by.to_string())
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
        Err(failure) => {
            quern_telemetry::say_failure("quern", &shown(&failure.to_string()));
            match failure {
                Failure::Failed(_) => ExitCode::from(1),
                Failure::BadInput(_) => ExitCode::from(2),
                Failure::Cancelled(_) => ExitCode::from(4),
                Failure::Superseded(_) => ExitCode::from(5),
                Failure::Stopped { signal, .. } => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
            }
        }
    }
}

/// A message that may quote foreign text, for a terminal: only line breaks and tabs do what they do.
fn shown(message: &str) -> String {
    message
        .split_inclusive(['\n', '\t'])
        .map(|piece| match piece.strip_suffix(['\n', '\t']) {
            Some(text) => format!("{}{}", visible(text), &piece[text.len()..]),
            None => visible(piece).into_owned(),
        })
        .collect()
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    // A store's error may quote an answer of many lines.
    let on_one_line =
        |error: &dyn std::error::Error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = on_one_line(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = on_one_line(error);
        // Many errors state their cause themselves.
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{chain, shown};

    #[test]
    fn causes_are_on_one_line() {
        let cause = std::io::Error::other("<Error>\n  <Code>AccessDenied</Code>\r\n</Error>");
        let error = std::io::Error::other(std::io::Error::other(cause));
        assert_eq!(chain(&error).lines().count(), 1);
    }

    #[test]
    fn a_message_moves_no_cursor() {
        assert_eq!(shown("a\n\tb\u{1b}[2J\r\n"), "a\n\tb\\u{1b}[2J\\u{d}\n");
    }
}
