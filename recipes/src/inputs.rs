//! How a data set's images are come by: as bytes in its rows, at paths, or on the web; and how the web is asked.

use serde::{Deserialize, Serialize};

use crate::recipe::{Dataset, Recipe};
use crate::validate::{BrokenRule, Checked, at_least_one, require};

/// What a data set's image column holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Images {
    /// Encoded images.
    #[default]
    Bytes,
    /// Paths of images, relative to this folder or URL.
    Paths(String),
    /// http(s) URLs of images.
    Urls,
}

/// What a data set's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `*.parquet`, a row per image.
    Parquet,
    /// `*.tar`, the members of a sample one after the other.
    WebDataset,
}

/// How images are fetched from URLs. Only `honour_opt_out` is part of the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fetch {
    /// Fetches under way at a time, per worker.
    pub concurrency: u32,
    /// Of these, to one host.
    pub per_host: u32,
    /// How long a connection may take to be made, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long one try may take from its beginning to the last byte, redirects counted, in milliseconds.
    pub timeout_ms: u64,
    /// Tries after the first one, where another may do better.
    pub retries: u32,
    /// What servers are told who asks; `null`: `quern/VERSION`. Its name is heeded in opt-out headers.
    pub user_agent: Option<String>,
    /// Hosts, as `host:port`, that may be asked at addresses that are not public.
    pub allow_private_hosts: Vec<String>,
    /// Whether an `X-Robots-Tag` that forbids such use is honoured.
    pub honour_opt_out: bool,
}

impl Default for Fetch {
    fn default() -> Self {
        Fetch {
            concurrency: 64,
            per_host: 4,
            connect_timeout_ms: 5_000,
            timeout_ms: 30_000,
            retries: 2,
            user_agent: None,
            allow_private_hosts: Vec::new(),
            honour_opt_out: true,
        }
    }
}

impl Dataset {
    pub(crate) fn images_hold(&self, key: &str) -> Checked {
        if let Images::Paths(base) = &self.images {
            require(!base.trim().is_empty(), format!("{key}.images.paths"), || {
                "must name the folder or URL that the paths are relative to".into()
            })?;
        }
        let in_tars = self.format == Some(Format::WebDataset);
        require(!in_tars || self.images == Images::Bytes, format!("{key}.images"), || {
            "is about a parquet column, but the images of `format: webdataset` are in the tar files: remove one of them"
                .into()
        })
    }
}

impl Recipe {
    /// What is fetched from the web is fetched once: training reads images again, in every epoch.
    pub(crate) fn fetched_images_are_kept(&self) -> Checked {
        let kept = self.captions.is_some() || self.capfilt.as_ref().is_some_and(|capfilt| capfilt.embed_images.is_on());
        let fetched = self.datasets.iter().position(|dataset| dataset.images == Images::Urls);
        match fetched {
            Some(index) if self.trains() && !kept => Err(BrokenRule {
                key: format!("datasets[{index}].images"),
                message:
                    "is `urls`, which are fetched once, but training reads the images again: say `embed_images: true` \
                          in `capfilt`"
                        .into(),
            }),
            _ => Ok(()),
        }
    }
}

impl Fetch {
    pub(crate) fn validate(&self) -> Checked {
        let count = |value: u32, key: &str| {
            require((1..=1024).contains(&value), key, || format!("is {value}, but must be 1 to 1024"))
        };
        count(self.concurrency, "fetch.concurrency")?;
        count(self.per_host, "fetch.per_host")?;
        at_least_one(self.connect_timeout_ms, "fetch.connect_timeout_ms")?;
        at_least_one(self.timeout_ms, "fetch.timeout_ms")?;
        require(self.retries <= 20, "fetch.retries", || format!("is {}, but must be at most 20", self.retries))?;
        let legal =
            |agent: &String| !agent.trim().is_empty() && agent.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        require(self.user_agent.as_ref().is_none_or(legal), "fetch.user_agent", || {
            "must be visible ASCII, such as `my-lab/1.0 (+https://example.org/crawl)`".into()
        })?;
        self.allow_private_hosts.iter().enumerate().try_for_each(|(index, host)| {
            require(is_host_and_port(host), format!("fetch.allow_private_hosts[{index}]"), || {
                format!("is `{host}`, but must be `host:port`, such as `images.internal:8080`")
            })
        })
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let host_fits = bracketed.map_or_else(|| named(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}
