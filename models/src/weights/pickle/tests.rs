use std::path::{Path, PathBuf};

use tch::Device::Cpu;
use tch::{Kind, Tensor};

use crate::weights::{Weights, WeightsError, read_tensors};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/weights/fixtures").join(name)
}

fn error(path: &Path) -> WeightsError {
    read_tensors(path).expect_err("an error")
}

fn message(path: &Path, parts: &[&str]) {
    let text = error(path).to_string();
    let name = path.file_name().expect("a file").to_str().expect("plain");
    for part in parts.iter().chain([&name]) {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

/// Views, offsets, tied and empty tensors, parameters, every kind, `_metadata`: all as PyTorch itself gives them.
#[test]
fn every_format_gives_the_tensors_that_torch_gives() {
    let expected = read_tensors(&fixture("expected.safetensors")).expect("safetensors");
    for name in ["zip.pth", "legacy.bin", "protocol4.pt", "big_endian.pth"] {
        let found = read_tensors(&fixture(name)).expect(name);
        assert!(found.keys().eq(expected.keys()), "{name}");
        for (tensor, value) in &expected {
            assert_eq!(found[tensor].kind(), value.kind(), "{name}: {tensor}");
            assert!(found[tensor].is_contiguous() && found[tensor].equal(value), "{name}: {tensor}");
        }
    }
}

#[test]
fn stored_precisions_arrive_as_the_kind_that_was_asked_for() {
    let weights = Weights::open(&fixture("zip.pth"), Cpu, Kind::Half).expect("a checkpoint");
    let half = weights.root().tensor("torch.float64", &[3]).expect("stored");
    assert!(half.equal(&Tensor::from_slice(&[1.5f32, -2.0, 3.25]).to_kind(Kind::Half)));
    assert_eq!(weights.root().tensor("torch.int64", &[3]).expect("stored").kind(), Kind::Int64);
}

#[test]
fn tied_tensors_count_as_equal() {
    let weights = Weights::open(&fixture("legacy.bin"), Cpu, Kind::Float).expect("a checkpoint");
    let words = weights.root().tensor("words.weight", &[3, 4]).expect("stored");
    weights.root().tied("head.weight", "words.weight", &words).expect("one storage");
}

#[test]
fn of_a_training_checkpoint_the_model_is_taken() {
    let tensors = read_tensors(&fixture("lavis.pth")).expect("plain containers");
    assert!(tensors.keys().eq(["bias", "weight"]));
}

#[test]
fn what_is_no_state_dict_is_refused_in_one_sentence() {
    message(&fixture("namespace.pth"), &["argparse.Namespace", "state dict alone"]);
    message(&fixture("not_a_tensor.pth"), &["entry step", "the number 3", "should be a tensor"]);
    message(&fixture("list.pth"), &["a list of 2"]);
    message(&fixture("torchscript.pt"), &["TorchScript", "state_dict()"]);
}

/// `os.system` as a pickle would call it: never called, not even looked up.
#[test]
fn code_in_a_pickle_is_named_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let (path, witness) = (folder.path().join("pytorch_model.bin"), folder.path().join("witness"));
    let command = format!("touch {}", witness.display());
    let mut call = b"\x80\x02cposix\nsystem\nX".to_vec();
    call.extend((command.len() as u32).to_le_bytes());
    call.extend(command.bytes());
    call.extend(b"\x85R.");
    std::fs::write(&path, call).unwrap();
    assert!(matches!(error(&path), WeightsError::Foreign { name, .. } if name == "posix.system"));
    assert!(!witness.exists());
}

/// Each would cost memory or stack without end if it were believed.
#[test]
fn hostile_pickles_cost_no_more_than_their_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let nested = [b"\x80\x02)".as_slice(), &[0x85; 1_000_000], b"."].concat();
    let long_text = b"\x80\x02X\xff\xff\xff\xff".to_vec();
    let longer_text = [b"\x80\x04\x8d".as_slice(), &[0xff; 8]].concat();
    let loop_of_itself = b"\x80\x02]q\x00h\x00a.".to_vec();
    for (pickle, part) in [
        (nested, "did not write"),
        (long_text, "ends early"),
        (longer_text, "ends early"),
        (loop_of_itself, "did not write"),
        (b"\x80\x02.".to_vec(), "takes more than it put down"),
        (b"\x80\x02(.".to_vec(), "takes more than it put down"),
        (b"\x80\x02h\x05.".to_vec(), "nothing was kept as 5"),
        (b"\x80\x02i".to_vec(), "opcode 0x69"),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(), "another version"),
    ] {
        std::fs::write(&path, pickle).unwrap();
        let text = error(&path).to_string();
        assert!(text.contains(part) || text.contains("ends early"), "{part:?} not in {text:?}");
    }
}

/// Wherever a file is cut, and whichever byte is wrong: an error or other numbers, never a panic.
#[test]
fn damaged_checkpoints_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    for name in ["zip.pth", "legacy.bin"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for end in (0..whole.len()).step_by(41) {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(read_tensors(&path).is_err(), "{name} cut at {end}");
        }
        for place in (0..whole.len()).step_by(13) {
            let mut wrong = whole.clone();
            wrong[place] ^= 1 << (place % 8);
            std::fs::write(&path, &wrong).unwrap();
            let _ = read_tensors(&path);
        }
    }
}

#[test]
fn a_truncated_legacy_file_names_the_tensor_and_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let whole = std::fs::read(fixture("legacy.bin")).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let WeightsError::Truncated { name, expected, found, .. } = error(&path) else { panic!("{}", error(&path)) };
    assert!(found < expected, "{name}: {expected} {found}");
    message(&path, &[&name, "truncated or still being written"]);
}
