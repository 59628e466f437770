//! The golden runner passes every committed case, and can't be talked into passing a wrong one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quern_models::weights::read_tensors;
use tch::{Kind, Tensor};

/// Cases whose expected tensors are falsified in turn: every one, or every so manieth where there are hundreds.
const FALSIFIED: [(&str, usize); 15] = [
    ("blip_caption", 1),
    ("caption_metrics", 1),
    ("clip_rank", 1),
    ("clip_vit", 1),
    ("eva_vit", 1),
    ("optimiser_schedule", 1),
    ("preprocess/china_exif6_jpeg", 1),
    ("qformer_bert_init", 1),
    ("qformer_generate", 1),
    ("qformer_hf", 1),
    ("qformer_itm_masks", 1),
    ("qformer_stage1_w2", 24),
    ("stage2_opt", 12),
    ("stage2_t5", 9),
    ("text", 1),
];
/// Their values are 0 or at most this, and count as open or blocked alone.
const BLOCKED: f64 = -10000.0;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cases")
}

fn golden(folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_golden")).arg(folder).env("OMP_NUM_THREADS", "1").output().expect("golden runs")
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A copy of a committed case, called `name`, whose expected tensors can be changed.
struct Copied {
    folder: tempfile::TempDir,
    name: String,
}

impl Copied {
    fn of(case: &str, name: &str) -> Self {
        let copied = Copied { folder: tempfile::tempdir().expect("a folder"), name: name.to_owned() };
        std::fs::create_dir(copied.path()).expect("a folder");
        for entry in std::fs::read_dir(cases().join(case)).expect("a committed case") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, copied.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        copied
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn expected(&self) -> BTreeMap<String, Tensor> {
        read_tensors(&self.path().join("expected.safetensors")).expect("tensors")
    }

    fn write(&self, expected: &BTreeMap<String, Tensor>) {
        let tensors: Vec<(&String, Tensor)> = expected.iter().map(|(name, t)| (name, t.contiguous())).collect();
        Tensor::write_safetensors(&tensors, self.path().join("expected.safetensors")).expect("written");
    }
}

/// `tensor` of `case` with another first element.
fn falsified(case: &str, tensor: &Tensor) -> Tensor {
    let wrong = tensor.copy();
    let first = wrong.view([-1]).narrow(0, 0, 1);
    let other = match tensor.kind() {
        Kind::Bool => first.logical_not(),
        Kind::Float | Kind::Double if case == "qformer_itm_masks" => BLOCKED - &first,
        Kind::Float | Kind::Double => &first + (first.abs() * 0.01 + 0.05),
        Kind::Uint8 => first.bitwise_xor(128),
        _ => &first - 1, // stays in the vocabulary where ids are fed back
    };
    first.shallow_clone().copy_(&other);
    wrong
}

#[test]
fn every_committed_case_passes() {
    let output = golden(&cases());
    assert!(output.status.success(), "{}", printed(&output));
}

#[test]
fn every_falsified_tensor_is_a_miss() {
    for (case, every) in FALSIFIED {
        let copied = Copied::of(case, &case.replace('/', "_"));
        let expected = copied.expected();
        for (name, tensor) in expected.iter().step_by(every) {
            let mut wrong: BTreeMap<String, Tensor> = expected.iter().map(|(n, t)| (n.clone(), t.copy())).collect();
            wrong.insert(name.clone(), falsified(case, tensor));
            copied.write(&wrong);
            let output = golden(&copied.path());
            let text = printed(&output);
            let missed = text.lines().any(|line| line.contains(name.as_str()) && line.ends_with("MISS"));
            assert!(output.status.code() == Some(1) && missed, "{case}: {name} falsified, but:\n{text}");
        }
    }
}

#[test]
fn a_removed_tensor_is_an_error_that_names_it() {
    for (case, _) in FALSIFIED {
        let copied = Copied::of(case, &case.replace('/', "_"));
        let mut expected = copied.expected();
        let name = expected.keys().next().expect("a tensor").clone();
        expected.remove(&name);
        copied.write(&expected);
        let output = golden(&copied.path());
        let text = printed(&output);
        assert!(output.status.code() == Some(1) && text.contains("ERROR") && text.contains(&name), "{case}:\n{text}");
    }
}

#[test]
fn a_removed_gradient_is_an_error_that_names_it() {
    for name in ["grad_lavis/query_tokens", "grad_exact/temp"] {
        let copied = Copied::of("qformer_stage1_w2", "qformer_stage1_w2");
        let mut expected = copied.expected();
        assert!(expected.remove(name).is_some(), "{name} was there");
        copied.write(&expected);
        let output = golden(&copied.path());
        let text = printed(&output);
        assert!(output.status.code() == Some(1) && text.contains("ERROR") && text.contains(name), "{text}");
    }
}

#[test]
fn a_tensor_that_nothing_compares_is_an_error_that_names_it() {
    let copied = Copied::of("clip_vit", "clip_vit");
    let mut expected = copied.expected();
    expected.insert("unheard_of".into(), Tensor::from_slice(&[1.0f32]));
    copied.write(&expected);
    let output = golden(&copied.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("unheard_of"), "{}", printed(&output));
}

#[test]
fn an_unknown_kind_is_an_error() {
    let copied = Copied::of("clip_vit", "clip_vitality");
    let output = golden(&copied.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("clip_vitality"), "{}", printed(&output));
}

#[test]
fn a_folder_without_cases_is_wrong_usage() {
    let empty = tempfile::tempdir().expect("a folder");
    assert_eq!(golden(empty.path()).status.code(), Some(2));
}
