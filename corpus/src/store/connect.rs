//! The stores behind URLs, as the environment describes them.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::{Position, Url};

/// How long a request may be silent, and how long it may take at all. What is asked for at once has some 16 MiB, which a
/// slow store may need minutes for.
const SILENCE: &str = "30 seconds";
const REQUEST: &str = "10 minutes";

/// The store at a URL that is not of the local file system, and the folder in it. An error is a reason.
pub(super) fn connect(url: &Url) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|error| error.to_string())?;
    let store: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
        ObjectStoreScheme::AmazonS3 => s3(url).build().map(|store| Arc::new(store) as _),
        ObjectStoreScheme::GoogleCloudStorage => google(url).build().map(|store| Arc::new(store) as _),
        ObjectStoreScheme::MicrosoftAzure => azure(url).build().map(|store| Arc::new(store) as _),
        ObjectStoreScheme::Http => web(url).build().map(|store| Arc::new(store) as _),
        other => return Err(format!("{other:?} stores are not offered")),
    };
    Ok((store.map_err(|error| error.to_string())?, prefix))
}

/// Of a request that fails: throttling (429, 503), other 5xx, lost connections. The waits are drawn, so that many workers
/// do not come back at once.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(15),
            base: 2.0,
        },
        max_retries: 10,
        retry_timeout: Duration::from_secs(180),
    }
}

/// An endpoint is asked for as it is written: who writes `http://` means it.
fn is_plain(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// What holds for requests where the environment, with variables that begin with `prefix`, says nothing else.
fn bounds(prefix: &str) -> impl Iterator<Item = (ClientConfigKey, &'static str)> {
    let is_unset = move |name: &str| std::env::var_os(format!("{prefix}_{name}")).is_none();
    let bounds =
        [("READ_TIMEOUT", ClientConfigKey::ReadTimeout, SILENCE), ("TIMEOUT", ClientConfigKey::Timeout, REQUEST)];
    bounds.into_iter().filter(move |(name, ..)| is_unset(name)).map(|(_, key, bound)| (key, bound))
}

fn s3(url: &Url) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retries());
    for (key, bound) in bounds("AWS") {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), bound);
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    if is_plain(endpoint) { builder.with_allow_http(true) } else { builder }
}

fn google(url: &Url) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retries());
    for (key, bound) in bounds("GOOGLE") {
        builder = builder.with_config(GoogleConfigKey::Client(key), bound);
    }
    builder
}

fn azure(url: &Url) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retries());
    for (key, bound) in bounds("AZURE") {
        builder = builder.with_config(AzureConfigKey::Client(key), bound);
    }
    if is_plain(builder.get_config_value(&AzureConfigKey::Endpoint)) { builder.with_allow_http(true) } else { builder }
}

fn web(url: &Url) -> HttpBuilder {
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_config(ClientConfigKey::ReadTimeout, SILENCE)
        .with_config(ClientConfigKey::Timeout, REQUEST);
    HttpBuilder::new().with_url(&url[..Position::BeforePath]).with_client_options(options).with_retry(retries())
}
