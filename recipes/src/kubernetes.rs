//! The recipe's `cluster.kubernetes`: what a run's workers are like as pods, and the rules for it.
//!
//! Every worker may be given any work, so there is one shape of pod for CapFilt and for training. Names and quantities
//! are checked here by Kubernetes' own rules, so that a wrong one is a sentence before anything is sent to a cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::validate::{Checked, require};

/// How `quern k8s render` lays a run's workers out; no part of it touches the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Where the workers are; the coordinator's namespace.
    pub namespace: String,
    /// The coordinator's URL; `null`: the Service `quern` of `k8s/base` in the namespace.
    pub coordinator: Option<String>,
    /// The workers' image, with its tag or digest.
    pub image: String,
    /// Pods of the CapFilt job.
    pub capfilt_workers: u32,
    /// What each worker is given.
    pub resources: Resources,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the workers bear.
    pub tolerations: Vec<Toleration>,
    /// The workers' ServiceAccount.
    pub service_account: String,
    /// Secrets whose keys become the workers' environment: the credentials of object stores.
    pub secrets: Vec<String>,
    /// What the workers show the coordinator; `null`: nothing, over http.
    pub access: Option<WorkerAccess>,
    /// A volume with models; `null`: the recipe names models that workers fetch.
    pub models: Option<ModelsVolume>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Kubernetes {
            namespace: "quern".into(),
            coordinator: None,
            image: concat!("quern-worker:", env!("CARGO_PKG_VERSION")).into(),
            capfilt_workers: 1,
            resources: Resources::default(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            service_account: "quern-worker".into(),
            secrets: Vec::new(),
            access: Some(WorkerAccess::default()),
            models: None,
        }
    }
}

/// A Secret, mounted in every worker, with what it shows the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerAccess {
    /// The Secret. Its keys: `token`, a worker's; `ca.crt`, which vouches for the coordinator.
    pub secret: String,
    /// Whether it also has `tls.crt` and `tls.key`, the workers' own certificate.
    pub mutual_tls: bool,
}

impl Default for WorkerAccess {
    fn default() -> Self {
        WorkerAccess { secret: "quern-worker-access".into(), mutual_tls: false }
    }
}

/// What a worker requests, and may not exceed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Cores, such as `8` or `500m`.
    pub cpu: String,
    /// Bytes, such as `32Gi`.
    pub memory: String,
    /// GPUs (`nvidia.com/gpu`): 1, or 0 for the processor.
    pub gpus: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Resources { cpu: "8".into(), memory: "32Gi".into(), gpus: 1 }
    }
}

/// A taint that workers bear, in Kubernetes' own terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; `null`: every key.
    #[serde(default)]
    pub key: Option<String>,
    /// How the key is compared.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// The taint's value, for `Equal`.
    #[serde(default)]
    pub value: Option<String>,
    /// The taint's effect; `null`: every effect.
    #[serde(default)]
    pub effect: Option<TaintEffect>,
}

/// How a toleration compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TolerationOperator {
    /// Key and value are the taint's.
    #[default]
    Equal,
    /// The key is, whatever the value.
    Exists,
}

/// What a taint does to pods that don't bear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaintEffect {
    /// They are not scheduled.
    NoSchedule,
    /// They are scheduled elsewhere where that is possible.
    PreferNoSchedule,
    /// They are evicted.
    NoExecute,
}

/// A claim that is mounted, read-only, in every worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelsVolume {
    /// The PersistentVolumeClaim, in the workers' namespace.
    pub claim: String,
    /// Where it is mounted: the folder that the recipe's models lie in.
    #[serde(default = "default_models_path")]
    pub path: String,
}

fn default_models_path() -> String {
    "/models".into()
}

/// The most pods that an Indexed Job may have.
const MAX_PODS: u32 = 100_000;

/// Where workers find what they show the coordinator.
pub const ACCESS_PATH: &str = "/etc/quern/access";

impl Kubernetes {
    pub(crate) fn validate(&self) -> Checked {
        let key = |field: &str| format!("cluster.kubernetes.{field}");
        label(&self.namespace, key("namespace"))?;
        subdomain(&self.service_account, key("service_account"))?;
        if let Some(url) = &self.coordinator {
            let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or_default();
            require(!host.is_empty() && is_one_word(host), key("coordinator"), || {
                format!("is `{url}`, but must be a URL, http://HOST:PORT")
            })?;
        }
        require(!self.image.is_empty() && is_one_word(&self.image), key("image"), || {
            format!("is `{}`, but must name an image, such as registry.example/quern-worker:0.1.0", self.image)
        })?;
        require((1..=MAX_PODS).contains(&self.capfilt_workers), key("capfilt_workers"), || {
            format!("is {}, but must be 1 to {MAX_PODS}", self.capfilt_workers)
        })?;
        self.resources.validate()?;
        for (label, value) in &self.node_selector {
            let key = key(&format!("node_selector.{label}"));
            require(is_label_key(label), &key, || {
                "is no label: a label is NAME or DOMAIN/NAME, the name of at most 63 letters, digits, `-`, `_`, `.`"
                    .into()
            })?;
            require(is_label_value(value), &key, || {
                format!("is `{value}`, but a label's value has at most 63 letters, digits, `-`, `_`, `.`")
            })?;
        }
        for (index, toleration) in self.tolerations.iter().enumerate() {
            toleration.validate(&key(&format!("tolerations[{index}]")))?;
        }
        for (index, secret) in self.secrets.iter().enumerate() {
            subdomain(secret, key(&format!("secrets[{index}]")))?;
        }
        if let Some(access) = &self.access {
            subdomain(&access.secret, key("access.secret"))?;
        }
        let Some(models) = &self.models else { return Ok(()) };
        subdomain(&models.claim, key("models.claim"))?;
        let path = models.path.trim_end_matches('/');
        let fit = path.starts_with('/') && !path.contains(':') && path != "/tmp" && path != ACCESS_PATH;
        require(fit, key("models.path"), || {
            format!(
                "is `{}`, but must be an absolute path without `:`, and not /tmp, where workers write, or {ACCESS_PATH}",
                models.path
            )
        })
    }
}

impl Resources {
    fn validate(&self) -> Checked {
        let key = |field: &str| format!("cluster.kubernetes.resources.{field}");
        require(is_quantity(&self.cpu, &["", "m"]), key("cpu"), || {
            format!("is `{}`, but must be a number of cores, such as 8 or 500m", self.cpu)
        })?;
        require(is_quantity(&self.memory, &["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]), key("memory"), || {
            format!("is `{}`, but must be a number of bytes, such as 32Gi", self.memory)
        })?;
        require(self.gpus <= 1, key("gpus"), || {
            format!("is {}, but a worker uses one GPU at most: ask for more workers", self.gpus)
        })
    }
}

impl Toleration {
    fn validate(&self, key: &str) -> Checked {
        let exists = self.operator == TolerationOperator::Exists;
        require(exists || self.key.is_some(), format!("{key}.key"), || {
            "is missing, but `Equal` compares it: name it, or say `operator: Exists`".into()
        })?;
        require(!exists || self.value.is_none(), format!("{key}.value"), || {
            "is given, but `Exists` compares no value: remove it".into()
        })?;
        require(self.key.as_deref().is_none_or(is_label_key), format!("{key}.key"), || "is no taint's key".into())?;
        require(self.value.as_deref().is_none_or(is_label_value), format!("{key}.value"), || {
            "is no taint's value".into()
        })
    }
}

fn label(name: &str, key: String) -> Checked {
    require(is_dns_label(name), key, || {
        format!(
            "is `{name}`, but must be 1 to 63 lower-case letters, digits or `-`, beginning and ending with a letter or \
             digit"
        )
    })
}

fn subdomain(name: &str, key: String) -> Checked {
    require(name.len() <= 253 && name.split('.').all(is_dns_label), key, || {
        format!("is `{name}`, but must be lower-case letters, digits, `-` or `.`, as Kubernetes' names are")
    })
}

fn is_dns_label(text: &str) -> bool {
    let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(fit) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_label_key(text: &str) -> bool {
    let (domain, name) = text.split_once('/').unwrap_or(("quern", text));
    !name.is_empty() && is_label_value(name) && domain.len() <= 253 && domain.split('.').all(is_dns_label)
}

fn is_label_value(text: &str) -> bool {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.is_empty() || text.len() <= 63 && text.chars().all(fit) && text.starts_with(ends) && text.ends_with(ends)
}

/// Whether `text` is a positive decimal number with one of `suffixes`.
fn is_quantity(text: &str, suffixes: &[&str]) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |digits: &str| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    suffixes.contains(&&text[number.len()..])
        && is_digits(whole)
        && is_digits(part)
        && number.chars().any(|c| matches!(c, '1'..='9'))
}

fn is_one_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic())
}
