//! `quern` at the terminal: what each command prints and how it ends. `quern-worker` is a script here, so that no test
//! needs libtorch; the real one is tested in tests/cluster.

mod plan;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A folder with `quern` in it, and whatever stands for `quern-worker`.
struct Installation {
    folder: TempDir,
}

impl Installation {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let binary = folder.path().join("quern");
        let built = env!("CARGO_BIN_EXE_quern");
        fs::hard_link(built, &binary).or_else(|_| fs::copy(built, &binary).map(drop)).expect("quern is installed");
        Installation { folder }
    }

    /// With a shell script as `quern-worker`.
    fn with_worker(script: &str) -> Self {
        let installation = Self::new();
        let worker = installation.path("quern-worker");
        fs::write(&worker, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("executable");
        installation
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("quern"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn quern(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("quern starts")
    }

    /// A recipe over a small corpus that is passed through: no model is needed to plan it.
    fn recipe(&self) -> PathBuf {
        let synth = self.quern(&["corpus", "synth", "--rows", "20", "--out", "corpus"]);
        assert!(synth.status.success(), "{}", errors(&synth));
        let recipe = "name: small\noutput: out\ndatasets:\n  - {name: web, path: corpus, capfilt: false}\n";
        let file = self.path("small.yaml");
        fs::write(&file, recipe).expect("written");
        file
    }
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn synth_writes_the_same_bytes_for_the_same_seed_only() {
    let here = Installation::new();
    let write = |seed: &str, out: &str| {
        let output = here.quern(&["corpus", "synth", "--rows", "120", "--seed", seed, "--out", out]);
        assert!(output.status.success(), "{}", errors(&output));
        assert!(printed(&output).starts_with(&format!("{out}: 120 rows in 1 file; ")), "{}", printed(&output));
        fs::read(here.path(out).join("00000.parquet")).expect("a parquet file")
    };
    let first = write("3", "a");
    assert_eq!(first, write("3", "b"));
    assert_ne!(first, write("4", "c"));
}

#[test]
fn wrong_usage_and_wrong_input_end_with_2() {
    let here = Installation::new();
    for arguments in [
        &["corpus", "synth", "--rows", "many", "--out", "x"][..],
        &["corpus", "synth", "--junk", "1.5", "--out", "x"],
        &["corpus", "synth", "--distinct-captions", "--out", "x"],
        &["status", "--coordinator", "no-url"],
        &["run", "missing.yaml"],
        &["grind"],
    ] {
        let output = here.quern(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", errors(&output));
    }
}

#[test]
fn a_missing_companion_is_named_with_its_path() {
    let here = Installation::new();
    let expected = here.path("quern-worker").display().to_string();
    for arguments in [
        &["worker", "--coordinator", "http://x"][..],
        &["eval", "retrieval"],
        &["caption", "cat.jpg"],
        &["export", "a"],
    ] {
        let output = here.quern(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(errors(&output).contains(&expected) && errors(&output).contains("make build"), "{}", errors(&output));
    }
    let doctor = here.quern(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(
        printed(&doctor).lines().next().is_some_and(|line| line.starts_with("quern-worker  MISSING")),
        "{}",
        printed(&doctor)
    );
}

#[test]
fn the_companion_takes_over_with_all_arguments_and_its_own_end() {
    let here = Installation::with_worker("echo \"$@\"; exit 7");
    let worker = here.quern(&["worker", "--coordinator", "http://x:1", "--device", "cuda:1"]);
    assert_eq!(
        (printed(&worker).trim(), worker.status.code()),
        ("run --coordinator http://x:1 --device cuda:1", Some(7))
    );
    let eval = here.quern(&["eval", "retrieval", "--help"]);
    assert_eq!((printed(&eval).trim(), eval.status.code()), ("eval retrieval --help", Some(7)));
    let caption = here.quern(&["caption", "--checkpoint", "s2", "--prompt", "Question: what? Answer:", "-h", "a.jpg"]);
    let handed_on = "caption --checkpoint s2 --prompt Question: what? Answer: -h a.jpg";
    assert_eq!((printed(&caption).trim(), caption.status.code()), (handed_on, Some(7)));
    let export = here.quern(&["export", "--to", "hf", "a", "b"]);
    assert_eq!((printed(&export).trim(), export.status.code()), ("export --to hf a b", Some(7)));
}

#[test]
fn doctor_shows_what_the_companion_found() {
    let found = r#"echo '{"torch": {"path": "/l/libtorch_cpu.so", "version": "2.11.0"}, "cuda_devices": [], "nccl": {"path": "/l/libnccl.so", "version": "2.28.9"}, "error": null}'"#;
    let output = Installation::with_worker(found).quern(&["doctor"]);
    assert!(output.status.success(), "{}{}", printed(&output), errors(&output));
    let table = printed(&output);
    for expected in [
        "libtorch      ok       2.11.0 at /l/libtorch_cpu.so",
        "2.28.9 at /l/libnccl.so",
        "cores",
        "memory",
        "disk",
        "s3://",
        "gs://",
        "az://",
    ] {
        assert!(table.contains(expected), "`{expected}` is missing in\n{table}");
    }
    let broken =
        Installation::with_worker("echo 'error while loading shared libraries: libtorch_cpu.so' >&2; exit 127");
    let output = broken.quern(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed(&output).contains("libtorch_cpu.so") && printed(&output).contains("make setup"),
        "{}",
        printed(&output)
    );
}

#[test]
fn credentials_are_found_but_never_shown() {
    let here = Installation::with_worker(r#"echo '{"torch": {"path": "/l", "version": "2.11.0"}}'"#);
    let mut command = here.command(&["doctor"]);
    command.env("AWS_ACCESS_KEY_ID", "AKIASECRET").env("AWS_SECRET_ACCESS_KEY", "hush");
    let table = printed(&command.output().expect("quern starts"));
    assert!(table.contains("credentials from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"), "{table}");
    assert!(!table.contains("AKIASECRET") && !table.contains("hush"), "{table}");
}

#[test]
fn more_ranks_than_workers_and_missing_models_are_said_before_anything_starts() {
    let here = Installation::with_worker("exit 1");
    let stage1 = "name: x\noutput: out\ndatasets: [{name: w, path: corpus, capfilt: false}]\n\
                  stage1: {image_encoder: models/clip, tokenizer: models/bert, batch: 8, steps: 10, ranks: 2, optimiser: {warmup_steps: 1}}\n";
    fs::write(here.path("stage1.yaml"), stage1).expect("written");
    let output = here.quern(&["run", "stage1.yaml", "--workers", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("`stage1.ranks` is 2, but --workers is 1"), "{}", errors(&output));
    let output = here.quern(&["run", "stage1.yaml", "--workers", "2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors(&output).contains("`stage1.image_encoder`") && errors(&output).contains("models/clip"),
        "{}",
        errors(&output)
    );
    assert!(!here.path("out.journal.sqlite").exists(), "nothing was started");
}

#[test]
fn workers_that_keep_crashing_end_the_run_with_their_last_words() {
    let here = Installation::with_worker("echo \"$@\" >> \"$0.calls\"; echo 'the oracle is out of ink' >&2; exit 9");
    let recipe = here.recipe();
    let output = here.quern(&["run", recipe.to_str().expect("UTF-8"), "--workers", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("the oracle is out of ink"), "{}", errors(&output));
    let calls = text_of(&here.path("quern-worker.calls"));
    assert_eq!(calls.lines().count(), 10, "two workers, five starts each:\n{calls}");
    assert!(calls.lines().all(|call| call.starts_with("run --coordinator http://127.0.0.1:")), "{calls}");
    assert!(text_of(&here.path("out.logs/worker-1.log")).contains("out of ink"), "logs lie beside the output");
    assert!(here.path("out.journal.sqlite").exists());
}

/// A `quern run` whose workers have started and wait.
fn waiting_run(here: &Installation) -> Child {
    let recipe = here.recipe();
    let child = here.command(&["run", recipe.to_str().expect("UTF-8")]).spawn().expect("quern starts");
    until("the worker starts", || here.path("worker.started").exists());
    child
}

const PATIENT_WORKER: &str =
    "trap 'echo left > \"${0%/*}/worker.left\"; exit 0' TERM\necho up > \"${0%/*}/worker.started\"\nsleep 600 & wait";

#[test]
fn a_stopped_run_stops_its_workers_and_says_how_to_go_on() {
    let here = Installation::with_worker(PATIENT_WORKER);
    let child = waiting_run(&here);
    // SAFETY: a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(143), "{}", errors(&output));
    assert!(errors(&output).contains("the same command goes on from there"), "{}", errors(&output));
    assert!(here.path("worker.left").exists(), "the worker was told to leave and was waited for");
}

#[test]
fn a_journal_serves_one_run_at_a_time_and_one_recipe() {
    let here = Installation::with_worker(PATIENT_WORKER);
    let mut child = waiting_run(&here);
    let second = here.quern(&["run", "small.yaml"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(errors(&second).contains("another coordinator works with the journal"), "{}", errors(&second));
    // SAFETY: a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));

    let changed = text_of(&here.path("small.yaml")).replace("name: small", "name: small\nseed: 9");
    fs::write(here.path("small.yaml"), changed).expect("written");
    let other = here.quern(&["run", "small.yaml"]);
    assert_eq!(other.status.code(), Some(2), "{}", errors(&other));
    assert!(errors(&other).contains("is of another run: its recipe hash"), "{}", errors(&other));
}

#[test]
fn a_port_in_use_is_named() {
    let here = Installation::new();
    let recipe = here.recipe();
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("an address").to_string();
    let output = here.quern(&["coordinator", recipe.to_str().expect("UTF-8"), "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains(&format!("can't listen on {address}")), "{}", errors(&output));
}

#[test]
fn status_and_watch_show_a_coordinator_and_say_when_there_is_none() {
    let here = Installation::with_worker(PATIENT_WORKER);
    let recipe = here.recipe();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let url = format!("http://{free}");
    for command in ["status", "watch"] {
        let output = here.quern(&[command, "--coordinator", &url]);
        assert_eq!(output.status.code(), Some(1));
        assert!(errors(&output).contains(&format!("no coordinator answers at {url}")), "{}", errors(&output));
    }
    let mut coordinator = here
        .command(&["coordinator", recipe.to_str().expect("UTF-8"), "--listen", &free.to_string()])
        .spawn()
        .expect("quern starts");
    until("the coordinator plans", || {
        printed(&here.quern(&["status", "--coordinator", &url])).contains("0 of 20 done")
    });
    let status = printed(&here.quern(&["status", "--coordinator", &url]));
    assert!(status.contains("small (") && status.contains("start a worker"), "{status}");
    // SAFETY: a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(coordinator.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(coordinator.wait().expect("it ends").code(), Some(143));
}

#[test]
fn beyond_loopback_and_with_tokens_the_command_line_keeps_the_rules() {
    let here = Installation::new();
    let recipe = here.recipe();
    let recipe = recipe.to_str().expect("UTF-8");
    let exposed = here.quern(&["coordinator", recipe, "--listen", "0.0.0.0:0"]);
    assert_eq!(exposed.status.code(), Some(2), "{}", errors(&exposed));
    assert!(
        errors(&exposed).contains("--insecure-listen") && errors(&exposed).lines().count() == 1,
        "{}",
        errors(&exposed)
    );

    fs::write(here.path("tokens"), "viewer the-viewers-hush-token\noperator the-operators-hush-token\n")
        .expect("written");
    fs::write(here.path("viewer"), "the-viewers-hush-token\n").expect("written");
    let without = here.quern(&["run", recipe, "--tokens", "tokens"]);
    assert_eq!(without.status.code(), Some(2), "{}", errors(&without));
    assert!(errors(&without).contains("--token-file"), "{}", errors(&without));

    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let url = format!("http://{free}");
    let mut coordinator = here
        .command(&["coordinator", recipe, "--listen", &free.to_string(), "--tokens", "tokens"])
        .spawn()
        .expect("quern starts");
    let viewing = |command: &str| here.quern(&[command, "--coordinator", &url, "--token-file", "viewer"]);
    until("the coordinator answers a viewer", || viewing("status").status.success());
    let stranger = here.quern(&["status", "--coordinator", &url]);
    assert_eq!(stranger.status.code(), Some(1));
    assert!(errors(&stranger).contains("refuses: this coordinator asks for a token"), "{}", errors(&stranger));
    let by_environment = here.command(&["status", "--coordinator", &url]).env("QUERN_TOKEN_FILE", "viewer").output();
    assert!(by_environment.expect("quern starts").status.success());
    let steering = viewing("cancel");
    assert_eq!(steering.status.code(), Some(1));
    assert!(errors(&steering).contains("takes the role operator"), "{}", errors(&steering));
    // SAFETY: a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(coordinator.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(coordinator.wait().expect("it ends").code(), Some(143));
    for output in [&stranger, &steering] {
        assert!(!errors(output).contains("hush") && !printed(output).contains("hush"));
    }
}

#[test]
fn a_recipe_with_a_secret_is_refused_without_showing_it() {
    let here = Installation::new();
    let recipe = "name: x\noutput: s3://me:hush@b/o\ndatasets:\n  - {name: w, path: s3://b/w, capfilt: false}\n";
    fs::write(here.path("x.yaml"), recipe).expect("written");
    let refused = here.quern(&["run", "x.yaml"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = errors(&refused);
    assert!(said.contains("x.yaml:2:") && said.contains("`output`") && !said.contains("hush"), "{said}");
}

#[test]
fn verify_and_report_of_nothing_say_what_is_missing() {
    let here = Installation::new();
    for command in ["verify", "report"] {
        let output = here.quern(&["capfilt", command, "nowhere"]);
        assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
        assert!(errors(&output).contains("manifest.json"), "{}", errors(&output));
    }
}
