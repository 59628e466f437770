use std::path::Path;

use tch::Device::Cpu;
use tch::{Kind, Tensor};

use super::*;

fn ramp(shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    Tensor::arange(count, (Kind::Float, Cpu)).reshape(shape)
}

fn write(path: &Path, tensors: &[(&str, Tensor)]) {
    Tensor::write_safetensors(tensors, path).unwrap();
}

fn open(path: &Path) -> Result<Weights, WeightsError> {
    Weights::open(path, Cpu, Kind::Float)
}

fn message<T>(result: Result<T, WeightsError>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn a_folder_gives_its_tensors_by_name_in_the_requested_kind() {
    let folder = tempfile::tempdir().unwrap();
    let stored = ramp(&[2, 3]);
    let path = folder.path().join("model.safetensors");
    write(
        &path,
        &[("a.weight", stored.to_kind(Kind::Half)), ("a.position_ids", Tensor::arange(3, (Kind::Int64, Cpu)))],
    );
    let weights = open(folder.path()).unwrap();
    let scope = weights.root().sub("a");
    let tensor = scope.tensor("weight", &[2, 3]).unwrap();
    assert_eq!(tensor.kind(), Kind::Float);
    assert!(tensor.equal(&stored));
    weights.finish().expect("position_ids is a known buffer");
}

#[test]
fn a_missing_tensor_is_named_with_its_shape_file_and_nearest_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &[("encoder.dense.weight", ramp(&[2, 2]))]);
    let text = message(open(&path).unwrap().root().sub("dense").tensor("weight", &[2, 2]));
    for part in ["dense.weight", "[2, 2]", path.to_str().unwrap(), "encoder.dense.weight"] {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes_and_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &[("w", ramp(&[2, 2]))]);
    let text = message(open(folder.path()).unwrap().root().tensor("w", &[2, 3]));
    for part in ["tensor w", "[2, 2]", "[2, 3]", path.to_str().unwrap()] {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn a_surplus_tensor_is_an_error_that_names_it() {
    let weights =
        Weights::from_tensors([("w".into(), ramp(&[1])), ("x".into(), ramp(&[2]))], "case", Cpu, Kind::Float).unwrap();
    let _ = weights.root().tensor("w", &[1]).unwrap();
    let text = message(weights.finish());
    assert!(text.contains("x [2]") && text.contains("case"), "{text}");
}

fn sharded(folder: &Path, map: &str) {
    write(&folder.join("one.safetensors"), &[("a", ramp(&[2]))]);
    write(&folder.join("two.safetensors"), &[("b", ramp(&[3]))]);
    std::fs::write(folder.join("model.safetensors.index.json"), format!(r#"{{"weight_map": {map}}}"#)).unwrap();
}

#[test]
fn shards_are_read_as_the_index_says() {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), r#"{"a": "one.safetensors", "b": "two.safetensors"}"#);
    let weights = open(folder.path()).unwrap();
    assert!(weights.root().tensor("a", &[2]).unwrap().equal(&ramp(&[2])));
    assert!(weights.root().tensor("b", &[3]).unwrap().equal(&ramp(&[3])));
    weights.finish().unwrap();
}

#[test]
fn an_index_that_disagrees_with_its_shards_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (map, part) in [
        (r#"{"a": "two.safetensors", "b": "one.safetensors"}"#, "a is not in two.safetensors"),
        (r#"{"a": "one.safetensors", "c": "two.safetensors"}"#, "c is not in two.safetensors"),
        (r#"{"a": "../one.safetensors"}"#, "plain file name"),
        (r#"{"a": "three.safetensors"}"#, "a is in"),
        (r#"{"a": "three.safetensors"}"#, "three.safetensors, which is not there"),
        (r#"{"a": "one.safetensors", "b": "one.safetensors"}"#, "b is not in one.safetensors"),
    ] {
        sharded(folder.path(), map);
        let text = message(open(folder.path()));
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), r#"{"a": "one.safetensors", "b": "two.safetensors"}"#);
    write(&folder.path().join("two.safetensors"), &[("a", ramp(&[2])), ("b", ramp(&[3]))]);
    let text = message(open(folder.path()));
    for part in ["tensor a", "one.safetensors", "two.safetensors"] {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn shards_may_be_pickles() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("src/weights/fixtures").join(name);
    std::fs::copy(fixture("lavis.pth"), folder.path().join("pytorch_model-00001-of-00001.bin")).unwrap();
    let map = r#"{"weight": "pytorch_model-00001-of-00001.bin", "bias": "pytorch_model-00001-of-00001.bin"}"#;
    std::fs::write(folder.path().join("pytorch_model.bin.index.json"), format!(r#"{{"weight_map": {map}}}"#)).unwrap();
    let weights = open(folder.path()).unwrap();
    assert_eq!(weights.root().tensor("weight", &[1, 2]).unwrap().size(), [1, 2]);
    assert!(weights.root().has("bias"));
}

#[test]
fn a_folder_is_searched_in_hugging_faces_order_and_then_for_open_clips_names() {
    let folder = tempfile::tempdir().unwrap();
    let one = |name: &str| write(&folder.path().join(name), &[(name, ramp(&[1]))]);
    for name in ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "pytorch_model.bin", "model.safetensors"]
    {
        one(name); // the content tells the format
        assert!(open(folder.path()).unwrap().names().eq([name]));
    }
}

/// A shard that is still being copied.
#[test]
fn a_truncated_shard_names_file_tensor_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), r#"{"a": "one.safetensors", "b": "two.safetensors"}"#);
    let path = folder.path().join("two.safetensors");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let text = message(open(folder.path()));
    for part in ["tensor b", "two.safetensors", "12 bytes", "holds 7", "truncated"] {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn a_git_lfs_pointer_is_called_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").unwrap();
    assert!(message(open(folder.path())).contains("git lfs pull"));
}

/// Bytes of `path` that are in this process' memory.
fn resident_bytes(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
    let resident = lines.find_map(|line| line.strip_prefix("Rss:")).expect("it is mapped");
    resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A file of 64 GiB, most of it a hole: what isn't taken isn't read, and what was read doesn't stay.
#[test]
fn of_a_large_file_only_the_tensor_at_hand_is_in_memory() {
    const LARGE: u64 = 64 << 30;
    const SMALL: u64 = 32 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let ends = [LARGE, LARGE + SMALL, LARGE + 2 * SMALL];
    let header = format!(
        r#"{{"large": {{"dtype": "U8", "shape": [{LARGE}], "data_offsets": [0, {}]}},
            "a": {{"dtype": "U8", "shape": [{SMALL}], "data_offsets": [{}, {}]}},
            "b": {{"dtype": "U8", "shape": [{SMALL}], "data_offsets": [{}, {}]}}}}"#,
        ends[0], ends[0], ends[1], ends[1], ends[2]
    );
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(8 + header.len() as u64 + ends[2]).unwrap();
    let weights = open(folder.path()).unwrap();
    for name in ["a", "b"] {
        assert_eq!(weights.root().tensor(name, &[SMALL as i64]).unwrap().size(), [SMALL as i64]);
        let resident = resident_bytes(&path);
        assert!(resident < 4 << 20, "{resident} bytes of the file are in memory after {name}");
    }
}

#[test]
fn a_counter_counts_and_allocates_one_element() {
    let counter = Counter::default();
    let scope = Scope::root(&counter);
    let large = scope.tensor("w", &[1 << 20, 1 << 20]).unwrap();
    assert_eq!(large.size(), [1 << 20, 1 << 20]);
    scope.tied("head.weight", "w", &large).unwrap();
    let stacked = scope.stacked(&["q".into(), "k".into()], &[3, 4]).unwrap();
    assert_eq!(stacked.size(), [6, 4]);
    assert_eq!(counter.parameters(), (1 << 40) + 24);
}

#[test]
fn renaming_two_tensors_into_one_is_refused() {
    let tensors = [("x.w".into(), ramp(&[1])), ("w".into(), ramp(&[1]))];
    let weights = Weights::from_tensors(tensors, "case", Cpu, Kind::Float).unwrap();
    let text = message(weights.rename(|name| Some(name.trim_start_matches("x.").to_string())));
    assert!(text.contains("tensor w"), "{text}");
}

#[test]
fn a_tied_copy_may_be_absent_or_equal_but_not_different() {
    let value = ramp(&[2]);
    let tensors = [("same".into(), ramp(&[2])), ("other".into(), ramp(&[2]) + 1)];
    let weights = Weights::from_tensors(tensors, "case", Cpu, Kind::Float).unwrap();
    weights.root().tied("absent", "words", &value).unwrap();
    weights.root().tied("same", "words", &value).unwrap();
    let text = message(weights.root().tied("other", "words", &value));
    assert!(text.contains("other") && text.contains("words"), "{text}");
}

#[test]
fn damaged_files_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    assert!(message(open(folder.path())).contains("model.safetensors"));
    write(&path, &[("w", ramp(&[4]))]);
    let whole = std::fs::read(&path).unwrap();
    for cut in [4, 20, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(message(open(folder.path())).contains("model.safetensors"), "cut at {cut}");
    }
    std::fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    assert!(message(open(folder.path())).contains("describes"));
}

#[test]
fn stored_kinds_survive_read_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inputs.safetensors");
    write(&path, &[("ids", Tensor::arange(3, (Kind::Int64, Cpu))), ("x", ramp(&[2]))]);
    let tensors = read_tensors(&path).unwrap();
    assert_eq!(tensors["ids"].kind(), Kind::Int64);
    assert!(tensors["x"].equal(&ramp(&[2])));
}
