//! How a browser shows a token: a form sends it once, and a cookie that scripts can't read stands for it from then on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::guard::{Guard, Turned, address};
use super::tokens::{Role, TokenDigest, digest};
use crate::secrets;
use crate::web::login_page;

/// Where the form sends the token.
pub(super) const PATH: &str = "/login";
/// Cookies that are valid at a time; the oldest goes.
const SESSIONS: usize = 1_000;
/// Bytes of a token at most.
const TOKEN_BYTES: usize = 4 << 10;
const NAME: &str = "quern_session";

/// The cookies that are valid. Each stands for a token, and is worth what the token is.
#[derive(Default)]
pub(super) struct Sessions(Mutex<VecDeque<(TokenDigest, TokenDigest)>>);

impl Sessions {
    /// The token that a request's cookie stands for.
    pub fn token(&self, headers: &HeaderMap) -> Option<TokenDigest> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, cookie) = pairs.find(|(name, _)| *name == NAME)?;
        let cookie = digest(cookie);
        // Only digests of what nobody knows are compared: that it takes longer or shorter tells nothing.
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().find(|(known, _)| *known == cookie).map(|(_, token)| *token)
    }

    fn begin(&self, cookie: &str, token: TokenDigest) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() == SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back((digest(cookie), token));
    }
}

/// The route.
pub(crate) fn router(guard: Arc<Guard>) -> Router {
    Router::new().route(PATH, post(login)).with_state(guard)
}

/// The form.
pub(super) fn page() -> Response {
    (StatusCode::UNAUTHORIZED, login_page()).into_response()
}

async fn login(State(guard): State<Arc<Guard>>, request: Request) -> Response {
    let address = address(&request);
    let turned = |turned| {
        let turned = guard.failed(address, turned);
        (StatusCode::UNAUTHORIZED, format!("{turned}\n")).into_response()
    };
    let Ok(body) = to_bytes(request.into_body(), TOKEN_BYTES).await else { return turned(Turned::NoToken) };
    let Ok(token) = std::str::from_utf8(&body) else { return turned(Turned::UnknownToken) };
    let token = digest(token.trim());
    if guard.roles(&token).is_none_or(|roles| !roles.include(Role::Viewer)) {
        return turned(Turned::UnknownToken);
    }
    let Ok(cookie) = secrets::draw() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    guard.sessions.begin(&cookie, token);
    let secure = if guard.is_encrypted { "; Secure" } else { "" };
    let cookie = format!("{NAME}={cookie}; Path=/; HttpOnly; SameSite=Strict{secure}");
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
}
