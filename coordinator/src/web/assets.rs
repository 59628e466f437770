//! The files that the page is made of. They are in the binary, they load nothing from elsewhere, and they hold nothing
//! of any run: whoever asks gets them.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::response::{Html, IntoResponse};
use axum::routing::get;

/// Where they are.
pub(crate) const PATH: &str = "/assets/";

/// Nothing but these files, calls back to the coordinator, and images that those bring.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! assets {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("assets/", $name)))),*] };
}

/// What there is besides the documents.
const ASSETS: [(&str, &str); 16] = assets![
    "page.css",
    "page.js",
    "dom.js",
    "text.js",
    "api.js",
    "chart.js",
    "history.js",
    "runs.js",
    "progress.js",
    "map.js",
    "workers.js",
    "quarantine.js",
    "captions.js",
    "steer.js",
    "login.css",
    "login.js"
];

/// The routes.
pub(super) fn router() -> Router {
    ASSETS.iter().fold(Router::new(), |router, (name, text)| {
        let kind = if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
        let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
        router.route(&format!("{PATH}{name}"), get(move || async move { (headers, *text) }))
    })
}

/// The page.
pub(super) fn page() -> impl IntoResponse {
    (document_headers(), Html(include_str!("assets/page.html")))
}

/// The form that asks for a token.
pub(crate) fn login() -> impl IntoResponse {
    (document_headers(), Html(include_str!("assets/login.html")))
}

fn document_headers() -> [(HeaderName, &'static str); 3] {
    [(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
}
