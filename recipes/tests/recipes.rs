//! The recipes that are shipped, and every way in which one can be wrong.

use std::path::{Path, PathBuf};

use quern_recipes::{
    Dedup, ExportPart, ExportTarget, Images, Precision, Price, Recipe, RecipeError, Semantics, T5Gelu,
};

/// A recipe that holds; the tests break one thing each.
const SOUND: &str = "\
name: sound
seed: 3
output: out
datasets:
  - name: web
    path: corpus/web
  - name: coco
    path: s3://bucket/coco
    capfilt: false
capfilt:
  captioner: models/blip
  ranker: models/clip
  sampling:
    top_p: 0.9
stage1:
  image_encoder: models/clip
  tokenizer: models/bert
  batch: 32
  steps: 3000
  ranks: 3
  qformer:
    hidden_size: 64
    num_attention_heads: 4
  optimiser:
    warmup_steps: 100
  augment:
    flip: false
cluster:
  threads: 1
";

/// A stage 2 after the stage 1 of [`SOUND`], which it follows.
const STAGE2: &str = "\
stage2:
  language_model: models/opt
  batch: 16
  steps: 2500
  optimiser:
    peak_lr: 0.001
";

fn sound() -> Recipe {
    Recipe::parse("sound.yaml", SOUND).expect("the recipe is sound")
}

/// A change of a sound recipe: what is replaced, by what; the key that the error must name, and words in it.
type Rule<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Each change must be refused in one line that names the key and its place.
fn each_names_its_key(rules: &[Rule<'_>], refused: impl Fn(&str, &str) -> RecipeError) {
    for (from, to, key, words) in rules {
        let error = refused(from, to);
        assert_eq!(error.key, *key, "{error}");
        assert!(error.message.contains(words), "`{words}` is missing in: {error}");
        assert!(error.place.is_some(), "no place in: {error}");
        assert!(!error.to_string().contains('\n'), "one line: {error}");
    }
}

/// [`SOUND`] with the line `from` replaced by `to`.
fn broken(from: &str, to: &str) -> RecipeError {
    assert_eq!(SOUND.matches(from).count(), 1, "`{from}` must occur once in the sound recipe");
    Recipe::parse("run.yaml", &SOUND.replacen(from, to, 1)).expect_err(&format!("`{to}` must be refused"))
}

/// [`SOUND`] with [`STAGE2`], in which the line `from` is replaced by `to`.
fn two_stages(from: &str, to: &str) -> Result<Recipe, RecipeError> {
    let both = format!("{SOUND}{STAGE2}");
    assert_eq!(both.matches(from).count(), 1, "`{from}` must occur once in the sound recipe");
    Recipe::parse("run.yaml", &both.replacen(from, to, 1))
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn shipped_recipes_hold() {
    let paper = Recipe::read(shipped("blip2-129m.yaml")).unwrap();
    let stage1 = paper.stage1.as_ref().unwrap();
    assert_eq!((stage1.batch, stage1.steps, stage1.optimiser.warmup_steps), (2320, 250_000, 2_000));
    assert_eq!((stage1.optimiser.beta1, stage1.optimiser.beta2, stage1.optimiser.min_lr), (0.9, 0.98, 1e-5));
    assert_eq!(paper.datasets.iter().filter(|dataset| dataset.capfilt).count(), 4);

    for (name, batch) in [("blip2-129m-opt.yaml", 1920), ("blip2-129m-t5.yaml", 1520)] {
        let paper2 = Recipe::read(shipped(name)).unwrap();
        let stage2 = paper2.stage2.as_ref().unwrap();
        assert_eq!((stage2.batch, stage2.steps, stage2.optimiser.warmup_steps), (batch, 80_000, 2_000), "{name}");
        assert_eq!((stage2.optimiser.beta2, stage2.optimiser.min_lr), (0.98, 5e-5), "{name}");
        assert_eq!((paper2.captioned(), &paper2.datasets), (paper.output.as_str(), &paper.datasets), "{name}");
        let last = format!("{}/stage1/step-{}", paper.output, stage1.steps);
        assert_eq!(stage2.qformer, Some(last), "{name}");
    }

    let kept = Recipe::read(shipped("demo.yaml")).unwrap();
    let t5 = Recipe::read(shipped("demo-t5.yaml")).unwrap();
    assert_eq!((t5.captioned(), &t5.datasets), (kept.output.as_str(), &kept.datasets));
    let last = format!("{}/stage1/step-{:06}", kept.output, kept.stage1.as_ref().unwrap().steps);
    assert_eq!(t5.stage2.as_ref().unwrap().qformer, Some(last));
    let raw = Recipe::read(shipped("demo-raw.yaml")).unwrap();
    assert_eq!(kept.stage1, raw.stage1, "the demo compares captions, so the training must be the same");
    assert_eq!((kept.seed, &kept.datasets[0].path), (raw.seed, &raw.datasets[0].path));
    assert_ne!(kept.output, raw.output);
    assert!(raw.capfilt.is_none() && !raw.datasets[0].capfilt);
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let error = broken("  batch: 32\n", "  batch: 32\n  batchsize: 16\n");
    let text = error.to_string();
    assert!(text.starts_with("run.yaml:19:3: "), "{text}");
    assert!(
        text.contains("batchsize")
            && text.contains("one of image_encoder, image_size, tokenizer, qformer, init, batch, steps"),
        "names the key and what was expected: {text}"
    );
    assert!(!text.contains('\n'), "one line: {text}");
}

#[test]
fn a_wrong_type_is_named_with_its_place_and_what_was_expected() {
    let error = broken("  batch: 32", "  batch: many");
    assert_eq!(error.key, "stage1.batch");
    let text = error.to_string();
    assert!(text.starts_with("run.yaml:18:10: `stage1.batch`: "), "{text}");
    assert!(text.contains("u32") || text.contains("integer"), "{text}");

    let text = broken("    flip: false", "    flip: sideways").to_string();
    assert!(text.starts_with("run.yaml:27:11: `stage1.augment.flip`: ") && text.contains("bool"), "{text}");
    let text = broken("  ranks: 3", "  ranks: -3").to_string();
    assert!(text.starts_with("run.yaml:20:10: `stage1.ranks`: "), "{text}");
    let text = broken("  ranks: 3", "  ranks: 3\n  semantics: torch").to_string();
    assert!(text.starts_with("run.yaml:21:14: ") && text.contains("exact") && text.contains("lavis"), "{text}");
}

#[test]
fn a_missing_key_a_repeated_key_and_broken_yaml_are_named() {
    let text = broken("output: out\n", "").to_string();
    assert!(text.starts_with("run.yaml:") && text.ends_with("missing field `output`"), "{text}");
    let text = broken("seed: 3\n", "seed: 3\nseed: 4\n").to_string();
    assert!(text.starts_with("run.yaml:3:1: ") && text.contains("seed"), "{text}");
    let text = broken("name: sound", "name: [sound").to_string();
    assert!(text.starts_with("run.yaml:") && !text.contains('\n'), "{text}");
    let text = Recipe::parse("run.yaml", "").unwrap_err().to_string();
    assert!(text.starts_with("run.yaml"), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let text = Recipe::read("no/such/recipe.yaml").unwrap_err().to_string();
    assert!(text.starts_with("no/such/recipe.yaml: the recipe can't be read: "), "{text}");
}

/// Every rule: what is written instead of what, the key that is blamed, and words of the sentence.
#[test]
fn every_rule_names_its_key_and_place() {
    let rules = [
        ("name: sound", "name: ' '", "name", "empty"),
        ("output: out", "output: ''", "output", "folder or URL"),
        ("output: out", "output: corpus/web/out", "output", "read as input"),
        ("output: out", "output: ./corpus/../corpus/web", "output", "read as input"),
        ("output: out", "output: s3://bucket/coco/parts", "output", "datasets[1].path"),
        ("seed: 3", "shard_rows: 0", "shard_rows", "1 to 1000000"),
        ("seed: 3", "limits: {max_bytes: 0}", "limits.max_bytes", "at least 1"),
        ("seed: 3", "limits: {max_pixels: 0}", "limits.max_pixels", "at least 1"),
        ("seed: 3", "limits: {max_side: 0}", "limits.max_side", "at least 1"),
        ("seed: 3", "limits: {max_frames: 0}", "limits.max_frames", "at least 1"),
        ("  - name: coco", "  - name: web", "datasets[1].name", "must differ"),
        ("  - name: coco", "  - name: co co", "datasets[1].name", "letters"),
        ("  - name: coco", "  - name: ../coco", "datasets[1].name", "letters"),
        ("    path: corpus/web", "    path: ''", "datasets[0].path", "folder or URL"),
        ("    path: corpus/web", "    path: corpus/web\n    max_rows: 0", "datasets[0].max_rows", "at least 1"),
        ("    path: corpus/web", "    path: corpus/web\n    weight: 0", "datasets[0].weight", "0.001 to 1000"),
        ("    path: corpus/web", "    path: w\n    columns: {image: ''}", "datasets[0].columns.image", "column"),
        ("    path: corpus/web", "    path: w\n    columns: {caption: jpg}", "datasets[0].columns.caption", "`image`"),
        ("    capfilt: false", "    capfilt: false\n  - name: web\n    path: x", "datasets[2].name", "must differ"),
        ("    path: corpus/web", "    path: w\n    images: {paths: ' '}", "datasets[0].images.paths", "relative to"),
        ("    path: corpus/web", "    path: w\n    images: urls", "datasets[0].images", "embed_images: true"),
        (
            "    path: corpus/web",
            "    path: w\n    format: webdataset\n    images: urls",
            "datasets[0].images",
            "tar files",
        ),
        ("seed: 3", "fetch: {concurrency: 0}", "fetch.concurrency", "1 to 1024"),
        ("seed: 3", "fetch: {per_host: 2000}", "fetch.per_host", "1 to 1024"),
        ("seed: 3", "fetch: {connect_timeout_ms: 0}", "fetch.connect_timeout_ms", "at least 1"),
        ("seed: 3", "fetch: {timeout_ms: 0}", "fetch.timeout_ms", "at least 1"),
        ("seed: 3", "fetch: {retries: 21}", "fetch.retries", "at most 20"),
        ("seed: 3", "fetch: {user_agent: ''}", "fetch.user_agent", "visible ASCII"),
        ("seed: 3", "fetch: {allow_private_hosts: ['a:1', 'b']}", "fetch.allow_private_hosts[1]", "host:port"),
        ("seed: 3", "fetch: {allow_private_hosts: ['http://a:1']}", "fetch.allow_private_hosts[0]", "host:port"),
        ("  captioner: models/blip", "  captioner: ''", "capfilt.captioner", "folder"),
        ("  ranker: models/clip", "  ranker: ftp://x/clip", "capfilt.ranker", "hf://"),
        ("  ranker: models/clip", "  ranker: r\n  candidates: 0", "capfilt.candidates", "1 to 1000"),
        ("  ranker: models/clip", "  ranker: r\n  keep: 0", "capfilt.keep", "at least 1"),
        ("  ranker: models/clip", "  ranker: r\n  keep: 11", "capfilt.keep", "only 10"),
        ("  ranker: models/clip", "  ranker: r\n  batch_images: 0", "capfilt.batch_images", "1 to 4096"),
        ("  ranker: models/clip", "  ranker: r\n  filters: {min_score: 1.1}", "capfilt.filters.min_score", "cosine"),
        ("  ranker: models/clip", "  ranker: r\n  filters: {min_score: .nan}", "capfilt.filters.min_score", "cosine"),
        (
            "  ranker: models/clip",
            "  ranker: r\n  filters: {min_margin: -3}",
            "capfilt.filters.min_margin",
            "difference",
        ),
        ("  ranker: models/clip", "  ranker: r\n  filters: {min_words: 0}", "capfilt.filters.min_words", "at least 1"),
        ("  ranker: models/clip", "  ranker: r\n  filters: {max_words: 0}", "capfilt.filters.max_words", "at least 1"),
        (
            "  ranker: models/clip",
            "  ranker: r\n  filters: {min_words: 4, max_words: 3}",
            "capfilt.filters.min_words",
            "max_words, which is 3",
        ),
        (
            "  ranker: models/clip",
            "  ranker: r\n  filters: {languages: [en, english]}",
            "capfilt.filters.languages[1]",
            "ISO 639-1",
        ),
        ("    top_p: 0.9", "    top_p: 0", "capfilt.sampling.top_p", "above 0"),
        ("    top_p: 0.9", "    top_p: 1.5", "capfilt.sampling.top_p", "at most 1"),
        ("    top_p: 0.9", "    top_p: .nan", "capfilt.sampling.top_p", "above 0"),
        ("    top_p: 0.9", "    top_k: 0", "capfilt.sampling.top_k", "at least 1"),
        ("    top_p: 0.9", "    temperature: 0", "capfilt.sampling.temperature", "above 0"),
        ("    top_p: 0.9", "    repetition_penalty: 0", "capfilt.sampling.repetition_penalty", "above 0"),
        ("    top_p: 0.9", "    max_length: 1", "capfilt.sampling.max_length", "at least 2"),
        ("    top_p: 0.9", "    min_length: 21", "capfilt.sampling.min_length", "max_length"),
        ("  image_encoder: models/clip", "  image_encoder: ''", "stage1.image_encoder", "folder"),
        ("  tokenizer: models/bert", "  tokenizer: ftp://x/bert", "stage1.tokenizer", "s3://"),
        ("  batch: 32", "  batch: 2", "stage1.batch", "stage1.ranks, which is 3"),
        ("  batch: 32", "  batch: 1", "stage1.batch", "negative"),
        ("  ranks: 3", "  ranks: 0", "stage1.ranks", "at least 1"),
        ("  ranks: 3", "  ranks: 3\n  checkpoint_every: 0", "stage1.checkpoint_every", "at least 1"),
        ("  ranks: 3", "  ranks: 3\n  max_text_length: 2", "stage1.max_text_length", "[CLS]"),
        ("  ranks: 3", "  ranks: 3\n  max_text_length: 513", "stage1.max_text_length", "512"),
        ("  steps: 3000", "  steps: 0", "stage1.steps", "at least 1"),
        ("    hidden_size: 64", "    hidden_size: 66", "stage1.qformer.hidden_size", "divisible"),
        ("    hidden_size: 64", "    cross_attention_freq: 0", "stage1.qformer.cross_attention_freq", "at least 1"),
        ("    hidden_size: 64", "    hidden_dropout_prob: 1", "stage1.qformer.hidden_dropout_prob", "below 1"),
        ("    warmup_steps: 100", "    warmup_steps: 3001", "stage1.optimiser.warmup_steps", "never be reached"),
        ("    warmup_steps: 100", "    peak_lr: 0", "stage1.optimiser.peak_lr", "above 0"),
        ("    warmup_steps: 100", "    min_lr: 1", "stage1.optimiser.min_lr", "peak_lr"),
        ("    warmup_steps: 100", "    warmup_lr: -1", "stage1.optimiser.warmup_lr", "peak_lr"),
        ("    warmup_steps: 100", "    beta1: 1", "stage1.optimiser.beta1", "below 1"),
        ("    warmup_steps: 100", "    beta2: -0.1", "stage1.optimiser.beta2", "at least 0"),
        ("    warmup_steps: 100", "    epsilon: 0", "stage1.optimiser.epsilon", "above 0"),
        ("    warmup_steps: 100", "    weight_decay: -1", "stage1.optimiser.weight_decay", "at least 0"),
        ("    flip: false", "    min_scale: 0", "stage1.augment.min_scale", "above 0"),
        ("  threads: 1", "  threads: 0", "cluster.threads", "at least 1"),
        ("  threads: 1", "  heartbeat_ms: 0", "cluster.heartbeat_ms", "at least 1"),
        ("  threads: 1", "  attempts: 0", "cluster.attempts", "at least 1"),
        ("  threads: 1", "  lease_ms: 2000", "cluster.lease_ms", "heartbeat_ms"),
        ("  threads: 1", "  min_device_memory_gib: {capfilt: 0}", "cluster.min_device_memory_gib.capfilt", "above 0"),
        ("  threads: 1", "  price: {per_device_hour: -1}", "cluster.price.per_device_hour", "at least 0"),
        (
            "  threads: 1",
            "  price: {per_device_hour: 2, currency: \"per hour\"}",
            "cluster.price.currency",
            "a short word",
        ),
    ];
    each_names_its_key(&rules, broken);
}

#[test]
fn every_rule_of_kubernetes_names_its_key() {
    let rules = [
        ("namespace: My_Space", "namespace", "lower-case"),
        ("namespace: -quern", "namespace", "beginning"),
        ("service_account: ''", "service_account", "names"),
        ("coordinator: quern:7077", "coordinator", "http://HOST:PORT"),
        ("image: ''", "image", "image"),
        ("image: a b", "image", "image"),
        ("capfilt_workers: 0", "capfilt_workers", "1 to 100000"),
        ("resources: {cpu: lots}", "resources.cpu", "500m"),
        ("resources: {cpu: '0'}", "resources.cpu", "500m"),
        ("resources: {memory: 32GB}", "resources.memory", "32Gi"),
        ("resources: {gpus: 2}", "resources.gpus", "more workers"),
        ("node_selector: {a/b/c: x}", "node_selector.a/b/c", "no label"),
        ("node_selector: {zone: a b}", "node_selector.zone", "63"),
        ("tolerations: [{effect: NoSchedule}]", "tolerations[0].key", "operator: Exists"),
        ("tolerations: [{operator: Exists, value: x}]", "tolerations[0].value", "remove"),
        ("tolerations: [{key: a b, value: x}]", "tolerations[0].key", "taint"),
        ("secrets: [ok, Not_ok]", "secrets[1]", "lower-case"),
        ("models: {claim: Models}", "models.claim", "lower-case"),
        ("models: {claim: m, path: models}", "models.path", "absolute"),
        ("models: {claim: m, path: /}", "models.path", "absolute"),
        ("models: {claim: m, path: /tmp/}", "models.path", "where workers write"),
    ];
    for (to, key, words) in rules {
        let error = broken("  threads: 1", &format!("  kubernetes:\n    {to}"));
        assert_eq!(error.key, format!("cluster.kubernetes.{key}"), "{error}");
        assert!(error.message.contains(words), "`{words}` is missing in: {error}");
        assert!(error.place.is_some(), "no place in: {error}");
    }
    let error = broken("  threads: 1", "  kubernetes: {gpus: 1}").to_string();
    assert!(error.contains("gpus") && error.contains("capfilt_workers"), "names what was expected: {error}");
}

#[test]
fn every_rule_of_stage_2_names_its_key() {
    let language_model = "  language_model: models/opt";
    let rules = [
        (language_model, "  language_model: ''", "stage2.language_model", "must name"),
        (language_model, "  language_model: ftp://x/opt", "stage2.language_model", "hf://"),
        ("  batch: 16", "  batch: 16\n  ranks: 17", "stage2.batch", "stage2.ranks, which is 17"),
        ("  batch: 16", "  batch: 16\n  ranks: 0", "stage2.ranks", "at least 1"),
        ("  batch: 16", "  batch: 16\n  checkpoint_every: 0", "stage2.checkpoint_every", "at least 1"),
        ("  batch: 16", "  batch: 16\n  image_size: 0", "stage2.image_size", "at least 1"),
        ("  batch: 16", "  batch: 16\n  max_text_length: 1", "stage2.max_text_length", "a word"),
        ("  batch: 16", "  batch: 16\n  augment: {min_scale: 2}", "stage2.augment.min_scale", "at most 1"),
        ("  batch: 16", "  batch: 16\n  qformer: ''", "stage2.qformer", "checkpoint"),
        ("  batch: 16", "  batch: 16\n  qformer: s3://b/step-7", "stage2.qformer", "of its own"),
        ("  batch: 16", "  batch: 16\n  image_encoder: models/clip", "stage2.image_encoder", "stage 1's"),
        ("  steps: 2500", "  steps: 1999", "stage2.optimiser.warmup_steps", "stage2.steps"),
        ("    peak_lr: 0.001", "    peak_lr: 0.00001", "stage2.optimiser.min_lr", "peak_lr"),
    ];
    each_names_its_key(&rules, |from, to| two_stages(from, to).expect_err(&format!("`{to}` must be refused")));
    for (to, words) in [("t5_gelu: new", "lavis"), ("precision: {qformer: half}", "language_model"), ("lm: x", "batch")]
    {
        let error =
            two_stages("  batch: 16", &format!("  batch: 16\n  {to}")).expect_err("must be refused").to_string();
        assert!(error.contains(words), "`{words}` is missing in: {error}");
    }
}

/// What is done with what both stages trained.
const TASKS: &str = "\
evaluation:
  retrieval:
    dataset: held-out
  caption:
    dataset: s3://bucket/coco-test.parquet
    beams: 3
export:
  to: hf
";

/// Both stages with [`TASKS`], in which `from` is replaced by `to`.
fn with_tasks(from: &str, to: &str) -> Result<Recipe, RecipeError> {
    let all = format!("{SOUND}{STAGE2}{TASKS}");
    assert_eq!(all.matches(from).count(), 1, "`{from}` must occur once in the sound recipe");
    Recipe::parse("run.yaml", &all.replacen(from, to, 1))
}

#[test]
fn every_rule_of_evaluation_and_export_names_its_key() {
    let stage1 = &SOUND[SOUND.find("stage1:").expect("a section")..SOUND.find("cluster:").expect("a section")];
    let coco = "    dataset: s3://bucket/coco-test.parquet";
    let rules = [
        ("    dataset: held-out", "    dataset: ''", "evaluation.retrieval.dataset", "parquet"),
        ("    dataset: held-out", "    dataset: h\n    limit: 0", "evaluation.retrieval.limit", "at least 1"),
        (coco, "    dataset: ' '", "evaluation.caption.dataset", "parquet"),
        (coco, "    dataset: h\n    limit: 0", "evaluation.caption.limit", "at least 1"),
        (coco, "    dataset: h\n    length_penalty: .inf", "evaluation.caption.length_penalty", "a number"),
        (coco, "    dataset: h\n    max_length: 1", "evaluation.caption.max_length", "2 to 4096"),
        (coco, "    dataset: h\n    min_length: 31", "evaluation.caption.min_length", "which is 30"),
        (coco, "    dataset: h\n    repetition_penalty: 0", "evaluation.caption.repetition_penalty", "above 0"),
        ("    beams: 3", "    beams: 65", "evaluation.caption.beams", "1 to 64"),
        (STAGE2, "", "evaluation.caption", "`stage2` section"),
        ("  to: hf", "  to: hf\n  safetensors: true", "export.safetensors", "remove the key"),
        ("  to: hf", "  to: lavis\n  part: qformer", "export.part", "one form"),
        ("  to: hf", "  to: hf\n  part: qformer", "export.part", "language model"),
        ("  to: hf", "  to: hf\n  max_shard_bytes: 0", "export.max_shard_bytes", "at least 1"),
    ];
    each_names_its_key(&rules, |from, to| with_tasks(from, to).expect_err(&format!("`{to}` must be refused")));
    for (to, words) in
        [("to: onnx", "one of hf, lavis"), ("form: hf", "max_shard_bytes"), ("to: hf\n  part: half", "qformer")]
    {
        let error = with_tasks("  to: hf", &format!("  {to}")).expect_err("must be refused").to_string();
        assert!(error.contains(words) && error.starts_with("run.yaml:"), "`{words}` is missing in: {error}");
    }

    let without = |left_out: &str, tasks: &str| {
        Recipe::parse("run.yaml", &(SOUND.replacen(left_out, "", 1) + tasks)).expect_err("must be refused")
    };
    let error = without(stage1, "export: {to: lavis}");
    assert!(error.key == "export" && error.message.contains("nothing is trained"), "{error}");
    let error = without(stage1, "evaluation: {retrieval: {dataset: h}}");
    assert!(error.key == "evaluation" && error.message.contains("nothing is trained"), "{error}");
    let error = without("", "evaluation: {}");
    assert!(error.key == "evaluation" && error.message.contains("`retrieval` or `caption`"), "{error}");
    let alone = "stage2: {language_model: o, batch: 4, steps: 2000, qformer: q, image_encoder: e}\n";
    let error = without(stage1, &format!("{alone}evaluation: {{retrieval: {{dataset: h}}}}"));
    assert!(error.key == "evaluation.retrieval" && error.message.contains("`stage1` section"), "{error}");
}

#[test]
fn tasks_have_the_commands_defaults_and_are_part_of_the_hash() {
    let recipe = with_tasks("name: sound", "name: sound").expect("sound");
    let evaluation = recipe.evaluation.as_ref().expect("an evaluation");
    let (retrieval, caption) = (evaluation.retrieval.as_ref().unwrap(), evaluation.caption.as_ref().unwrap());
    assert_eq!((retrieval.limit, retrieval.rerank), (None, 128));
    assert_eq!((caption.prompt.as_ref(), caption.beams, caption.max_length, caption.min_length), (None, 3, 30, 1));
    assert_eq!((caption.length_penalty, caption.repetition_penalty), (1.0, 1.0));
    let export = recipe.export.as_ref().expect("an export");
    assert_eq!((export.to, export.part), (ExportTarget::Hf, ExportPart::Whole));
    assert_eq!((export.safetensors, export.max_shard_bytes), (false, 5_000_000_000));

    let paths: Vec<String> = recipe
        .resolve(Path::new("/r"))
        .evaluation
        .expect("an evaluation")
        .datasets()
        .map(|(_, path)| path.clone())
        .collect();
    assert_eq!(paths, ["/r/held-out", "s3://bucket/coco-test.parquet"]);
    assert_eq!(Recipe::from_json(&recipe.to_json()).expect("what was written"), recipe);
    assert_eq!(recipe.resolve(Path::new("/r")).hash(), recipe.hash(), "where it lies is not in it");
    let plain = Recipe::parse("run.yaml", &format!("{SOUND}{STAGE2}")).expect("sound");
    for (from, to) in [("held-out", "other"), ("beams: 3", "beams: 2"), ("to: hf", "to: lavis")] {
        let other = with_tasks(from, to).expect("sound");
        assert!(other.hash() != recipe.hash() && other.hash() != plain.hash(), "{to}");
    }
}

#[test]
fn stage_2_alone_names_its_checkpoint_and_encoder() {
    let alone = |keys: &str| {
        let head = "name: x\noutput: o\ndatasets:\n  - {name: w, path: w, capfilt: false}\n";
        let stage2 = format!("stage2: {{language_model: models/t5, batch: 4, steps: 2000{keys}}}\n");
        Recipe::parse("run.yaml", &(head.to_string() + &stage2))
    };
    let error = alone("").expect_err("nothing to start from");
    assert!(error.key == "stage2" && error.message.contains("`stage2.qformer`"), "{error}");
    let error = alone(", qformer: out/step-10").expect_err("no encoder");
    assert!(error.key == "stage2" && error.message.contains("`stage2.image_encoder`"), "{error}");
    let recipe = alone(", qformer: out/step-10, image_encoder: models/clip, t5_gelu: lavis").expect("complete");
    let resolved = recipe.resolve(Path::new("/r")).stage2.expect("stage 2");
    let paths =
        [Some(resolved.language_model.as_str()), resolved.qformer.as_deref(), resolved.image_encoder.as_deref()];
    assert_eq!(paths, [Some("/r/models/t5"), Some("/r/out/step-10"), Some("/r/models/clip")]);
    assert_eq!(resolved.t5_gelu, T5Gelu::Lavis);
}

#[test]
fn an_earlier_runs_captions_stand_in_for_capfilt() {
    let with = |more: &str| {
        let head = "name: x\noutput: o\ndatasets:\n  - {name: w, path: w}\n";
        let stage1 = "stage1: {image_encoder: e, tokenizer: t, batch: 4, steps: 2000}\n";
        Recipe::parse("run.yaml", &format!("{head}{more}").replace("STAGE1", stage1))
    };
    let recipe = with("captions: ../kept\nSTAGE1").expect("sound").resolve(Path::new("/r/s"));
    assert_eq!(recipe.captioned(), "/r/kept");
    let mut moved = recipe.clone();
    moved.captions = Some("s3://bucket/kept".into());
    assert_eq!(moved.hash(), recipe.hash());
    moved.captions = Some("s3://bucket/raw".into());
    assert_ne!(moved.hash(), recipe.hash());
    for (more, words) in [
        ("captions: ''\nSTAGE1", "earlier run"),
        ("captions: o/kept\nSTAGE1", "within each other"),
        ("captions: k\ncapfilt: {captioner: b, ranker: c}\nSTAGE1", "remove one"),
        ("captions: k\n", "nothing is trained"),
    ] {
        let error = with(more).expect_err(words);
        assert!(error.key == "captions" && error.message.contains(words), "`{words}` is missing in: {error}");
    }
}

#[test]
fn stage_2_has_the_papers_defaults() {
    let recipe = two_stages("  batch: 16", "  batch: 16").expect("sound");
    let stage2 = recipe.stage2.as_ref().expect("stage 2");
    let optimiser = stage2.optimiser;
    assert_eq!((optimiser.peak_lr, optimiser.min_lr, optimiser.warmup_steps), (1e-3, 5e-5, 2000));
    assert_eq!(stage2.precision.language_model, Precision::Auto);
    assert_eq!((stage2.max_text_length, stage2.prompt.as_str(), stage2.recompute), (32, "", false));
    let without = two_stages("  optimiser:\n    peak_lr: 0.001\n", "").expect("sound");
    assert_eq!(without.stage2.expect("stage 2").optimiser.min_lr, 5e-5);
}

#[test]
fn a_rule_points_at_the_value_or_its_section() {
    assert!(broken("  batch: 32", "  batch: 2").to_string().starts_with("run.yaml:18:10: `stage1.batch`: is 2, "));
    let no_section = "name: x\noutput: out\ndatasets:\n  - name: web\n    path: web\n";
    let text = Recipe::parse("run.yaml", no_section).unwrap_err().to_string();
    assert!(text.starts_with("run.yaml:4:5: `datasets[0].capfilt`: is true (the default), "), "{text}");
    let empty = Recipe::parse("run.yaml", "name: x\noutput: out\ndatasets: []\n").unwrap_err();
    assert_eq!(empty.to_string(), "run.yaml:3:11: `datasets`: must list at least one data set");
    let unused =
        "name: x\noutput: o\ndatasets:\n  - {name: w, path: w, capfilt: false}\ncapfilt: {captioner: b, ranker: c}\n";
    assert_eq!(Recipe::parse("run.yaml", unused).unwrap_err().key, "capfilt");
}

#[test]
fn relative_paths_resolve_against_the_recipes_folder_and_urls_stay() {
    let folder = tempfile::tempdir().unwrap();
    let recipes = folder.path().join("recipes");
    std::fs::create_dir(&recipes).unwrap();
    let yaml = SOUND.replace("output: out", "output: ../out/./run").replace("models/bert", "/models/bert");
    std::fs::write(recipes.join("run.yaml"), yaml).unwrap();
    let recipe = Recipe::read(recipes.join("run.yaml")).unwrap();
    let root = folder.path().canonicalize().unwrap();
    let below = |path: &str| root.join(path).display().to_string();
    assert_eq!(recipe.output, below("out/run"));
    assert_eq!(recipe.datasets[0].path, below("recipes/corpus/web"));
    assert_eq!(recipe.datasets[1].path, "s3://bucket/coco");
    assert_eq!(recipe.capfilt.as_ref().unwrap().captioner, below("recipes/models/blip"));
    let stage1 = recipe.stage1.as_ref().unwrap();
    assert_eq!(
        (stage1.image_encoder.as_str(), stage1.tokenizer.as_str()),
        (below("recipes/models/clip").as_str(), "/models/bert")
    );
}

#[test]
fn json_carries_the_whole_recipe_and_is_checked() {
    let recipe = sound();
    assert_eq!(Recipe::from_json(&recipe.to_json()).unwrap(), recipe);
    let wrong = recipe.to_json().replace("\"batch\":32", "\"batch\":1");
    assert_eq!(Recipe::from_json(&wrong).unwrap_err().key, "stage1.batch");
    assert!(Recipe::from_json("{").is_err());
}

#[test]
fn the_hash_covers_the_method_and_nothing_else() {
    let base = sound();
    let hash_with = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = base.clone();
        change(&mut recipe);
        assert_ne!(recipe, base, "the change must change something");
        recipe.hash()
    };
    let without_effect: [&dyn Fn(&mut Recipe); 13] = [
        &|r| r.name = "another".into(),
        &|r| r.output = "s3://elsewhere".into(),
        &|r| r.datasets[0].path = "/mnt/web".into(),
        &|r| r.capfilt.as_mut().unwrap().captioner = "/mnt/models/blip/".into(),
        &|r| r.stage1.as_mut().unwrap().tokenizer = "elsewhere/bert".into(),
        &|r| r.stage1.as_mut().unwrap().ranks = 2,
        &|r| r.stage1.as_mut().unwrap().checkpoint_every = 7,
        &|r| r.cluster.lease_ms += 1,
        &|r| r.cluster.attempts += 1,
        &|r| r.cluster.worker_failures += 1,
        &|r| r.cluster.min_device_memory_gib.stage1 = Some(40.0),
        &|r| r.cluster.price = Some(Price { per_device_hour: 2.5, currency: "EUR".into() }),
        &|r| r.cluster.kubernetes = Some(Default::default()),
    ];
    for (index, change) in without_effect.iter().enumerate() {
        assert_eq!(hash_with(change), base.hash(), "change {index} does not touch the result");
    }
    let with_effect: [&dyn Fn(&mut Recipe); 15] = [
        &|r| r.seed += 1,
        &|r| r.shard_rows += 1,
        &|r| r.limits.max_side -= 1,
        &|r| r.limits.max_frames -= 1,
        &|r| r.datasets[0].name = "net".into(),
        &|r| r.datasets[0].columns.caption = "txt".into(),
        &|r| r.datasets.swap(0, 1),
        &|r| r.capfilt.as_mut().unwrap().captioner = "models/blip-large".into(),
        &|r| r.capfilt.as_mut().unwrap().sampling.top_p = 0.8,
        &|r| r.capfilt.as_mut().unwrap().filters.min_score = Some(0.2),
        &|r| r.capfilt.as_mut().unwrap().filters.dedup = Some(Dedup::Shard),
        &|r| r.capfilt = None,
        &|r| r.stage1.as_mut().unwrap().semantics = Semantics::Lavis,
        &|r| r.stage1.as_mut().unwrap().optimiser.beta2 = 0.999,
        &|r| r.cluster.threads += 1,
    ];
    let mut hashes = vec![base.hash()];
    for (index, change) in with_effect.iter().enumerate() {
        let hash = hash_with(change);
        assert!(!hashes.contains(&hash), "change {index} touches the result");
        hashes.push(hash);
    }
    let mut lavis = base.clone();
    lavis.stage1.as_mut().unwrap().semantics = Semantics::Lavis;
    let three_ranks = lavis.hash();
    lavis.stage1.as_mut().unwrap().ranks = 2;
    assert_ne!(lavis.hash(), three_ranks, "LAVIS' means are per rank, so there the number of ranks is method");
}

#[test]
fn the_usual_number_of_frames_is_not_written() {
    let with = |limits: &str| Recipe::parse("run.yaml", &format!("{SOUND}limits: {limits}\n")).expect("a sound recipe");
    assert_eq!(with("{max_frames: 1000}").hash(), sound().hash());
    assert!(!sound().to_json().contains("max_frames"), "older workers read such a recipe");
    let few = with("{max_frames: 2}");
    assert_eq!(Recipe::from_json(&few.to_json()).expect("a sound recipe").limits.max_frames, 2);
}

#[test]
fn filters_that_filter_nothing_are_none() {
    let with = |filters: &str| {
        let text = SOUND.replacen("  ranker: models/clip", &format!("  ranker: models/clip\n  filters: {filters}"), 1);
        Recipe::parse("run.yaml", &text).unwrap()
    };
    for nothing in ["{}", "{min_score: null, dedup: null}", "{languages: []}"] {
        assert_eq!(with(nothing), sound());
        assert_eq!(with(nothing).hash(), sound().hash());
    }
    assert!(!serde_json::to_string(&sound()).unwrap().contains("filters"), "older workers read such a recipe");
    let filters =
        with("{min_score: 0.25, min_margin: -0.5, dedup: shard, min_words: 2, max_words: 2}").capfilt.unwrap().filters;
    assert_eq!((filters.min_score, filters.min_margin, filters.max_words), (Some(0.25), Some(-0.5), Some(2)));
    assert_eq!(filters.dedup, Some(Dedup::Shard));
    let english = with("{languages: [en]}");
    assert_eq!(english.capfilt.as_ref().unwrap().filters.languages, ["en"]);
    assert_ne!(english.hash(), sound().hash());
}

#[test]
fn stage_2_is_in_the_hash_but_for_where_and_how_it_is_carried_out() {
    let base = two_stages("  batch: 16", "  batch: 16").expect("sound");
    assert_ne!(base.hash(), sound().hash());
    let hash_with = |change: &dyn Fn(&mut quern_recipes::Stage2)| {
        let mut recipe = base.clone();
        change(recipe.stage2.as_mut().expect("stage 2"));
        assert_ne!(recipe, base, "the change must change something");
        recipe.hash()
    };
    let without_effect: [&dyn Fn(&mut quern_recipes::Stage2); 4] =
        [&|s| s.language_model = "/mnt/opt".into(), &|s| s.ranks = 4, &|s| s.recompute = true, &|s| {
            s.checkpoint_every = 9
        }];
    assert!(without_effect.iter().all(|change| hash_with(change) == base.hash()));
    let with_effect: [&dyn Fn(&mut quern_recipes::Stage2); 5] = [
        &|s| s.language_model = "models/t5".into(),
        &|s| s.prompt = "a photo of".into(),
        &|s| s.t5_gelu = T5Gelu::Lavis,
        &|s| s.precision.language_model = Precision::Half,
        &|s| s.image_size = Some(364),
    ];
    assert!(with_effect.iter().all(|change| hash_with(change) != base.hash()));
}

#[test]
fn images_by_path_and_url_are_in_the_hash_but_for_where_they_are_and_how_they_are_fetched() {
    let with = |images: &str, fetch: &str| {
        let images = format!("    path: corpus/web\n    {images}\n");
        let text = SOUND.replacen("    path: corpus/web\n", &images, 1).replacen(
            "  ranker:",
            "  embed_images: true\n  ranker:",
            1,
        );
        Recipe::parse("run.yaml", &format!("{text}fetch: {fetch}\n")).expect("a sound recipe")
    };
    let bytes = with("images: bytes", "{}");
    assert_eq!(bytes.hash(), with("columns: {}", "{}").hash());
    assert!(!bytes.to_json().contains("fetch") && !bytes.to_json().contains("images\":\"bytes"), "{}", bytes.to_json());
    let paths = with("images: {paths: pictures}", "{}");
    let urls = with("images: urls", "{}");
    assert_eq!(paths.resolve(Path::new("/r")).datasets[0].images, Images::Paths("/r/pictures".into()));
    assert_eq!(paths.hash(), paths.resolve(Path::new("/r")).hash());
    let knobs = "{concurrency: 1, per_host: 1, retries: 0, timeout_ms: 1, connect_timeout_ms: 1, user_agent: me/1,
      allow_private_hosts: ['10.0.0.1:80', '[::1]:8080', 'images.internal:8080']}";
    assert_eq!(urls.hash(), with("images: urls", knobs).hash());
    let deaf = with("images: urls", "{honour_opt_out: false}");
    let tars = with("format: webdataset", "{}");
    let hashes = [&bytes, &paths, &urls, &deaf, &tars].map(Recipe::hash);
    assert!((1..hashes.len()).all(|index| !hashes[..index].contains(&hashes[index])), "{hashes:?}");
    for recipe in [paths, urls, deaf, tars] {
        assert_eq!(Recipe::from_json(&recipe.to_json()).unwrap(), recipe);
    }
}

#[test]
fn images_may_be_carried_along_smaller() {
    let with = |embed: &str| {
        Recipe::parse("run.yaml", &SOUND.replacen("  ranker:", &format!("  embed_images: {embed}\n  ranker:"), 1))
    };
    let shrunk = with("{max_side: 384}").unwrap();
    let embed = shrunk.capfilt.as_ref().unwrap().embed_images;
    assert_eq!(embed, quern_recipes::EmbedImages::Shrunk(quern_recipes::Shrink { max_side: 384, quality: 90 }));
    assert_eq!(Recipe::from_json(&shrunk.to_json()).unwrap(), shrunk);
    let hashes = ["false", "true", "{max_side: 384}", "{max_side: 384, quality: 80}"].map(|e| with(e).unwrap().hash());
    assert!((1..4).all(|index| !hashes[..index].contains(&hashes[index])), "{hashes:?}");
    assert_eq!(hashes[0], sound().hash());
    for (wrong, said) in [
        ("{max_side: 8}", "16 to 16384"),
        ("{max_side: 384, quality: 0}", "1 to 100"),
        ("{side: 384}", "max_side"),
        ("sometimes", "max_side"),
    ] {
        let error = with(wrong).unwrap_err().to_string();
        assert!(error.contains("embed_images") && error.contains(said), "{wrong}: {error}");
    }
}

/// A URL with a password is no base for paths, either.
#[test]
fn a_base_of_paths_holds_no_secret() {
    let error = broken("    path: corpus/web", "    path: w\n    images: {paths: 'https://ann:hush@host/'}");
    assert_eq!(error.key, "datasets[0].images.paths");
    assert!(!error.to_string().contains("hush"), "{error}");
}

/// Journals and parts in the field carry this hash: a change here orphans them, and needs a note in CHANGELOG.
#[test]
fn the_hash_is_stable_across_versions() {
    assert_eq!(sound().hash(), "2cd70747a21f7c76e6625a5a5be7ad20ac8026fe20b7e4a37542b06e09abdd16");
}
