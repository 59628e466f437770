//! The connection to the coordinator: credentials on every call, patience while it is away, and errors in one sentence.

use std::time::{Duration, Instant};

use quern_proto::Credentials;
use quern_proto::client::{Client, ClientError, ClientOptions};
use tonic::{Code, Status};

/// How long a worker waits for a coordinator that is away, e.g. while it is restarted.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// First pause between attempts; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why the coordinator could not be asked, or what it refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The address is not one, or what is to be shown there can't be used.
    #[error("“{url}” can't be called: {reason}")]
    Address {
        /// As given.
        url: String,
        /// Why.
        reason: ClientError,
    },
    /// Nobody answered for as long as the worker's patience lasts.
    #[error("no coordinator answers at {url} ({reason}): start it with `quern coordinator`, or check the address")]
    Unreachable {
        /// Where.
        url: String,
        /// What the last attempt met.
        reason: String,
    },
    /// The coordinator does not know this worker (any more): it must register anew.
    #[error("the coordinator does not know this worker: {0}")]
    Unknown(String),
    /// A token is stale: the work belongs to somebody else by now.
    #[error("the coordinator refused stale work: {0}")]
    Stale(String),
    /// Anything else.
    #[error("the coordinator refused {call}: {message}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// Its words.
        message: String,
    },
}

/// A client that knows where it talks to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connection {
    url: String,
    client: Client,
}

impl Connection {
    /// A connection that is made when first needed.
    pub fn new(url: &str, options: &ClientOptions) -> Result<Self, CallError> {
        let unusable = |reason| CallError::Address { url: url.to_owned(), reason };
        let endpoint = options.endpoint(url).map_err(unusable)?;
        let endpoint =
            endpoint.connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(60)).tcp_nodelay(true);
        let client = options.client(endpoint.connect_lazy()).map_err(unusable)?;
        Ok(Connection { url: url.to_owned(), client })
    }

    /// Makes a call, again and again while the coordinator is away: every call of the protocol may be repeated.
    pub async fn call<R, F>(&self, name: &'static str, attempt: impl Fn(Client) -> F) -> Result<R, CallError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let status = match attempt(self.client.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unknown
                    if start.elapsed() < PATIENCE =>
                {
                    if pause == FIRST_PAUSE {
                        let (url, seconds) = (&self.url, PATIENCE.as_secs());
                        tracing::warn!("no coordinator answers at {url}; trying for {seconds} s");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unknown => {
                    return Err(CallError::Unreachable { url: self.url.clone(), reason: status.message().to_owned() });
                }
                Code::Unauthenticated | Code::NotFound => return Err(CallError::Unknown(status.message().to_owned())),
                Code::FailedPrecondition | Code::Aborted => return Err(CallError::Stale(status.message().to_owned())),
                _ => return Err(CallError::Refused { call: name, message: status.message().to_owned() }),
            }
        }
    }
}

/// Who this worker is to the coordinator that it registered with.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Carried by every call.
    pub credentials: Credentials,
    /// Of the coordinator's start.
    pub incarnation: u64,
    /// How often to send a heartbeat.
    pub heartbeat: Duration,
    /// How long a silent worker keeps its leases.
    pub lease: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_address_is_refused_at_once() {
        let connect = |url| Connection::new(url, &ClientOptions::default());
        for url in ["", "ftp", "127.0.0.1:7070", "http//host"] {
            let error = connect(url).expect_err(url);
            assert!(matches!(error, CallError::Address { .. }), "{url}: {error}");
        }
        assert!(connect("http://127.0.0.1:7070").is_ok());
    }
}
