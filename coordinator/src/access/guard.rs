//! The guard: who asks, and whether they may. It looks at a request's headers only; what is refused is never read.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use quern_proto::Rotating;
use tonic::{Code, Status};

use super::bucket::Bucket;
use super::limits::{Limits, Rate};
use super::login::{self, Sessions};
use super::tokens::{Role, Roles, TokenDigest, Tokens, digest};
use super::{Counts, tokens};
use crate::web::ASSETS_PATH;

/// Addresses whose failures are remembered.
const ADDRESSES: usize = 10_000;

/// The service whose calls have roles.
pub(crate) const SERVICE: &str = "/quern.v1.Coordinator/";
/// What anyone may ask.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// What anyone with a role may ask.
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/";

/// One connection, as its requests see it.
pub(super) struct Visitor {
    address: SocketAddr,
    calls: Mutex<Bucket>,
}

impl Visitor {
    pub fn new(address: SocketAddr, calls: Rate) -> Self {
        Visitor { address, calls: Mutex::new(Bucket::full(calls, Instant::now())) }
    }
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Turned {
    #[error("this coordinator asks for a token: name its file with --token-file or QUERN_TOKEN_FILE")]
    NoToken,
    #[error("the token is none of this coordinator's (any more): ask whoever runs it for another one")]
    UnknownToken,
    #[error("too many requests without a good token came from this address: try again in a minute")]
    TooManyFailures,
    #[error("this connection asks too often: ask less often")]
    TooManyCalls,
    #[error("this takes the role {needed}, and the token has the role {held}")]
    Role { needed: &'static str, held: Roles },
    #[error("the request took too long to come, or its answer to be found")]
    TooSlow,
}

impl Turned {
    fn codes(&self) -> (Code, StatusCode) {
        match self {
            Turned::NoToken | Turned::UnknownToken => (Code::Unauthenticated, StatusCode::UNAUTHORIZED),
            Turned::TooManyFailures | Turned::TooManyCalls => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS),
            Turned::Role { .. } => (Code::PermissionDenied, StatusCode::FORBIDDEN),
            Turned::TooSlow => (Code::DeadlineExceeded, StatusCode::REQUEST_TIMEOUT),
        }
    }

    /// As a gRPC status or as plain text, as the request was.
    fn answer(&self, is_grpc: bool) -> Response {
        let (code, status) = self.codes();
        match is_grpc {
            true => Status::new(code, self.to_string()).into_http(),
            false => (status, format!("{self}\n")).into_response(),
        }
    }
}

/// What whoever asks may do, for those who answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holds {
    /// Whether they may steer runs.
    pub may_steer: bool,
}

/// What the guard knows.
pub(crate) struct Guard {
    tokens: Option<Rotating<Tokens>>,
    failures: Mutex<BTreeMap<IpAddr, Bucket>>,
    pub(super) sessions: Sessions,
    pub(super) is_encrypted: bool,
    limits: Limits,
    counts: Arc<Counts>,
}

impl Guard {
    /// One that asks for tokens, if there are any.
    pub fn new(
        tokens: Option<Rotating<tokens::Tokens>>,
        is_encrypted: bool,
        limits: Limits,
        counts: Arc<Counts>,
    ) -> Self {
        Guard { tokens, failures: Mutex::default(), sessions: Sessions::default(), is_encrypted, limits, counts }
    }

    /// Whether callers must show a token.
    pub fn asks_for_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// What happened at the door.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The roles of a token, as the file has them now.
    pub(super) fn roles(&self, token: &TokenDigest) -> Option<Roles> {
        match &self.tokens {
            None => Some(Roles::EVERY),
            Some(tokens) => tokens.now().roles(token),
        }
    }

    fn judge(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        visitor: Option<&Visitor>,
    ) -> Result<Holds, Turned> {
        let needed = needed(method, path);
        if needed == Needed::Nothing {
            return Ok(Holds { may_steer: false });
        }
        let held = self.known(headers, visitor)?;
        if let Needed::Role(role) = needed
            && !held.include(role)
        {
            return Err(Turned::Role { needed: role.name(), held });
        }
        let in_time = visitor.is_none_or(|visitor| {
            let mut calls = visitor.calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls.take(self.limits.calls, Instant::now())
        });
        if in_time { Ok(Holds { may_steer: held.include(Role::Operator) }) } else { Err(Turned::TooManyCalls) }
    }

    /// The roles of whoever asks. A good token is always let in: others at its address don't lock it out.
    fn known(&self, headers: &HeaderMap, visitor: Option<&Visitor>) -> Result<Roles, Turned> {
        if self.tokens.is_none() {
            return Ok(Roles::EVERY);
        }
        let shown = bearer(headers).map(digest).or_else(|| self.sessions.token(headers));
        let turned = match shown {
            Some(token) => match self.roles(&token) {
                Some(roles) => return Ok(roles),
                None => Turned::UnknownToken,
            },
            None => Turned::NoToken,
        };
        Err(self.failed(visitor.map(|visitor| visitor.address.ip()), turned))
    }

    /// Remembers a failure; beyond the limit, that is what is said.
    pub(super) fn failed(&self, address: Option<IpAddr>, turned: Turned) -> Turned {
        let Some(address) = address else { return turned };
        let (rate, now) = (self.limits.failures, Instant::now());
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES && !failures.contains_key(&address) {
            failures.retain(|_, bucket| !bucket.is_full(rate, now));
            if failures.len() >= ADDRESSES {
                return Turned::TooManyFailures;
            }
        }
        let bucket = failures.entry(address).or_insert_with(|| Bucket::full(rate, now));
        if bucket.take(rate, now) { turned } else { Turned::TooManyFailures }
    }

    fn count(&self, turned: &Turned) {
        match turned {
            Turned::NoToken | Turned::UnknownToken => self.counts.unknown.add(),
            Turned::Role { .. } => self.counts.denied.add(),
            Turned::TooManyFailures | Turned::TooManyCalls | Turned::TooSlow => self.counts.too_many.add(),
        }
    }
}

/// Lets a request in, or answers why not.
pub(crate) async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let is_grpc =
        (request.headers().get(CONTENT_TYPE)).is_some_and(|sort| sort.as_bytes().starts_with(b"application/grpc"));
    let visitor = request.extensions().get::<Arc<Visitor>>().cloned();
    let path = request.uri().path();
    let turned = match guard.judge(request.method(), path, request.headers(), visitor.as_deref()) {
        Ok(holds) => {
            request.extensions_mut().insert(holds);
            match tokio::time::timeout(guard.limits.answer, next.run(request)).await {
                Ok(response) => return response,
                Err(_) => Turned::TooSlow,
            }
        }
        Err(turned) if path == "/" && matches!(turned, Turned::NoToken | Turned::UnknownToken) => {
            guard.count(&turned);
            return login::page();
        }
        Err(turned) => turned,
    };
    guard.count(&turned);
    turned.answer(is_grpc)
}

/// The address of whoever asks.
pub(super) fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Arc<Visitor>>().map(|visitor| visitor.address.ip())
}

/// What a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    /// It is open to all.
    Nothing,
    /// Any role, where tokens are asked for.
    AnyRole,
    Role(Role),
}

fn needed(method: &Method, path: &str) -> Needed {
    if path == login::PATH || path.starts_with(HEALTH) || path.starts_with(ASSETS_PATH) {
        return Needed::Nothing;
    }
    if path.starts_with(REFLECTION) {
        return Needed::AnyRole;
    }
    let Some(call) = path.strip_prefix(SERVICE) else {
        let only_reads = matches!(*method, Method::GET | Method::HEAD);
        return Needed::Role(if only_reads { Role::Viewer } else { Role::Operator });
    };
    Needed::Role(match call {
        "Status" | "Watch" | "ListRuns" | "Logs" => Role::Viewer,
        "Register" | "Heartbeat" | "Lease" | "Commit" | "Fail" | "CommitTask" | "FailTask" | "JoinWorld"
        | "ReportSteps" | "CommitCheckpoint" | "LeaveWorld" | "Drain" => Role::Worker,
        // Control, Submit, and whatever nobody has thought of.
        _ => Role::Operator,
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_protocol_has_the_role_that_it_should() {
        let protocol = include_str!("../../../proto/quern.proto");
        let calls: Vec<&str> = protocol
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc ")?.split_once('('))
            .map(|(call, _)| call)
            .collect();
        assert!(calls.len() >= 16, "{calls:?}");
        for call in calls {
            let messages = protocol.split_once(&format!("message {call}Request {{")).map_or("", |(_, rest)| rest);
            let is_a_members = messages.split('}').next().unwrap_or_default().contains("Credentials credentials");
            let Needed::Role(role) = needed(&Method::POST, &format!("{SERVICE}{call}")) else {
                panic!("{call} is open")
            };
            match call {
                "Control" | "Submit" => assert_eq!(role, Role::Operator),
                "Register" => assert_eq!(role, Role::Worker),
                _ if is_a_members => assert_eq!(role, Role::Worker, "{call}"),
                _ => assert_eq!(role, Role::Viewer, "{call}"),
            }
        }
        assert_eq!(needed(&Method::POST, "/grpc.health.v1.Health/Check"), Needed::Nothing);
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(needed(&Method::POST, reflection), Needed::AnyRole);
        assert_eq!(needed(&Method::GET, "/metrics"), Needed::Role(Role::Viewer));
        assert_eq!(needed(&Method::GET, "/api/runs/r/shards"), Needed::Role(Role::Viewer));
        assert_eq!(needed(&Method::POST, "/api/runs/r/pause"), Needed::Role(Role::Operator));
        assert_eq!(needed(&Method::POST, "/quern.v1.Coordinator/NewCall"), Needed::Role(Role::Operator));
    }
}
