"""Q-Formers in Hugging Face's layout, against Blip2ForImageTextRetrieval, and their start from a BERT.

The case's folder is the model's folder, as `save_pretrained` writes it.
"""

import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, Blip2Config, Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
)

from .shared import heads_and_width, randomise, vision_config


def write_tensors(folder, **files):
    for name, tensors in files.items():
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, folder / f"{name}.safetensors")


def qformer_config(rng):
    heads, width = heads_and_width(rng)
    return {
        "vocab_size": rng.randint(30, 60), "hidden_size": width, "num_hidden_layers": rng.randint(2, 4),
        "num_attention_heads": heads, "intermediate_size": width * rng.choice([2, 3]),
        "max_position_embeddings": rng.randint(16, 24), "layer_norm_eps": 1e-12,
    }


def texts(rng, vocab, longest):
    """Padded texts; id 0 pads."""
    lengths = [rng.randint(2, longest) for _ in range(rng.randint(2, 5))]
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, vocab, (length,))
    return ids, (ids != 0).long()


def only(states, mask):
    """States without those in the place of padding, which mean nothing."""
    return states * mask.unsqueeze(-1)


class Remember:
    """The first argument or the result of a module's calls."""

    def __init__(self, module, inputs=False):
        self.seen = []
        module.register_forward_hook(lambda _, args, out: self.seen.append(args[0] if inputs else out.last_hidden_state))


def outputs_of(model, pixels, ids, mask):
    """What a Blip2ForImageTextRetrieval makes of images and texts."""
    seen = Remember(model.qformer).seen
    contrast = model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    matching = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=True)
    queries, text, matched = seen
    visible = torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), mask], 1)
    outputs = {
        "query_last_hidden_state": queries, "text_last_hidden_state": only(text, mask),
        "itm_last_hidden_state": only(matched, visible), "image_embeds": contrast.image_embeds,
        "text_embeds": contrast.text_embeds, "itc_logits_per_image": contrast.logits_per_image,
        "itm_logits": matching.logits_per_image,
    }
    return {key: value.float() for key, value in outputs.items()}


def soften(model):
    """Weights of a trained model's size: larger ones make attention so sharp that a rounding error decides what is seen."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embedding" not in name:
            parameter.mul_(0.5)


def qformer_hf(rng, folder, dtype):
    """Blip2ForImageTextRetrieval: query and text states, contrastive scores, matching logits."""
    config = Blip2Config(
        vision_config={**vision_config(rng, 7), "hidden_act": "gelu", "layer_norm_eps": rng.choice([1e-5, 1e-6])},
        qformer_config={
            **qformer_config(rng), "cross_attention_frequency": rng.choice([1, 2, 3]), "use_qformer_text_input": True,
        },
        num_query_tokens=rng.randint(2, 6), image_text_hidden_size=rng.choice([8, 12]),
    )
    model = randomise(Blip2ForImageTextRetrieval(config))
    model.query_tokens.data.normal_()
    if dtype != torch.float32:
        soften(model)
    model.to(dtype).save_pretrained(folder)
    model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=dtype).eval()
    ids, mask = texts(rng, config.qformer_config.vocab_size, config.qformer_config.max_position_embeddings)
    side = config.vision_config.image_size
    pixels = torch.randn(len(ids), 3, side, side).to(dtype)
    features = Remember(model.vision_model.post_layernorm, inputs=True)
    expected = outputs_of(model, pixels, ids, mask)
    inputs = {"image_embeds_raw": features.seen[0].float(), "input_ids": ids, "attention_mask": mask}
    write_tensors(folder, inputs=inputs, expected=expected)


def qformer_bert_init(rng, folder, dtype):
    """A BERT in one of its spellings: what its text side computes, and which tensors the queries' side copies."""
    sizes = qformer_config(rng)
    config = BertConfig(
        **sizes, pad_token_id=0, cross_attention_freq=2, encoder_width=rng.choice([8, 12]),
        num_query_token=rng.randint(2, 6), embed_dim=rng.choice([8, 12]),
    )
    model = randomise(rng.choice([BertModel, BertForMaskedLM, BertForPreTraining])(config))
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"word{index}" for index in range(sizes["vocab_size"] - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    state = model.state_dict()
    if rng.random() < 0.5:  # the names of the first checkpoints, bert-base-uncased among them
        renamed = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
        for new, old in renamed:
            state = {key.replace(new, old): value for key, value in state.items()}
    write_tensors(folder, model=state)
    expected = {}
    bert = getattr(model, "bert", model)
    for index, layer in enumerate(bert.encoder.layer):
        for theirs, ours in (("intermediate", "intermediate_query"), ("output", "output_query")):
            for key, value in getattr(layer, theirs).state_dict().items():
                expected[f"parameters/Qformer.bert.encoder.layer.{index}.{ours}.{key}"] = value
    bert.embeddings.token_type_embeddings.weight.zero_()  # a Q-Former has none
    ids, mask = texts(rng, sizes["vocab_size"], sizes["max_position_embeddings"])
    expected["text_last_hidden_state"] = only(bert(ids, attention_mask=mask).last_hidden_state, mask)
    if bert is not model:
        out = model(ids, attention_mask=mask)
        expected["prediction_logits"] = only(out.prediction_logits if "prediction_logits" in out else out.logits, mask)
    write_tensors(folder, inputs={"input_ids": ids, "attention_mask": mask}, expected=expected)


KINDS = {"qformer_hf": qformer_hf, "qformer_bert_init": qformer_bert_init}
DTYPES = {"qformer_hf": [torch.bfloat16]}


def without_others(model):
    """Parameters of a Blip2 model's Q-Former, `ln_vision` (Hugging Face's post_layernorm) among them."""
    others = ("vision_model.", "language_model.")
    return sum(
        value.numel() for name, value in model.named_parameters()
        if not name.startswith(others) or name.startswith("vision_model.post_layernorm.")
    )


def retrieval_count(config):
    return without_others(Blip2ForImageTextRetrieval(Blip2Config(**config)))


def lavis_count(config):
    """LAVIS' Blip2Qformer: the temperature, and BERT's head, whose decoder is tied."""
    sizes = config["qformer_config"]
    head = BertForMaskedLM(BertConfig(**{key: sizes[key] for key in ("vocab_size", "hidden_size")})).cls
    own = {name: value.numel() for name, value in head.named_parameters() if ".decoder." not in name}
    own.setdefault("predictions.bias", sizes["vocab_size"])
    return retrieval_count(config) + 1 + sum(own.values())


def generation_count(config):
    small = {"num_layers": 1} if config["text_config"]["model_type"] == "t5" else {"num_hidden_layers": 1, "num_attention_heads": 1}
    text = {**config["text_config"], **small}
    return without_others(Blip2ForConditionalGeneration(Blip2Config(**{**config, "text_config": text})))


COUNTS = {
    "qformer_lavis": lavis_count, "qformer_retrieval": retrieval_count, "qformer_generation": generation_count,
}
