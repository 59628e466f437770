use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::*;
use crate::weights::read_tensors;

/// One of every kind that parameters have, a scalar and an empty one among them.
fn tensors() -> Vec<(String, Tensor)> {
    let ramp = |count: i64, kind| Tensor::arange(count, (Kind::Float, Device::Cpu)).to_kind(kind);
    [
        ("a.half", ramp(6, Kind::Half).view([2, 3])),
        ("b.float", ramp(8, Kind::Float).view([2, 2, 2]) / 3.0),
        ("c.bfloat16", ramp(5, Kind::BFloat16)),
        ("temp", Tensor::from(0.07f32)),
        ("z.empty", ramp(0, Kind::Float).view([0, 3])),
        ("z.transposed", ramp(6, Kind::Float).view([2, 3]).transpose(0, 1)),
    ]
    .map(|(name, tensor)| (name.to_string(), tensor))
    .into()
}

fn outgoing<'a>() -> Vec<Outgoing<'a>> {
    tensors().iter().map(|(name, tensor)| Outgoing::held(name, tensor)).collect()
}

fn assert_reads_back(path: &Path) {
    let found = read_tensors(path).expect("readable");
    assert_eq!(found.len(), tensors().len());
    for (name, tensor) in tensors() {
        assert!(found[&name].kind() == tensor.kind() && found[&name].equal(&tensor), "{name}");
    }
}

#[test]
fn one_file_reads_back() {
    let folder = tempfile::tempdir().expect("a folder");
    write_shards(folder.path(), outgoing(), DEFAULT_MAX_SHARD_BYTES).expect("written");
    assert_reads_back(&folder.path().join("model.safetensors"));
}

#[test]
fn shards_read_back_by_their_index() {
    let folder = tempfile::tempdir().expect("a folder");
    write_shards(folder.path(), outgoing(), 40).expect("written");
    assert!(folder.path().join("model-00003-of-00003.safetensors").is_file());
    assert_reads_back(folder.path());
}

#[test]
fn a_pickle_reads_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.pth");
    write_pickle(&path, "model", outgoing()).expect("written");
    assert_reads_back(&path);
}

#[test]
fn what_a_format_does_not_have_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let complex = Tensor::zeros([1], (Kind::ComplexFloat, Device::Cpu));
    let error = write_safetensors(&folder.path().join("x"), vec![Outgoing::held("odd", &complex)]).unwrap_err();
    assert!(error.to_string().contains("odd"), "{error}");
}
