//! The rules that types can't state. Each is one sentence and names its key.

use crate::embed::Shrink;
use crate::kubernetes::Kubernetes;
use crate::recipe::{
    Augment, CapFilt, Cluster, Columns, Dataset, ImageLimits, MinDeviceMemory, Optimiser, Price, QFormer, Recipe,
    Sampling, Stage1, Stage2,
};
use crate::redact::holds_secret;
use crate::resolve::{is_url, lies_within};

/// A rule that a recipe breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenRule {
    /// The key's path, such as `stage1.batch`.
    pub key: String,
    /// The rule, in one sentence.
    pub message: String,
}

pub(crate) type Checked = Result<(), BrokenRule>;

pub(crate) fn require(holds: bool, key: impl Into<String>, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(BrokenRule { key: key.into(), message: message() }) }
}

pub(crate) fn at_least_one(value: u64, key: impl Into<String>) -> Checked {
    require(value >= 1, key, || "must be at least 1".into())
}

/// A number within `range`, whose text is `expected`; NaN is within nothing.
pub(crate) fn within(value: f64, holds: bool, key: impl Into<String>, expected: &str) -> Checked {
    require(value.is_finite() && holds, key, || format!("is {value}, but must be {expected}"))
}

impl Recipe {
    /// Checks every rule; the first that is broken is returned.
    pub fn validate(&self) -> Checked {
        require(!self.name.trim().is_empty(), "name", || "must not be empty".into())?;
        require(!self.output.trim().is_empty(), "output", || "must name a folder or URL".into())?;
        self.holds_no_secret()?;
        require((1..=1_000_000).contains(&self.shard_rows), "shard_rows", || {
            format!("is {}, but a shard has 1 to 1000000 rows", self.shard_rows)
        })?;
        self.datasets_hold()?;
        self.limits.validate()?;
        self.fetch.validate()?;
        self.fetched_images_are_kept()?;
        if let Some(capfilt) = &self.capfilt {
            capfilt.validate()?;
        }
        if let Some(captions) = &self.captions {
            self.captions_are_anothers(captions)?;
        }
        if let Some(stage1) = &self.stage1 {
            stage1.validate()?;
        }
        if let Some(stage2) = &self.stage2 {
            stage2.validate()?;
            stage2.has_its_beginning(self.stage1.is_some())?;
        }
        self.tasks_hold()?;
        self.cluster.validate()
    }

    /// A recipe is kept, shown and sent around.
    fn holds_no_secret(&self) -> Checked {
        let recipe = serde_json::to_value(self).expect("a recipe holds only what JSON can state");
        match secret_in("", &recipe) {
            None => Ok(()),
            Some(key) => require(false, key, || {
                "holds a URL with a password or a signature, but a recipe is no secret: give it to the processes in their \
                 environment, as `quern doctor` lists it"
                    .into()
            }),
        }
    }

    fn captions_are_anothers(&self, captions: &str) -> Checked {
        require(!captions.trim().is_empty(), "captions", || "must name the output of an earlier run".into())?;
        require(self.capfilt.is_none(), "captions", || {
            "names an earlier run's captions, but the recipe writes its own in `capfilt`: remove one of them".into()
        })?;
        require(!lies_within(captions, &self.output) && !lies_within(&self.output, captions), "captions", || {
            "and `output` lie within each other: write the output elsewhere".into()
        })?;
        require(self.trains(), "captions", || {
            "are given, but nothing is trained on them: add a `stage1` or `stage2` section".into()
        })
    }

    fn datasets_hold(&self) -> Checked {
        require(!self.datasets.is_empty(), "datasets", || "must list at least one data set".into())?;
        for (index, dataset) in self.datasets.iter().enumerate() {
            let key = format!("datasets[{index}]");
            dataset.validate(&key)?;
            let earlier = &self.datasets[..index];
            require(earlier.iter().all(|other| other.name != dataset.name), format!("{key}.name"), || {
                format!("`{}` is taken by an earlier data set, but names identify rows and must differ", dataset.name)
            })?;
            let is_filtered = self.capfilt.is_some() || self.captions.is_some();
            require(is_filtered || !dataset.capfilt, format!("{key}.capfilt"), || {
                "is true (the default), but the recipe has no `capfilt` section: add one, or say `capfilt: false` here"
                    .into()
            })?;
            require(!lies_within(&self.output, &dataset.path), "output", || {
                format!("lies within `{key}.path`, so that its parts would be read as input: write it elsewhere")
            })?;
        }
        require(self.capfilt.is_none() || self.datasets.iter().any(|dataset| dataset.capfilt), "capfilt", || {
            "is given, but every data set says `capfilt: false`: remove the section or one of these".into()
        })
    }
}

/// The key of a text that holds a secret.
fn secret_in(key: &str, value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match value {
        Value::String(text) => holds_secret(text).then(|| key.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| secret_in(&format!("{key}[{index}]"), item))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let dot = if key.is_empty() { "" } else { "." };
            secret_in(&format!("{key}{dot}{name}"), field)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

impl Dataset {
    fn validate(&self, key: &str) -> Checked {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let legal = !self.name.is_empty()
            && self.name.len() <= 64
            && self.name.chars().all(fit)
            && self.name.starts_with(|c: char| c.is_ascii_alphanumeric());
        require(legal, format!("{key}.name"), || {
            format!(
                "is `{}`, but must be 1 to 64 letters, digits, `-`, `_` or `.`, beginning with a letter or digit",
                self.name
            )
        })?;
        require(!self.path.trim().is_empty(), format!("{key}.path"), || "must name a folder or URL".into())?;
        self.max_rows.map_or(Ok(()), |rows| at_least_one(rows, format!("{key}.max_rows")))?;
        if let Some(weight) = self.weight {
            within(weight, (0.001..=1_000.0).contains(&weight), format!("{key}.weight"), "0.001 to 1000")?;
        }
        self.images_hold(key)?;
        self.columns.validate(&format!("{key}.columns"))
    }
}

impl Columns {
    fn validate(&self, key: &str) -> Checked {
        let named = [("image", &self.image), ("caption", &self.caption), ("key", &self.key)];
        for (index, (field, column)) in named.iter().enumerate() {
            require(!column.is_empty(), format!("{key}.{field}"), || "must name a column".into())?;
            if let Some((other, _)) = named[..index].iter().find(|(_, taken)| taken == column) {
                return Err(BrokenRule {
                    key: format!("{key}.{field}"),
                    message: format!("is `{column}`, which is the `{other}` column already"),
                });
            }
        }
        Ok(())
    }
}

impl ImageLimits {
    fn validate(&self) -> Checked {
        at_least_one(self.max_bytes, "limits.max_bytes")?;
        at_least_one(self.max_pixels, "limits.max_pixels")?;
        at_least_one(self.max_side.into(), "limits.max_side")?;
        at_least_one(self.max_frames.into(), "limits.max_frames")
    }
}

impl CapFilt {
    fn validate(&self) -> Checked {
        model(&self.captioner, "capfilt.captioner")?;
        model(&self.ranker, "capfilt.ranker")?;
        require((1..=1000).contains(&self.candidates), "capfilt.candidates", || {
            format!("is {}, but 1 to 1000 captions can be written per image", self.candidates)
        })?;
        at_least_one(self.keep.into(), "capfilt.keep")?;
        require(self.keep <= self.candidates, "capfilt.keep", || {
            format!("is {}, but only {} candidates are written: keep at most as many", self.keep, self.candidates)
        })?;
        require((1..=4096).contains(&self.batch_images), "capfilt.batch_images", || {
            format!("is {}, but must be 1 to 4096", self.batch_images)
        })?;
        if let Some(Shrink { max_side, quality }) = self.embed_images.shrink() {
            require((16..=16_384).contains(&max_side), "capfilt.embed_images.max_side", || {
                format!("is {max_side}, but must be 16 to 16384 pixels")
            })?;
            require((1..=100).contains(&quality), "capfilt.embed_images.quality", || {
                format!("is {quality}, but JPEG has 1 to 100")
            })?;
        }
        self.filters.validate()?;
        self.sampling.validate()
    }
}

impl Sampling {
    fn validate(&self) -> Checked {
        let key = |field: &str| format!("capfilt.sampling.{field}");
        within(self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, key("top_p"), "above 0 and at most 1")?;
        if let Some(top_k) = self.top_k {
            at_least_one(top_k.into(), key("top_k"))?;
        }
        within(self.temperature, self.temperature > 0.0, key("temperature"), "above 0")?;
        within(self.repetition_penalty, self.repetition_penalty > 0.0, key("repetition_penalty"), "above 0")?;
        require(self.max_length >= 2, key("max_length"), || {
            format!("is {}, but must be at least 2: the begin token and one more", self.max_length)
        })?;
        require(self.min_length <= self.max_length, key("min_length"), || {
            format!("is {}, but must be at most max_length, which is {}", self.min_length, self.max_length)
        })
    }
}

impl Stage1 {
    fn validate(&self) -> Checked {
        model(&self.image_encoder, "stage1.image_encoder")?;
        model(&self.tokenizer, "stage1.tokenizer")?;
        self.init.iter().try_for_each(|init| model(init, "stage1.init"))?;
        image_size(self.image_size, "stage1")?;
        self.qformer.validate()?;
        require(self.batch >= 2, "stage1.batch", || {
            format!("is {}, but must be at least 2: matching needs a negative from another image", self.batch)
        })?;
        steps_on_ranks(self.steps, self.checkpoint_every, self.batch, self.ranks, "stage1")?;
        let positions = self.qformer.max_position_embeddings;
        require((3..=positions).contains(&self.max_text_length), "stage1.max_text_length", || {
            format!(
                "is {}, but must be 3 ([CLS], a word, [SEP]) to stage1.qformer.max_position_embeddings, which is {positions}",
                self.max_text_length
            )
        })?;
        self.augment.validate("stage1")?;
        self.optimiser.validate(self.steps, "stage1")
    }
}

impl Stage2 {
    fn validate(&self) -> Checked {
        model(&self.language_model, "stage2.language_model")?;
        self.image_encoder.iter().try_for_each(|encoder| model(encoder, "stage2.image_encoder"))?;
        image_size(self.image_size, "stage2")?;
        require(self.qformer.as_ref().is_none_or(|path| !path.trim().is_empty()), "stage2.qformer", || {
            "must name a checkpoint".into()
        })?;
        steps_on_ranks(self.steps, self.checkpoint_every, self.batch, self.ranks, "stage2")?;
        require((2..=2048).contains(&self.max_text_length), "stage2.max_text_length", || {
            format!("is {}, but must be 2 (a special token, a word) to 2048", self.max_text_length)
        })?;
        self.augment.validate("stage2")?;
        self.optimiser.validate(self.steps, "stage2")
    }

    /// Stage 2 goes on from this run's stage 1, or from a checkpoint and the encoder that it was trained with.
    fn has_its_beginning(&self, after_stage1: bool) -> Checked {
        match (after_stage1, &self.qformer, &self.image_encoder) {
            (true, None, None) | (false, Some(_), Some(_)) => Ok(()),
            (true, Some(_), _) => Err(BrokenRule {
                key: "stage2.qformer".into(),
                message: "names a checkpoint, but the recipe trains a stage 1 of its own: remove one of them".into(),
            }),
            (true, None, Some(_)) => Err(BrokenRule {
                key: "stage2.image_encoder".into(),
                message: "is stage 1's, since its Q-Former knows no other: remove the key".into(),
            }),
            (false, None, _) => Err(BrokenRule {
                key: "stage2".into(),
                message: "has nothing to start from: add a `stage1` section, or name a checkpoint in `stage2.qformer`"
                    .into(),
            }),
            (false, Some(_), None) => Err(BrokenRule {
                key: "stage2".into(),
                message: "has no image encoder: name the one that `stage2.qformer` was trained with in \
                          `stage2.image_encoder`"
                    .into(),
            }),
        }
    }
}

fn image_size(side: Option<u32>, section: &str) -> Checked {
    side.map_or(Ok(()), |side| at_least_one(side.into(), format!("{section}.image_size")))
}

fn steps_on_ranks(steps: u64, checkpoint_every: u64, batch: u32, ranks: u32, section: &str) -> Checked {
    at_least_one(ranks.into(), format!("{section}.ranks"))?;
    require(batch >= ranks, format!("{section}.batch"), || {
        format!("is {batch}, but must be at least {section}.ranks, which is {ranks}: every rank needs an image")
    })?;
    at_least_one(steps, format!("{section}.steps"))?;
    at_least_one(checkpoint_every, format!("{section}.checkpoint_every"))
}

impl QFormer {
    fn validate(&self) -> Checked {
        let key = |field: &str| format!("stage1.qformer.{field}");
        let sizes = [
            (self.hidden_size, "hidden_size"),
            (self.num_hidden_layers, "num_hidden_layers"),
            (self.num_attention_heads, "num_attention_heads"),
            (self.intermediate_size, "intermediate_size"),
            (self.max_position_embeddings, "max_position_embeddings"),
            (self.cross_attention_freq, "cross_attention_freq"),
            (self.num_query_token, "num_query_token"),
            (self.embed_dim, "embed_dim"),
        ];
        for (size, field) in sizes {
            at_least_one(size.into(), key(field))?;
        }
        require(self.hidden_size.is_multiple_of(self.num_attention_heads), key("hidden_size"), || {
            format!(
                "is {}, but must be divisible by num_attention_heads, which is {}",
                self.hidden_size, self.num_attention_heads
            )
        })?;
        for (dropout, field) in [
            (self.hidden_dropout_prob, "hidden_dropout_prob"),
            (self.attention_probs_dropout_prob, "attention_probs_dropout_prob"),
        ] {
            within(dropout, (0.0..1.0).contains(&dropout), key(field), "at least 0 and below 1")?;
        }
        Ok(())
    }
}

impl Optimiser {
    fn validate(&self, steps: u64, section: &str) -> Checked {
        let key = |field: &str| format!("{section}.optimiser.{field}");
        within(self.peak_lr, self.peak_lr > 0.0, key("peak_lr"), "above 0")?;
        let to_peak = format!("0 to peak_lr, which is {}", self.peak_lr);
        within(self.warmup_lr, (0.0..=self.peak_lr).contains(&self.warmup_lr), key("warmup_lr"), &to_peak)?;
        within(self.min_lr, (0.0..=self.peak_lr).contains(&self.min_lr), key("min_lr"), &to_peak)?;
        require(self.warmup_steps <= steps, key("warmup_steps"), || {
            format!(
                "is {}, but must be at most {section}.steps, which is {steps}: the peak would never be reached",
                self.warmup_steps
            )
        })?;
        within(self.beta1, (0.0..1.0).contains(&self.beta1), key("beta1"), "at least 0 and below 1")?;
        within(self.beta2, (0.0..1.0).contains(&self.beta2), key("beta2"), "at least 0 and below 1")?;
        within(self.epsilon, self.epsilon > 0.0, key("epsilon"), "above 0")?;
        within(self.weight_decay, self.weight_decay >= 0.0, key("weight_decay"), "at least 0")
    }
}

impl Augment {
    fn validate(&self, section: &str) -> Checked {
        let holds = self.min_scale > 0.0 && self.min_scale <= 1.0;
        within(self.min_scale, holds, format!("{section}.augment.min_scale"), "above 0 and at most 1")
    }
}

impl Cluster {
    fn validate(&self) -> Checked {
        at_least_one(self.threads.into(), "cluster.threads")?;
        at_least_one(self.heartbeat_ms, "cluster.heartbeat_ms")?;
        at_least_one(self.attempts.into(), "cluster.attempts")?;
        let MinDeviceMemory { capfilt, stage1, stage2 } = self.min_device_memory_gib;
        for (gib, key) in [(capfilt, "capfilt"), (stage1, "stage1"), (stage2, "stage2")] {
            let key = format!("cluster.min_device_memory_gib.{key}");
            require(gib.is_none_or(|gib| gib > 0.0 && gib.is_finite()), &key, || "must be above 0, or null".into())?;
        }
        require(self.lease_ms > self.heartbeat_ms, "cluster.lease_ms", || {
            format!(
                "is {}, but must be above heartbeat_ms, which is {}, or every lease would expire",
                self.lease_ms, self.heartbeat_ms
            )
        })?;
        self.price.as_ref().map_or(Ok(()), Price::validate)?;
        self.kubernetes.as_ref().map_or(Ok(()), Kubernetes::validate)
    }
}

impl Price {
    fn validate(&self) -> Checked {
        let Price { per_device_hour: price, currency } = self;
        within(*price, *price >= 0.0, "cluster.price.per_device_hour", "at least 0")?;
        let holds = (1..=8).contains(&currency.len()) && currency.chars().all(char::is_alphabetic);
        require(holds, "cluster.price.currency", || format!("is `{currency}`, but must be a short word, such as `EUR`"))
    }
}

/// Where models are read from, besides folders.
const MODEL_STORES: [&str; 7] = ["hf://", "s3://", "gs://", "az://", "http://", "https://", "file://"];

fn model(source: &str, key: &str) -> Checked {
    require(!source.trim().is_empty(), key, || {
        "must name a folder, `hf://owner/name` or an object store's URL".into()
    })?;
    require(!is_url(source) || MODEL_STORES.iter().any(|scheme| source.starts_with(scheme)), key, || {
        format!("is `{source}`, but models are read from folders and from {}", MODEL_STORES.join(", "))
    })
}
