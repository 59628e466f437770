//! What goes wrong with stores.

use std::error::Error as StdError;
use std::io;

/// Characters of a store's own words that a sentence holds at most.
const SHOWN_CHARACTERS: usize = 600;

/// What went wrong with a location, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The text names no location that can be opened.
    #[error("{url}: {reason}. Give a path, or a file://, s3://, gs://, az:// or http(s):// URL")]
    Location {
        /// The path or URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is there.
    #[error("{url} does not exist; check the path or URL")]
    NotFound {
        /// The object's URL.
        url: String,
    },
    /// The store refused.
    #[error(
        "cannot {action} {url}: permission denied; check the file's mode, or the credentials in the environment \
         (AWS_*, GOOGLE_*, AZURE_*)"
    )]
    Denied {
        /// What was tried.
        action: &'static str,
        /// The object's URL.
        url: String,
        /// The store's own error.
        #[source]
        source: object_store::Error,
    },
    /// The disk is full.
    #[error("cannot write {url}: no space left on the device; free some and start again")]
    NoSpace {
        /// The object's URL.
        url: String,
    },
    /// Anything else; the cause is the store's own error.
    #[error("cannot {action} {url}: {}", on_one_line(source))]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The object's URL.
        url: String,
        /// The store's own error.
        #[source]
        source: object_store::Error,
    },
}

impl StoreError {
    /// Whether another try may do better: the store failed, and neither is the object missing nor was access refused.
    pub fn is_passing(&self) -> bool {
        match self {
            StoreError::NoSpace { .. } | StoreError::Failed { .. } => true,
            StoreError::Location { .. } | StoreError::NotFound { .. } | StoreError::Denied { .. } => false,
        }
    }

    pub(crate) fn new(action: &'static str, url: String, source: object_store::Error) -> Self {
        match source {
            object_store::Error::NotFound { .. } => StoreError::NotFound { url },
            source @ (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
                StoreError::Denied { action, url, source }
            }
            source if status(&source) == Some(404) => StoreError::NotFound { url },
            source if matches!(status(&source), Some(401 | 403)) => StoreError::Denied { action, url, source },
            source => match io_kind(&source) {
                Some(io::ErrorKind::StorageFull) => StoreError::NoSpace { url },
                Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => StoreError::NotFound { url },
                Some(io::ErrorKind::PermissionDenied) => StoreError::Denied { action, url, source },
                _ => StoreError::Failed { action, url, source },
            },
        }
    }
}

/// As [`StoreError::is_passing`], of a store's own error.
pub(crate) fn is_passing(error: &object_store::Error) -> bool {
    use object_store::Error;
    let refused =
        matches!(error, Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. })
            || matches!(status(error), Some(401 | 403 | 404));
    !refused && !matches!(io_kind(error), Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied))
}

/// The HTTP status that an answer had, where the store names it in words only: for a listing, all but 2xx.
pub(super) fn status(error: &object_store::Error) -> Option<u16> {
    let object_store::Error::Generic { source, .. } = error else { return None };
    let text = source.to_string();
    text.split_once("non-2xx status code: ")?.1.get(..3)?.parse().ok()
}

/// A store's words, which may quote an answer of many lines.
fn on_one_line(error: &object_store::Error) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The kind of the I/O error among an error's causes; one that only wraps another says nothing.
fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() != io::ErrorKind::Other
        {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_recognised() {
        let io = io::Error::from(io::ErrorKind::StorageFull);
        let error = object_store::Error::Generic { store: "test", source: Box::new(io) };
        let wrapped = io::Error::other(error);
        let error = object_store::Error::Generic { store: "test", source: Box::new(wrapped) };
        assert!(matches!(StoreError::new("write", "x".into(), error), StoreError::NoSpace { .. }));
    }

    #[test]
    fn a_status_that_is_only_named_is_understood() {
        let answered = |status: &str| object_store::Error::Generic {
            store: "S3",
            source: format!(
                "Error performing list request: Server returned non-2xx status code: {status}: <A>\n  why\n</A>"
            )
            .into(),
        };
        let of = |status: &str| StoreError::new("list", "s3://b/in".into(), answered(status));
        assert!(matches!(of("404 Not Found"), StoreError::NotFound { .. }));
        assert!(matches!(of("403 Forbidden"), StoreError::Denied { .. }));
        assert!(!is_passing(&answered("403 Forbidden")) && is_passing(&answered("503 Service Unavailable")));
        let failed = of("503 Service Unavailable");
        assert!(
            failed.is_passing() && failed.to_string().ends_with("503 Service Unavailable: <A> why </A>"),
            "{failed}"
        );
    }
}
