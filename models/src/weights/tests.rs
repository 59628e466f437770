use super::*;
use tch::Device::Cpu;

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
        (r#"{"a": "three.safetensors"}"#, "three.safetensors"),
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
    assert!(text.contains("one.safetensors") && text.contains("two.safetensors"), "{text}");
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
