//! Tokenizers: SentencePiece's models, BERT's vocabularies, `tokenizer.json`.

use quern_fuzz::Target;
use quern_models::tokenize::Tokenizer;

/// Every id of a text is in the vocabulary.
fn speaks(tokenizer: &Tokenizer) {
    let ids = tokenizer.encode("a red dog, two boxes \u{1f415}\0", 16);
    assert!(ids.len() <= 16);
    let _ = tokenizer.decode(&ids);
}

#[test]
fn sentencepieces() {
    let folder = tempfile::tempdir().expect("a folder");
    Target::new("sentencepieces").cases(3000).run(|bytes| {
        std::fs::write(folder.path().join("spiece.model"), bytes).expect("the folder can be written");
        if let Ok(tokenizer) = Tokenizer::load(folder.path()) {
            speaks(&tokenizer);
        }
    });
}

#[test]
fn vocabularies() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vocab.txt");
    Target::new("vocabularies").cases(3000).run(|bytes| {
        std::fs::write(&path, bytes).expect("the folder can be written");
        if let Ok(tokenizer) = Tokenizer::bert(&path, true) {
            speaks(&tokenizer);
        }
    });
}

#[test]
fn tokenizer_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.json");
    Target::new("tokenizer_files").seeds_of("zoo/clip", "tokenizer.json").cases(200).run(|bytes| {
        std::fs::write(&path, bytes).expect("the folder can be written");
        if let Ok(tokenizer) = Tokenizer::from_json_file(&path) {
            speaks(&tokenizer);
        }
    });
}
