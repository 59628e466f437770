use std::collections::BTreeMap;

use super::super::tests::{CloneShallow, assert_same, config, model, saved};
use super::*;

const ENTRIES: i64 = 19;

/// A BERT whose text side is that of the model, without the last token: `BertForPreTraining`.
fn bert() -> BTreeMap<String, Tensor> {
    let floats = (Kind::Float, Device::Cpu);
    let mut tensors = BTreeMap::new();
    for (name, tensor) in saved(&model()) {
        let cut = |tensor: Tensor| tensor.narrow(0, 0, ENTRIES);
        let text = !name.contains("_query.") && !name.contains(".crossattention.");
        if let Some(name) = name.strip_prefix("Qformer.bert.").filter(|_| text) {
            let tensor = if name == WORD_EMBEDDINGS { cut(tensor) } else { tensor };
            tensors.insert(format!("bert.{name}"), tensor);
        } else if let Some(name) = name.strip_prefix("Qformer.")
            && name.starts_with("cls.")
        {
            tensors.insert(name.to_string(), if name == LANGUAGE_BIAS { cut(tensor) } else { tensor });
        }
    }
    tensors.insert("cls.predictions.decoder.weight".into(), tensors[&format!("bert.{WORD_EMBEDDINGS}")].copy());
    tensors.insert("bert.embeddings.token_type_embeddings.weight".into(), Tensor::zeros([2, 8], floats));
    tensors.insert("bert.pooler.dense.weight".into(), Tensor::zeros([8, 8], floats));
    tensors.insert("cls.seq_relationship.bias".into(), Tensor::zeros([2], floats));
    tensors
}

fn init(tensors: BTreeMap<String, Tensor>, seed: u64) -> Result<QFormer, WeightsError> {
    let weights = Weights::from_tensors(tensors, "bert", Device::Cpu, Kind::Float).expect("plain");
    QFormer::init_from_bert(weights, &config(), seed, Device::Cpu)
}

#[test]
fn the_text_side_is_the_berts_and_the_queries_feed_forward_a_copy_of_it() {
    let (started, text) = (saved(&init(bert(), 9).expect("fits")), saved(&model()));
    for (name, tensor) in &started {
        let expected = match origin(name) {
            None => continue,
            Some(_) => &text[&name.replace("_query.", ".")],
        };
        let entries =
            expected.size()[0].min(if expected.size()[0] == config().vocab_size { ENTRIES } else { i64::MAX });
        assert!(tensor.narrow(0, 0, entries).equal(&expected.narrow(0, 0, entries)), "{name}");
    }
    let added = started["Qformer.bert.embeddings.word_embeddings.weight"].get(ENTRIES);
    assert!(added.std(true).double_value(&[]) > 1e-3, "[DEC] is drawn");
    assert_eq!(started["Qformer.cls.predictions.bias"].double_value(&[ENTRIES]), 0.0);
}

#[test]
fn what_no_bert_has_follows_the_seed() {
    let same = (init(bert(), 9).expect("fits"), init(bert(), 9).expect("fits"));
    assert_same(&same.0, &same.1);
    let (one, other) = (saved(&same.0), saved(&init(bert(), 10).expect("fits")));
    let drawn = QFormer::init(&config(), 9, Device::Cpu).map(|model| saved(&model)).expect("valid");
    for name in ["query_tokens", "Qformer.bert.encoder.layer.2.crossattention.self.key.weight", "vision_proj.weight"] {
        assert!(!one[name].equal(&other[name]) && one[name].equal(&drawn[name]), "{name}");
    }
}

#[test]
fn every_spelling_of_a_bert_starts_the_same_model() {
    let expected = init(bert(), 9).expect("fits");
    let spelled =
        |spell: fn(String) -> String| bert().into_iter().map(|(name, tensor)| (spell(name), tensor)).collect();
    let bare = spelled(|name| name.strip_prefix("bert.").map(str::to_string).unwrap_or(name));
    let old = spelled(|name| {
        name.replace(".LayerNorm.weight", ".LayerNorm.gamma").replace(".LayerNorm.bias", ".LayerNorm.beta")
    });
    for tensors in [bare, old] {
        assert_same(&expected, &init(tensors, 9).expect("fits"));
    }
    let mut headless = bert();
    headless.retain(|name, _| !name.starts_with("cls."));
    let headless = saved(&init(headless, 9).expect("fits"));
    let drawn = saved(&QFormer::init(&config(), 9, Device::Cpu).expect("valid"));
    let head = "Qformer.cls.predictions.transform.dense.weight";
    assert!(headless[head].equal(&drawn[head]));
}

#[test]
fn what_does_not_fit_is_named() {
    let refusal = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = bert().clone_shallow();
        change(&mut tensors);
        init(tensors, 9).err().expect("refused").to_string()
    };
    let word = format!("bert.{WORD_EMBEDDINGS}");
    let shorter = refusal(&|tensors| {
        let table = tensors[&word].narrow(0, 0, ENTRIES - 1);
        tensors.insert(word.clone(), table);
    });
    assert!(
        shorter.contains(WORD_EMBEDDINGS) && shorter.contains("[18, 8]") && shorter.contains("[20, 8]"),
        "{shorter}"
    );
    let deeper = refusal(&|tensors| {
        let tensor = tensors["bert.encoder.layer.2.output.dense.bias"].copy();
        tensors.insert("bert.encoder.layer.3.output.dense.bias".into(), tensor);
    });
    assert!(deeper.contains("encoder.layer.3"), "{deeper}");
    let untied =
        refusal(&|tensors| {
            drop(tensors.insert(
                "cls.predictions.decoder.weight".into(),
                Tensor::zeros([ENTRIES, 8], (Kind::Float, Device::Cpu)),
            ))
        });
    assert!(untied.contains("decoder.weight"), "{untied}");
    let partial = refusal(&|tensors| drop(tensors.remove("cls.predictions.transform.dense.bias")));
    assert!(partial.contains("transform.dense.bias"), "{partial}");
}

#[test]
fn a_tokenizer_that_numbers_otherwise_is_refused() {
    let vocabulary = |words: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("vocab.txt"), words.join("\n")).expect("written");
        folder
    };
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let bert = vocabulary(&[&special[..], &["red", "blue"]].concat());
    let mut same = Tokenizer::load(bert.path()).expect("a tokenizer");
    same.add_special_token("[DEC]");
    same_tokens(bert.path(), &same).expect("the BERT's own and [DEC]");
    let other = vocabulary(&[&special[..], &["blue", "red"]].concat());
    let error = same_tokens(bert.path(), &Tokenizer::load(other.path()).expect("a tokenizer")).err();
    let error = error.expect("refused").to_string();
    assert!(error.contains("red") && error.contains('5') && error.contains('6'), "{error}");
    let empty = tempfile::tempdir().expect("a folder");
    assert!(same_tokens(empty.path(), &same).is_err());
}
