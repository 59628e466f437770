//! Why an image could not be fetched, as its row tells it: a short word and a sentence without secrets.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

use super::resolver::{Refused, Unresolved};
use crate::reader::MissingImage;

/// Characters of a URL that a sentence holds at most.
const SHOWN_CHARACTERS: usize = 200;

/// Why an image could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    InvalidUrl(String),
    RefusedAddress { url: String, kind: &'static str },
    Dns { url: String, is_passing: bool },
    Connect { url: String, cause: String },
    Certificate { url: String, cause: String },
    Timeout { url: String },
    Status { url: String, status: StatusCode, retry_after: Option<Duration> },
    OptOut { url: String, directive: &'static str },
    TooLarge { url: String, max_bytes: u64 },
    Redirects { url: String },
    Broken { url: String, cause: String },
}

impl Failure {
    /// What reqwest says of a request to `url`.
    pub fn of(error: &reqwest::Error, url: &Url) -> Self {
        let url = shown(url);
        if let Some(&Refused(kind)) = in_chain(error) {
            return Failure::RefusedAddress { url, kind };
        }
        if let Some(&Unresolved { is_passing }) = in_chain(error) {
            return Failure::Dns { url, is_passing };
        }
        if let Some(cause) = refused_certificate(error) {
            return Failure::Certificate { url, cause };
        }
        let cause = innermost(error);
        match error {
            error if error.is_builder() => Failure::InvalidUrl(format!("no URL that can be asked for: {cause}")),
            error if error.is_timeout() => Failure::Timeout { url },
            error if error.is_connect() => Failure::Connect { url, cause },
            _ => Failure::Broken { url, cause },
        }
    }

    /// Whether another try may do better.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Dns { is_passing, .. } => *is_passing,
            Failure::Connect { .. } | Failure::Timeout { .. } | Failure::Broken { .. } => true,
            Failure::Status { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
            Failure::InvalidUrl(_)
            | Failure::RefusedAddress { .. }
            | Failure::Certificate { .. }
            | Failure::OptOut { .. }
            | Failure::TooLarge { .. }
            | Failure::Redirects { .. } => false,
        }
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Failure::InvalidUrl(_) => "fetch_invalid_url",
            Failure::RefusedAddress { .. } => "fetch_refused_address",
            Failure::Dns { .. } => "fetch_dns",
            Failure::Connect { .. } => "fetch_connect",
            Failure::Certificate { .. } => "fetch_certificate",
            Failure::Timeout { .. } => "fetch_timeout",
            Failure::Status { .. } => "fetch_status",
            Failure::OptOut { .. } => "fetch_opt_out",
            Failure::TooLarge { .. } => "fetch_too_large",
            Failure::Redirects { .. } => "fetch_redirects",
            Failure::Broken { .. } => "fetch_failed",
        }
    }

    fn detail(&self) -> String {
        match self {
            Failure::InvalidUrl(why) => why.clone(),
            Failure::RefusedAddress { url, kind } => {
                format!("{url} is at {kind} address; `fetch.allow_private_hosts` names hosts that may be asked there")
            }
            Failure::Dns { url, .. } => format!("{url}: its host's name has no address"),
            Failure::Connect { url, cause } => format!("{url}: no connection: {cause}"),
            Failure::Certificate { url, cause } => {
                format!("{url}: its certificate is refused: {cause}; SSL_CERT_FILE can name other authorities to trust")
            }
            Failure::Timeout { url } => format!("{url} took too long"),
            Failure::Status { url, status, .. } => format!("{url} answers {}", status.as_u16()),
            Failure::OptOut { url, directive } => {
                format!("{url} forbids such use: X-Robots-Tag says `{directive}`")
            }
            Failure::TooLarge { url, max_bytes } => {
                format!("{url} has more than {max_bytes} bytes (limits.max_bytes)")
            }
            Failure::Redirects { url } => format!("{url} redirects too often"),
            Failure::Broken { url, cause } => format!("{url}: the answer broke off: {cause}"),
        }
    }
}

impl From<Failure> for MissingImage {
    fn from(failure: Failure) -> Self {
        MissingImage::new(failure.reason(), failure.detail())
    }
}

/// A URL without user, password, query and fragment, any of which may hold a secret.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let shown = format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
    match shown.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn in_chain<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// What is wrong with the server's certificate, if that is what failed.
fn refused_certificate(error: &reqwest::Error) -> Option<String> {
    match chain(error).find_map(tls_error)? {
        rustls::Error::InvalidCertificate(why) => Some(why.to_string()),
        _ => None,
    }
}

/// The error of TLS in I/O errors around it, which name what their cause is caused by, and not the cause itself.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<io::Error>() {
        Some(outer) => outer.get_ref().and_then(|inner| tls_error(inner)),
        None => error.downcast_ref(),
    }
}

/// The first cause, which holds no URL as reqwest's own text does.
fn innermost(error: &reqwest::Error) -> String {
    match chain(error).skip(1).last() {
        Some(cause) => cause.to_string(),
        None => "no cause given".into(),
    }
}
