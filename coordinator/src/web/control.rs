//! What an operator asks for from the page. The guard has seen the role already; here is what a browser adds to that:
//! another site's page could send a request in its user's name. Such a page can't set a header of its own without being
//! asked about it first (CORS), and nobody answers that question here. Where no tokens are asked for, a page whose own name
//! leads to this machine (DNS rebinding) would need none either: there, only an address or `localhost` may be called.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};
use quern_machine::Control;
use serde::Deserialize;

use super::Web;
use crate::errors::CallError;
use crate::service::worker_from_wire;

/// What the page sends along.
pub(super) const HEADER: &str = "x-quern-page";

/// What a request may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// Which worker is sent away.
    #[serde(default)]
    worker: String,
}

pub(super) async fn control(
    State(web): State<Web>,
    Path((run, command)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    wish: Json<Wish>,
) -> Result<StatusCode, (StatusCode, String)> {
    if !headers.contains_key(HEADER) {
        return Err((StatusCode::FORBIDDEN, format!("requests to steer a run carry the header {HEADER}\n")));
    }
    if !web.guard.asks_for_tokens() && !is_an_address(&uri, &headers) {
        let why = "without tokens, a run can be steered only on a page that was opened by the coordinator's address\n";
        return Err((StatusCode::FORBIDDEN, why.into()));
    }
    let reason = "asked for on the page".to_owned();
    let control = match &*command {
        "pause" => Control::Pause { reason },
        "resume" => Control::Resume,
        "cancel" => Control::Cancel { reason },
        "drain" => {
            let unknown = || (StatusCode::BAD_REQUEST, format!("{:?} is no worker's id\n", wish.worker));
            Control::Drain { worker: worker_from_wire(&wish.worker).ok_or_else(unknown)?, reason }
        }
        _ => return Err((StatusCode::NOT_FOUND, "a run can be paused, resumed, cancelled, a worker drained\n".into())),
    };
    let told = web.run(&run)?.control(control).await;
    told.map(|()| StatusCode::NO_CONTENT).map_err(|error| {
        let code = match error {
            CallError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        (code, format!("{error}\n"))
    })
}

/// Whether the request was sent to an address or to `localhost`, rather than to any other name.
fn is_an_address(uri: &Uri, headers: &HeaderMap) -> bool {
    // HTTP/2 says it in the URI, HTTP/1.1 in a header.
    let host = || headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    uri.authority().cloned().or_else(host).is_some_and(|authority| {
        let host = authority.host().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_address() {
        let to = |host: &'static str| {
            is_an_address(&Uri::from_static("/"), &HeaderMap::from_iter([(HOST, host.parse().unwrap())]))
        };
        assert!(to("127.0.0.1:7070") && to("[::1]:7070") && to("localhost") && to("10.1.2.3"));
        assert!(
            !to("rebound.example:7070")
                && !to("127.0.0.1.example")
                && !is_an_address(&Uri::from_static("/"), &HeaderMap::new())
        );
        assert!(!is_an_address(&Uri::from_static("https://rebound.example/"), &HeaderMap::new()));
    }
}
