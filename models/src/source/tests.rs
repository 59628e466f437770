use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
use server::{Request, Response, Server};

pub(super) mod server;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";
/// Tells a test that it is its own child process, and what it should find.
pub(super) const CHILD: &str = "QUERN_TEST_CHILD";

type Content = BTreeMap<&'static str, Vec<u8>>;

fn content(files: &[(&'static str, &str)]) -> Content {
    files.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())).collect()
}

/// `/owner/name/resolve/<revision>/<file>` as the Hub answers it.
fn hub_answer(files: &Content, request: &Request) -> Response {
    let not_found =
        || Response::new("404 Not Found", b"").header("X-Error-Code", "EntryNotFound").header("X-Repo-Commit", COMMIT);
    let Some(path) = request.path.strip_prefix("/owner/name/resolve/") else {
        return Response::new("404 Not Found", b"").header("X-Error-Code", "RepoNotFound");
    };
    let file = path.split_once('/').and_then(|(_, file)| files.get(file));
    let Some(body) = file else { return not_found() };
    let tag = format!("\"{:016x}\"", body.iter().fold(7u64, |sum, &byte| sum.wrapping_mul(31) + u64::from(byte)));
    if request.headers.get("if-none-match") == Some(&tag) {
        return Response::new("304 Not Modified", b"").header("ETag", tag).header("X-Repo-Commit", COMMIT);
    }
    Response::new("200 OK", body).header("ETag", tag).header("X-Repo-Commit", COMMIT)
}

fn hub(files: &[(&'static str, &str)]) -> Server {
    let files = content(files);
    Server::start(move |request| hub_answer(&files, request))
}

fn environment(server: &Server, folder: &TempDir) -> Environment {
    Environment {
        endpoint: Some(server.url.clone()),
        hub_cache: Some(folder.path().join("hub")),
        offline: false,
        model_cache: folder.path().join("models"),
    }
}

fn everything(text: &str, environment: &Environment) -> Result<PathBuf, SourceError> {
    ModelSource::parse(text)?.fetch_with(environment, Wanted::Everything)
}

fn message(result: Result<PathBuf, SourceError>, parts: &[&str]) {
    let text = result.expect_err("an error").to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

fn gets(server: &Server) -> Vec<String> {
    server.asked().iter().filter_map(|line| line.strip_prefix("GET ")).map(String::from).collect()
}

const MODEL: [(&str, &str); 4] = [
    ("config.json", "{}"),
    ("tokenizer.json", "{\"a\": 1}"),
    ("model.safetensors", "weights"),
    ("pytorch_model.bin", "the same weights"),
];

#[test]
fn the_three_forms_are_told_apart() {
    let hub = |revision: Option<&str>| ModelSource::Hub {
        owner: "Salesforce".into(),
        name: "blip".into(),
        revision: revision.map(String::from),
    };
    assert_eq!(ModelSource::parse("hf://Salesforce/blip").unwrap(), hub(None));
    assert_eq!(ModelSource::parse("hf://Salesforce/blip@v1").unwrap(), hub(Some("v1")));
    assert_eq!(ModelSource::parse("models/blip").unwrap(), ModelSource::Local("models/blip".into()));
    assert_eq!(ModelSource::parse("file:///models/blip").unwrap(), ModelSource::Local("/models/blip".into()));
    assert!(matches!(ModelSource::parse("s3://bucket/models/blip").unwrap(), ModelSource::Store(_)));
    for text in ["", "hf://blip", "hf://a/b/c", "hf://a/b@", "hf:///b", "nowhere://a/b"] {
        message(ModelSource::parse(text).and_then(|source| source.fetch()), &["hf://owner/name[@revision]"]);
    }
}

#[test]
fn a_local_folder_is_itself_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    assert_eq!(fetch(&path).unwrap(), folder.path());
    message(fetch(&format!("{path}/blip")), &["there is no", "/blip"]);
}

/// The layout is the one that `huggingface_hub` reads: blobs by tag, snapshots by commit, refs.
#[test]
fn a_repository_comes_into_the_cache_that_python_shares() {
    let (server, folder) = (hub(&MODEL), tempfile::tempdir().unwrap());
    let environment = environment(&server, &folder);
    let model = everything("hf://owner/name", &environment).unwrap();
    let cache = folder.path().join("hub/models--owner--name");
    assert_eq!(model, cache.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(model.join("model.safetensors")).unwrap(), "weights");
    assert!(fs::read_link(model.join("config.json")).unwrap().starts_with("../../blobs"));
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), COMMIT);
    let fetched = gets(&server);
    assert!(!fetched.iter().any(|path| path.ends_with("pytorch_model.bin")), "{fetched:?}");
    assert_eq!(fetched.len(), 3);
    assert_eq!(everything("hf://owner/name", &environment).unwrap(), model);
    assert_eq!(gets(&server), [""; 0], "all is there already");
}

#[test]
fn a_revision_is_asked_for_and_then_its_commit() {
    let (server, folder) = (hub(&MODEL), tempfile::tempdir().unwrap());
    everything("hf://owner/name@v1", &environment(&server, &folder)).unwrap();
    let asked = server.asked();
    assert_eq!(asked[0], "HEAD /owner/name/resolve/v1/config.json");
    let later = format!("GET /owner/name/resolve/{COMMIT}/model.safetensors");
    assert!(asked.contains(&later), "{asked:?}");
}

#[test]
fn a_tokenizer_needs_no_weights() {
    let (server, folder) = (hub(&MODEL), tempfile::tempdir().unwrap());
    let source = ModelSource::parse("hf://owner/name").unwrap();
    source.fetch_with(&environment(&server, &folder), Wanted::Settings).unwrap();
    assert!(!server.asked().iter().any(|line| line.contains("safetensors")));
}

#[test]
fn shards_are_fetched_as_the_index_lists_them() {
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}"#;
    let files = [("model.safetensors.index.json", index), ("one.safetensors", "1"), ("two.safetensors", "2")];
    let folder = tempfile::tempdir().unwrap();
    let whole = hub(&files);
    let model = everything("hf://owner/name", &environment(&whole, &folder)).unwrap();
    assert_eq!(fs::read_to_string(model.join("two.safetensors")).unwrap(), "2");
    let (broken, other) = (hub(&files[..2]), tempfile::tempdir().unwrap());
    message(everything("hf://owner/name", &environment(&broken, &other)), &["two.safetensors", "index.json lists"]);
}

#[test]
fn offline_means_the_cache_or_a_clear_error() {
    let (server, folder) = (hub(&MODEL), tempfile::tempdir().unwrap());
    let online = environment(&server, &folder);
    let offline = Environment { offline: true, ..online.clone() };
    message(everything("hf://owner/name", &offline), &["HF_HUB_OFFLINE", "hf://owner/name", "model.safetensors"]);
    let model = everything("hf://owner/name", &online).unwrap();
    server.asked();
    assert_eq!(everything("hf://owner/name", &offline).unwrap(), model);
    assert_eq!(server.asked(), [""; 0]);
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let (server, folder) = (hub(&MODEL[..2]), tempfile::tempdir().unwrap());
    let environment = environment(&server, &folder);
    message(everything("hf://owner/name", &environment), &["hf://owner/name has no model.safetensors"]);
    message(everything("hf://owner/other", &environment), &["hf://owner/other", "is the name right"]);
}

#[test]
fn a_download_that_breaks_off_leaves_nothing_that_is_read() {
    let (files, folder) = (content(&MODEL), tempfile::tempdir().unwrap());
    let broken = Arc::new(AtomicBool::new(true));
    let breaks = broken.clone();
    let server = Server::start(move |request| {
        let weights = request.path.ends_with("model.safetensors");
        let breaks_after = (weights && breaks.load(Ordering::Relaxed)).then_some(3);
        Response { breaks_after, ..hub_answer(&files, request) }
    });
    let environment = environment(&server, &folder);
    message(everything("hf://owner/name", &environment), &["model.safetensors", "hf://owner/name"]);
    let model = folder.path().join("hub/models--owner--name/snapshots").join(COMMIT);
    assert!(model.join("config.json").exists() && !model.join("model.safetensors").exists());
    broken.store(false, Ordering::Relaxed);
    everything("hf://owner/name", &environment).unwrap();
    assert_eq!(fs::read_to_string(model.join("model.safetensors")).unwrap(), "weights");
}

/// Runs `test` in a process of its own, since variables belong to a process; whether it passed, and what it said.
pub(super) fn again(test: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        if ["HF_", "AWS_", "HUGGINGFACE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            child.env_remove(name);
        }
    }
    let output = child.args(["--exact", test, "--nocapture"]).envs(variables.iter().copied()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_environment_is_honoured() {
    if let Ok(expected) = std::env::var(CHILD) {
        let found = fetch("hf://owner/name");
        return assert_eq!(found.map_err(|error| error.to_string()).unwrap(), Path::new(&expected));
    }
    let files = content(&MODEL);
    let server = Server::start(move |request| match request.headers.get("authorization") {
        Some(header) if *header == format!("Bearer {TOKEN}") => hub_answer(&files, request),
        _ => Response::new("401 Unauthorized", b"").header("X-Error-Message", "who are you?"),
    });
    let folder = tempfile::tempdir().unwrap();
    let run = |home: &str, variables: &[(&str, &str)]| {
        let home = folder.path().join(home);
        fs::create_dir_all(&home).unwrap();
        let expected = home.join("hub/models--owner--name/snapshots").join(COMMIT).display().to_string();
        let home = home.display().to_string();
        let own = [(CHILD, expected.as_str()), ("HF_HOME", &home), ("HF_ENDPOINT", &server.url)];
        again("source::tests::the_environment_is_honoured", &[&own, variables].concat())
    };
    let (done, said) = run("without", &[]);
    assert!(!done && said.contains("who are you?"), "{said}");
    assert!(run("variable", &[("HF_TOKEN", TOKEN)]).0);
    fs::create_dir_all(folder.path().join("file")).unwrap();
    fs::write(folder.path().join("file/token"), TOKEN).unwrap();
    assert!(run("file", &[]).0, "the token file of HF_HOME");
    server.asked();
    assert!(run("file", &[("HF_HUB_OFFLINE", "1")]).0, "from the cache");
    assert_eq!(server.asked(), [""; 0]);
}
