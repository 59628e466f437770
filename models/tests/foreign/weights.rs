//! Weights: safetensors, and the pickles that `torch.save` wrote, in zip archives and before them.

use std::path::Path;

use quern_fuzz::Target;
use quern_models::weights::read_tensors;

/// Reads all tensors of a file with these bytes; each has the elements of its shape.
fn read(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the folder can be written");
    for (name, tensor) in read_tensors(path).into_iter().flatten() {
        let elements: i64 = tensor.size().iter().product();
        assert_eq!(tensor.numel() as i64, elements, "{name}");
    }
}

fn fuzz(name: &'static str, file: &str, ending: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::new(name).seeds_of("models/src/weights/fixtures", ending);
    target.cases(2000).run(|bytes| read(&folder.path().join(file), bytes));
}

#[test]
fn safetensors() {
    fuzz("safetensors", "model.safetensors", ".safetensors");
}

#[test]
fn legacy_pickles() {
    fuzz("legacy_pickles", "pytorch_model.bin", ".bin");
}

#[test]
fn zipped_pickles() {
    fuzz("zipped_pickles", "model.pth", ".pth");
}
