//! A state dict under LAVIS' names, as `BaseModel.load_checkpoint` reads it: what was trained, without the frozen parts,
//! which LAVIS takes from elsewhere (its own checkpoints hold no more).

use std::path::Path;

use crate::qformer::Parameters;
use crate::save::{Outgoing, SaveError, write_pickle, write_safetensors};

/// The form of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LavisFile {
    /// `{"model": {…}}` as `torch.save` writes it.
    Pickle,
    /// Safetensors.
    Safetensors,
}

/// The word embedding, to which LAVIS ties the language-model head's decoder; and what the head's bias is tied to.
const TIES: [(&str, &str); 2] = [
    ("Qformer.bert.embeddings.word_embeddings.weight", "Qformer.cls.predictions.decoder.weight"),
    ("Qformer.cls.predictions.bias", "Qformer.cls.predictions.decoder.bias"),
];

/// Writes `parameters` to `path`; tied copies as well, which LAVIS' state dicts have.
///
/// # Errors
/// When the file system refuses.
pub fn lavis(path: &Path, parameters: &Parameters, file: LavisFile) -> Result<(), SaveError> {
    let mut tensors = Vec::with_capacity(parameters.len() + TIES.len());
    for (name, tensor) in parameters.iter() {
        tensors.push(Outgoing::held(name, tensor));
        let copies = TIES.iter().filter(|(original, _)| *original == name);
        tensors.extend(copies.map(|(_, copy)| Outgoing::held(*copy, tensor)));
    }
    match file {
        LavisFile::Pickle => write_pickle(path, "model", tensors),
        LavisFile::Safetensors => write_safetensors(path, tensors),
    }
}
