use super::*;

/// A folder with the given files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn bert() -> Tokenizer {
    let folder = folder(&[("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nred\n##dish\nbox\n.\n")]);
    Tokenizer::load(folder.path()).unwrap()
}

const CLIP_VOCAB: &str =
    r#"{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": 6}"#;
const OPT_VOCAB: &str =
    r#"{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6, "\u0120": 7, "\u010a": 8}"#;

#[test]
fn berts_vocabulary_makes_wordpieces_between_cls_and_sep() {
    let bert = bert();
    assert_eq!(bert.encode("A Reddish box.", 32), [2, 5, 6, 7, 8, 9, 3]);
    assert_eq!(bert.decode(&[2, 5, 6, 7, 8, 3, 0, 0]), "a reddish box");
    assert_eq!(bert.token_id("red"), Some(6));
    assert_eq!((bert.pad_id(), bert.vocab_size()), (0, 10));
}

#[test]
fn truncation_keeps_the_special_tokens() {
    assert_eq!(bert().encode("a red box", 4), [2, 5, 6, 3]);
    assert_eq!(bert().encode("a red box", 2), [2, 3]);
}

#[test]
fn batches_are_padded_to_the_longest_or_to_the_maximum() {
    let texts = ["a", "a red box"];
    let (ids, mask) = bert().encode_batch(&texts, 32);
    assert_eq!(Vec::<Vec<i64>>::try_from(&ids).unwrap(), [[2, 5, 3, 0, 0], [2, 5, 6, 8, 3]]);
    assert_eq!(Vec::<Vec<i64>>::try_from(&mask).unwrap(), [[1, 1, 1, 0, 0], [1; 5]]);
    assert_eq!(bert().encode_padded(&texts, 8, Padding::MaxLength).0.size(), [2, 8]);
}

#[test]
fn a_special_token_is_added_behind_the_vocabulary_once() {
    let mut bert = bert();
    assert_eq!(bert.add_special_token("[DEC]"), 10);
    assert_eq!(bert.add_special_token("[DEC]"), 10);
    assert_eq!(bert.add_special_token("[SEP]"), 3);
    assert_eq!(bert.decode(&[10, 5, 3]), "a");
}

#[test]
fn vocab_and_merges_are_clips_or_opts_by_their_special_tokens() {
    let merges = "#version: 0.2\na b</w>\n";
    let clip = folder(&[("vocab.json", CLIP_VOCAB), ("merges.txt", merges)]);
    let clip = Tokenizer::load(clip.path()).unwrap();
    assert_eq!(clip.encode("AB  b", 16), [5, 4, 3, 6]);
    assert_eq!(clip.pad_id(), 6);
    assert_eq!(clip.decode(&[5, 4, 3, 6, 6]), "ab b");
    let opt = folder(&[("vocab.json", OPT_VOCAB), ("merges.txt", "#version: 0.2\na b\n")]);
    let opt = Tokenizer::load(opt.path()).unwrap();
    assert_eq!(opt.encode("ab\n", 16), [2, 6, 8]);
    assert_eq!(opt.encode("", 16), [2]);
    assert_eq!(opt.pad_id(), 1);
}

#[test]
fn a_folder_without_a_tokenizer_is_an_error_that_says_what_is_expected() {
    let empty = folder(&[]);
    let error = Tokenizer::load(empty.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json") && error.contains(empty.path().to_str().unwrap()), "{error}");
}

#[test]
fn damaged_files_and_missing_special_tokens_are_named() {
    for (files, part) in [
        (vec![("tokenizer.json", "{")], "tokenizer.json"),
        (vec![("vocab.txt", "a\nb\n[UNK]\n")], "[CLS]"),
        (vec![("vocab.txt", "a\nb\n[CLS]\n[SEP]\n")], "[UNK]"),
        (vec![("vocab.json", "[]"), ("merges.txt", "")], "vocab.json"),
    ] {
        let error = Tokenizer::load(folder(&files).path()).err().unwrap().to_string();
        assert!(error.contains(part), "{part:?} not in {error:?}");
    }
}

#[test]
fn the_pad_token_of_the_settings_counts_before_the_usual_ones() {
    let source = bert();
    let json = source.inner.to_string(false).unwrap();
    let named =
        folder(&[("tokenizer.json", &json), ("tokenizer_config.json", r#"{"pad_token": {"content": "[MASK]"}}"#)]);
    assert_eq!(Tokenizer::load(named.path()).unwrap().pad_id(), 4);
    let usual = folder(&[("tokenizer.json", &json)]);
    assert_eq!(Tokenizer::load(usual.path()).unwrap().pad_id(), 0);
}
