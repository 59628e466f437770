//! The house keeps its shape: who may import whom, and what the binaries link.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each room may import of ours. An arrow that is not here is a design error.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("quern-recipes", &[]),
    ("quern-telemetry", &["quern-recipes"]),
    ("quern-proto", &["quern-telemetry"]),
    ("quern-machine", &[]),
    ("quern-collective", &[]),
    ("quern-models", &["quern-recipes"]),
    ("quern-corpus", &["quern-recipes"]),
    ("quern-capfilt", &["quern-recipes", "quern-corpus"]),
    ("quern-capfilt-engine", &["quern-recipes", "quern-capfilt", "quern-corpus", "quern-models"]),
    ("quern-trainer", &["quern-recipes", "quern-capfilt", "quern-corpus", "quern-models", "quern-collective"]),
    (
        "quern-coordinator",
        &["quern-recipes", "quern-machine", "quern-proto", "quern-telemetry", "quern-corpus", "quern-capfilt"],
    ),
    (
        "quern-worker",
        &[
            "quern-recipes",
            "quern-proto",
            "quern-telemetry",
            "quern-corpus",
            "quern-models",
            "quern-capfilt",
            "quern-capfilt-engine",
            "quern-trainer",
            "quern-collective",
        ],
    ),
    ("quern-faults", &[]),
    ("quern-sim-checker", &["quern-machine"]),
    ("quern-sim-vfs", &[]),
    ("quern-fuzz", &[]),
    ("quern-sim", &["quern-machine", "quern-coordinator", "quern-sim-checker", "quern-sim-vfs"]),
    ("quern-bench-coordinator", &["quern-recipes", "quern-coordinator", "quern-corpus", "quern-proto"]),
    (
        "quern-bench-capfilt",
        &["quern-recipes", "quern-corpus", "quern-models", "quern-capfilt", "quern-capfilt-engine"],
    ),
    ("quern-bench-loader", &["quern-recipes", "quern-models", "quern-trainer"]),
    (
        "quern-cli",
        &["quern-recipes", "quern-coordinator", "quern-capfilt", "quern-corpus", "quern-proto", "quern-telemetry"],
    ),
];

/// Foreign crates that only these rooms may use.
const ONLY_IN: &[(&str, &[&str])] = &[
    (
        "tch",
        &[
            "quern-models",
            "quern-collective",
            "quern-capfilt-engine",
            "quern-trainer",
            "quern-worker",
            "quern-tests",
            "quern-bench-capfilt",
            "quern-bench-loader",
        ],
    ),
    (
        "tonic",
        &["quern-proto", "quern-coordinator", "quern-worker", "quern-cli", "quern-tests", "quern-bench-coordinator"],
    ),
    ("cudarc", &["quern-collective"]),
    ("opentelemetry", &["quern-telemetry"]),
    ("rusqlite", &["quern-coordinator", "quern-sim-vfs"]),
    ("k8s-openapi", &["quern-cli"]),
    ("reqwest", &["quern-corpus"]),
    ("tar", &["quern-corpus"]),
    ("whatlang", &["quern-capfilt"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

/// Every member of the workspace with the names of its normal dependencies.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let names = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().expect("a list");
        let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        normal.map(|dependency| dependency["name"].as_str().expect("a name").to_owned()).collect()
    };
    let packages = metadata["packages"].as_array().expect("a list");
    packages.iter().map(|p| (p["name"].as_str().expect("a name").to_owned(), names(p))).collect()
}

#[test]
fn imports_run_the_right_way() {
    let members = members();
    for (name, dependencies) in &members {
        if name == "quern-tests" {
            continue;
        }
        let allowed = MAY_IMPORT.iter().find(|(room, _)| room == name);
        let (_, allowed) =
            allowed.unwrap_or_else(|| panic!("{name} is a new room: say in MAY_IMPORT what it may import"));
        for dependency in dependencies.iter().filter(|dependency| members.contains_key(*dependency)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    for (name, dependencies) in members() {
        for (foreign, rooms) in ONLY_IN {
            assert!(
                !dependencies.contains(*foreign) || rooms.contains(&name.as_str()),
                "{name} must not use {foreign}"
            );
        }
    }
}

/// The shared libraries that a binary names as needed.
fn needed(binary: &str) -> BTreeSet<String> {
    let path = root().join("target/release").join(binary);
    let output = Command::new("readelf").arg("-d").arg(&path).output().expect("readelf (binutils) runs");
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

#[test]
fn the_control_plane_links_no_torch() {
    let libraries = needed("quern");
    assert!(!libraries.is_empty());
    assert!(!libraries.iter().any(|l| l.contains("torch") || l.contains("c10") || l.contains("cuda")), "{libraries:?}");
}

#[test]
fn the_worker_links_libtorch_for_cpu_only() {
    let libraries = needed("quern-worker");
    assert!(libraries.iter().any(|library| library.starts_with("libtorch_cpu")), "{libraries:?}");
    assert!(!libraries.iter().any(|library| library.contains("cuda") || library.contains("nccl")), "{libraries:?}");
}
