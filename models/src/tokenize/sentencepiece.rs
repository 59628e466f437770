//! What of SentencePiece's `spiece.model` a unigram tokenizer needs.
//!
//! Format: <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>, the fields below of it.

use std::path::Path;

use prost::Message;

use super::{TokenizerError, file_error};

/// `TrainerSpec.ModelType.UNIGRAM`
const UNIGRAM: i32 = 1;

/// A unigram model.
pub(super) struct SentencePieces {
    /// Piece and log-probability, by id.
    pub pieces: Vec<(String, f32)>,
    /// The id of what no piece spells.
    pub unknown: usize,
    /// The compiled rules of its Unicode normalisation; none if empty.
    pub normalizer: Vec<u8>,
}

impl SentencePieces {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = std::fs::read(path).map_err(|error| file_error(path, error.to_string()))?;
        let model = ModelProto::decode(&bytes[..]).map_err(|error| file_error(path, error.to_string()))?;
        let trainer = model.trainer_spec.unwrap_or_default();
        if trainer.model_type() != UNIGRAM {
            let reason = format!("a SentencePiece model of type {}, not a unigram one (1)", trainer.model_type());
            return Err(file_error(path, reason));
        }
        let unknown = usize::try_from(trainer.unk_id()).ok().filter(|&id| id < model.pieces.len());
        Ok(SentencePieces {
            unknown: unknown.ok_or_else(|| file_error(path, format!("{} is no piece's id", trainer.unk_id())))?,
            pieces: model.pieces.into_iter().map(|piece| (piece.piece, piece.score)).collect(),
            normalizer: model.normalizer_spec.unwrap_or_default().precompiled_charsmap,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "40", default = "0")]
    unk_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", tag = "2")]
    precompiled_charsmap: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::super::{Padding, Tokenizer};
    use super::*;

    const PIECES: [(&str, f32); 6] =
        [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u{2581}red", -1.0), ("\u{2581}box", -2.0), ("es", -3.0)];

    /// A folder with the model as `spiece.model` and these settings.
    fn folder(model_type: i32, unk_id: i32, settings: &str) -> tempfile::TempDir {
        let pieces = PIECES.map(|(piece, score)| Piece { piece: piece.into(), score }).to_vec();
        let trainer_spec = Some(TrainerSpec { model_type: Some(model_type), unk_id: Some(unk_id) });
        let model = ModelProto { pieces, trainer_spec, normalizer_spec: None };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("spiece.model"), model.encode_to_vec()).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
        folder
    }

    #[test]
    fn a_folder_with_spiece_model_alone_is_a_t5_tokenizer() {
        let folder = folder(UNIGRAM, 2, r#"{"extra_ids": 3}"#);
        let t5 = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(t5.encode("red  boxes \n", 16), [3, 4, 5, 1]);
        assert_eq!(t5.encode("", 16), [1]);
        assert_eq!(t5.encode("red green", 16)[..2], [3, 2]);
        assert_eq!(t5.encode("red boxes", 3), [3, 4, 1]);
        assert_eq!(t5.decode(&[0, 3, 4, 5, 8, 1, 0]), "red boxes");
        assert_eq!((t5.pad_id(), t5.vocab_size()), (0, 9));
        assert_eq!((t5.token_id("<extra_id_2>"), t5.token_id("<extra_id_0>")), (Some(6), Some(8)));
        let (ids, mask) = t5.encode_padded(&["red", "red box"], 16, Padding::LongestLeft);
        assert_eq!(Vec::<Vec<i64>>::try_from(ids).unwrap(), [[0, 3, 1], [3, 4, 1]]);
        assert_eq!(Vec::<Vec<i64>>::try_from(mask).unwrap(), [[0, 1, 1], [1, 1, 1]]);
    }

    #[test]
    fn without_settings_there_are_a_hundred_extra_ids() {
        let t5 = Tokenizer::load(folder(UNIGRAM, 2, "{}").path()).unwrap();
        assert_eq!(t5.vocab_size(), 106);
    }

    #[test]
    fn other_models_and_damaged_files_are_named() {
        let refusal = |folder: &tempfile::TempDir| Tokenizer::load(folder.path()).err().unwrap().to_string();
        assert!(refusal(&folder(2, 2, "{}")).contains("type 2, not a unigram one"));
        assert!(refusal(&folder(UNIGRAM, 6, "{}")).contains("6 is no piece's id"));
        let damaged = folder(UNIGRAM, 2, "{}");
        std::fs::write(damaged.path().join("spiece.model"), [0xff; 9]).unwrap();
        assert!(refusal(&damaged).contains("spiece.model"));
    }
}
