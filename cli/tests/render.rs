//! `quern k8s render`: what it prints for the demo, and what it refuses. tests/k8s/validate.py shows that Kubernetes
//! takes what is printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn demo() -> PathBuf {
    here().join("../recipes/demo.yaml")
}

fn render(recipe: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
    command.args(["k8s", "render"]).arg(recipe).args(options).output().expect("quern starts")
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Renders a recipe that must be refused; returns the sentence.
fn refused(recipe: &str, options: &[&str]) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("run.yaml");
    fs::write(&file, recipe).expect("written");
    let output = render(&file, options);
    let sentence = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{recipe}: {sentence}");
    assert!(output.stdout.is_empty() && sentence.lines().count() == 1, "{sentence}");
    sentence
}

const HEAD: &str = "output: s3://b/o\ndatasets:\n  - {name: w, path: s3://b/w}\ncapfilt: {captioner: c, ranker: r}\n";

/// `QUERN_REWRITE=1 cargo test --release -p quern-cli` writes what is printed now: read the difference.
#[test]
fn the_demo_is_rendered_as_expected() {
    let expected = here().join("tests/render/demo.yaml");
    let printed = printed(&render(&demo(), &[]));
    if std::env::var_os("QUERN_REWRITE").is_some() {
        fs::write(&expected, &printed).expect("written");
    }
    assert_eq!(printed, fs::read_to_string(&expected).expect("readable"), "QUERN_REWRITE=1 takes over what is new");
}

#[test]
fn options_stand_over_the_recipe() {
    let printed = printed(&render(&demo(), &["--namespace", "mill", "--image", "registry.example/worker:7"]));
    assert_eq!(printed.matches("\n  namespace: mill\n").count(), 2, "{printed}");
    assert_eq!(printed.matches(" https://quern.mill.svc:7077\n").count(), 2, "{printed}");
    assert_eq!(printed.matches(" image: registry.example/worker:7\n").count(), 2, "{printed}");
}

#[test]
fn workers_show_what_the_recipe_says() {
    let with = |access: &str| {
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("run.yaml");
        fs::write(&file, format!("name: run\n{HEAD}cluster: {{kubernetes: {{access: {access}}}}}\n")).expect("written");
        printed(&render(&file, &[]))
    };
    let mutual = with("{secret: mine, mutual_tls: true}");
    for words in
        ["secretName: mine", "/etc/quern/access/token", "/etc/quern/access/tls.key", " https://quern.quern.svc:7077"]
    {
        assert!(mutual.contains(words), "`{words}` is missing in: {mutual}");
    }
    assert!(!with("{secret: mine}").contains("tls.key"));
    let nothing = with("null");
    assert!(!nothing.contains("access") && nothing.contains(" http://quern.quern.svc:7077"), "{nothing}");
}

#[test]
fn only_what_the_recipe_does_is_rendered() {
    let kinds = |recipe: &str| -> Vec<String> {
        let printed = printed(&render(&here().join("../recipes").join(recipe), &[]));
        printed.lines().filter_map(|line| line.strip_prefix("kind: ")).map(str::to_owned).collect()
    };
    assert_eq!(kinds("demo.yaml"), ["Job", "JobSet"]);
    assert_eq!(kinds("demo-t5.yaml"), ["JobSet"]);
    let nothing = "name: x\noutput: s3://b/o\ndatasets:\n  - {name: w, path: s3://b/w, capfilt: false}\n";
    assert!(refused(nothing, &[]).contains("nothing to render"));
}

#[test]
fn what_kubernetes_would_refuse_is_one_sentence() {
    let long = format!("name: {}\n{HEAD}", "a".repeat(38));
    for (recipe, options, words) in [
        (format!("name: 129m\n{HEAD}"), vec![], "begin with a letter"),
        (format!("name: '...'\n{HEAD}"), vec![], "no Kubernetes name"),
        (long, vec![], "at most 37"),
        (format!("name: run\n{HEAD}"), vec!["--namespace", "Mill_1"], "`cluster.kubernetes.namespace`: is `Mill_1`"),
        (format!("name: run\n{HEAD}"), vec!["--image", "a b"], "`cluster.kubernetes.image`: is `a b`"),
        (format!("name: run\n{HEAD}cluster: {{kubernetes: {{gpu: 1}}}}\n"), vec![], "unknown field `gpu`"),
    ] {
        let sentence = refused(&recipe, &options);
        assert!(sentence.contains(words), "`{words}` is missing in: {sentence}");
    }
}
