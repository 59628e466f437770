//! What the environment says about caches and the Hub.

use std::env;
use std::path::PathBuf;

/// Values of HF_HUB_OFFLINE that mean yes, as `huggingface_hub` reads them.
const YES: [&str; 4] = ["1", "ON", "YES", "TRUE"];

/// Where things are cached and how the Hub is reached.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The Hub's address; `None`: `HF_ENDPOINT`, or the public one.
    pub endpoint: Option<String>,
    /// The Hub's cache; `None`: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or the usual place in the home folder.
    pub hub_cache: Option<PathBuf>,
    /// Whether the Hub must not be asked.
    pub offline: bool,
    /// Models from object stores, a folder each.
    pub model_cache: PathBuf,
}

impl Environment {
    /// As this process' variables say: `HF_HUB_OFFLINE`, `XDG_CACHE_HOME`, `HOME`; `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH` are the Hub client's to read.
    pub fn of_process() -> Self {
        let offline = env::var("HF_HUB_OFFLINE").is_ok_and(|value| YES.contains(&value.to_uppercase().as_str()));
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = cache.unwrap_or_else(|| env::home_dir().unwrap_or_else(env::temp_dir).join(".cache"));
        Environment { endpoint: None, hub_cache: None, offline, model_cache: cache.join("quern").join("models") }
    }
}
