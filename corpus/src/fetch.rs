//! Images from the web, each asked for politely, in bounds, and at public addresses only.
//!
//! A fetch is a try and, where another may do better, a few more. A try is a request and up to five redirects, each a
//! request of its own that is judged before it is sent: its scheme, its host if that is an address, and, when the host's
//! name is resolved for the connection, the addresses it has (`resolver`). reqwest's own redirects are off, and so
//! are proxies, which would look names up where nobody judges them. What comes of a fetch depends on the server alone,
//! never on what else is under way.

mod address;
mod failure;
mod opt_out;
mod patience;
mod resolver;
mod turns;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use quern_recipes::Fetch;
use reqwest::header::LOCATION;
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::time::{sleep, timeout};
use url::{Host, Url};

use self::failure::{Failure, shown};
use self::patience::{Patience, retry_after};
use self::resolver::{Lookup, Resolver};
use self::turns::Turns;
use crate::reader::MissingImage;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Images that are asked for ahead, per fetch that may be under way.
const AHEAD_PER_TURN: usize = 4;
/// Before the second try.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Nobody is waited for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why nothing can be fetched at all.
#[derive(Debug, thiserror::Error)]
#[error("images can't be fetched: the HTTP client can't be set up: {0}")]
pub struct FetchSetupError(#[from] reqwest::Error);

/// Fetches images, as many at a time as the recipe says, whoever asks.
pub struct Fetcher {
    public: Client,
    excepted: Client,
    /// Hosts and ports that are asked wherever they are, and whether that was said already.
    exceptions: BTreeMap<(String, u16), AtomicBool>,
    turns: Turns,
    ahead: usize,
    timeout: Duration,
    patience: Patience,
    max_bytes: u64,
    /// The user agent's name, in lower case, where opt-outs are honoured.
    heeds: Option<String>,
}

impl Fetcher {
    /// A fetcher of images of `max_bytes` at most.
    ///
    /// # Errors
    /// When the system's certificates can't be loaded.
    pub fn new(fetch: &Fetch, max_bytes: u64) -> Result<Self, FetchSetupError> {
        let patience = Patience { retries: fetch.retries, first_wait: FIRST_WAIT, longest_wait: LONGEST_WAIT };
        Fetcher::with(fetch, max_bytes, patience, resolver::system)
    }

    fn with(fetch: &Fetch, max_bytes: u64, patience: Patience, lookup: Lookup) -> Result<Self, FetchSetupError> {
        let agent = fetch.user_agent.clone().unwrap_or_else(|| format!("quern/{}", env!("CARGO_PKG_VERSION")));
        let client = |any_address| {
            Client::builder()
                .user_agent(&agent)
                .dns_resolver(Arc::new(Resolver { lookup, any_address }))
                .redirect(redirect::Policy::none())
                .referer(false)
                .no_proxy()
                .connect_timeout(Duration::from_millis(fetch.connect_timeout_ms))
                .build()
        };
        Ok(Fetcher {
            public: client(false)?,
            excepted: client(true)?,
            exceptions: fetch.allow_private_hosts.iter().filter_map(|host| exception(host)).collect(),
            turns: Turns::new(fetch.concurrency as usize, fetch.per_host as usize),
            ahead: AHEAD_PER_TURN * fetch.concurrency as usize,
            timeout: Duration::from_millis(fetch.timeout_ms),
            patience,
            max_bytes,
            heeds: fetch.honour_opt_out.then(|| opt_out::agent_name(&agent)),
        })
    }

    /// Images that are worth waiting for a turn at a time: more than there are turns, since they are handed on in order, and
    /// one slow server must not hold all others up.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead
    }

    /// The image at a URL.
    ///
    /// # Errors
    /// Why it can't be had: the server's answer, its silence, or what forbids to ask.
    pub async fn get(&self, url: &str) -> Result<Bytes, MissingImage> {
        let url = Url::parse(url).map_err(|error| Failure::InvalidUrl(format!("not an http(s) URL: {error}")))?;
        let digest = blake3::hash(url.as_str().as_bytes());
        let key = u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"));
        let mut failed = 0;
        loop {
            let failure = match self.once(&url).await {
                Ok(image) => return Ok(image),
                Err(failure) => failure,
            };
            failed += 1;
            match self.patience.wait(failed, &failure, key) {
                Some(wait) => sleep(wait).await,
                None => return Err(failure.into()),
            }
        }
    }

    /// One try, when it is its turn.
    async fn once(&self, url: &Url) -> Result<Bytes, Failure> {
        let _turn = self.turns.of(url.host_str().unwrap_or_default()).await;
        let late = |_| Err(Failure::Timeout { url: shown(url) });
        timeout(self.timeout, self.follow(url)).await.unwrap_or_else(late)
    }

    async fn follow(&self, url: &Url) -> Result<Bytes, Failure> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request = self.client(&at)?.get(at.clone());
            let response = request.send().await.map_err(|error| Failure::of(&error, &at))?;
            match redirected(&response, &at)? {
                Some(next) => at = next,
                None => return self.image(response, &at).await,
            }
        }
        Err(Failure::Redirects { url: shown(url) })
    }

    /// Who may ask there. A host's name is judged when it is resolved; a host that is an address is judged here.
    fn client(&self, url: &Url) -> Result<&Client, Failure> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::InvalidUrl(format!("`{}:` is not http or https", url.scheme())));
        }
        if self.is_excepted(url) {
            return Ok(&self.excepted);
        }
        refused_host(url).map_or(Ok(&self.public), |kind| Err(Failure::RefusedAddress { url: shown(url), kind }))
    }

    fn is_excepted(&self, url: &Url) -> bool {
        let Some(place) = place(url) else { return false };
        let Some(said) = self.exceptions.get(&place) else { return false };
        if !said.swap(true, Ordering::Relaxed) {
            let (host, port) = place;
            tracing::warn!(
                "images are fetched from {host}:{port} wherever it is: `fetch.allow_private_hosts` names it"
            );
        }
        true
    }

    async fn image(&self, mut response: Response, url: &Url) -> Result<Bytes, Failure> {
        let (status, headers) = (response.status(), response.headers());
        if !status.is_success() {
            let retry_after = retry_after(headers, SystemTime::now());
            return Err(Failure::Status { url: shown(url), status, retry_after });
        }
        if let Some(directive) = self.heeds.as_ref().and_then(|agent| opt_out::opted_out(headers, agent)) {
            return Err(Failure::OptOut { url: shown(url), directive });
        }
        let too_large = || Failure::TooLarge { url: shown(url), max_bytes: self.max_bytes };
        if response.content_length().is_some_and(|bytes| bytes > self.max_bytes) {
            return Err(too_large());
        }
        let mut image = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Failure::of(&error, url))? {
            if image.len() as u64 + chunk.len() as u64 > self.max_bytes {
                return Err(too_large());
            }
            image.extend_from_slice(&chunk);
        }
        Ok(image.freeze())
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("exceptions", &self.exceptions).finish_non_exhaustive()
    }
}

/// Of a URL whose host is an address: why that is not asked.
fn refused_host(url: &Url) -> Option<&'static str> {
    match url.host()? {
        Host::Ipv4(address) => address::refusal(address.into()),
        Host::Ipv6(address) => address::refusal(address.into()),
        Host::Domain(_) => None,
    }
}

/// What is read of foreign bytes here, for `tests/fuzz`.
#[doc(hidden)]
pub mod foreign {
    use reqwest::header::{HeaderMap, HeaderValue};
    use url::Url;

    /// Why the host of a URL is not asked, if it is an address.
    pub fn refused_host(url: &Url) -> Option<&'static str> {
        super::refused_host(url)
    }

    /// The directive that forbids an agent the use of what came with `X-Robots-Tag` of these values.
    pub fn opted_out<'a>(values: impl Iterator<Item = &'a [u8]>, agent: &str) -> Option<&'static str> {
        let values = values.filter_map(|value| HeaderValue::from_bytes(value).ok());
        let headers: HeaderMap = values.map(|value| ("x-robots-tag".parse().expect("a name"), value)).collect();
        super::opt_out::opted_out(&headers, agent)
    }
}

/// Where an answer sends to, if it does.
fn redirected(response: &Response, at: &Url) -> Result<Option<Url>, Failure> {
    let is_redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let Some(location) = response.headers().get(LOCATION).filter(|_| is_redirect) else { return Ok(None) };
    let next = std::str::from_utf8(location.as_bytes()).ok().and_then(|location| at.join(location).ok());
    next.map(Some).ok_or_else(|| Failure::InvalidUrl(format!("{} redirects to what is no URL", shown(at))))
}

/// `host:port` as URLs write it, and that it has not been said yet.
fn exception(host: &str) -> Option<((String, u16), AtomicBool)> {
    let url = Url::parse(&format!("http://{host}")).ok()?;
    Some((place(&url)?, AtomicBool::new(false)))
}

fn place(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

#[cfg(test)]
mod tests;
