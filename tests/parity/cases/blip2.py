"""BLIP-2 asked questions of different lengths in one batch, by Blip2ForConditionalGeneration.generate.

transformers 5 puts image placeholders before the prompt and pads the whole on the left; quern, as LAVIS, puts the visual
tokens first and pads between them and the prompt. Masks and positions make the two the same. A case holds the image
features (the vision tower has cases of its own), the query side under LAVIS' names, and in `language_model/` the language
model with a tokenizer of a few letters.
"""

import json
import pathlib
import shutil
import string
import tempfile

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig, T5Config,
)

from .shared import heads_and_width, randomise, write_case

transformers.utils.logging.disable_progress_bar()

MAX_LENGTH, BEAMS = 12, 3
LETTERS = [*string.ascii_lowercase[:12], "?", ":"]
RENAMED = [
    ("vision_model.post_layernorm.", "ln_vision."), ("qformer.layernorm.", "Qformer.bert.embeddings.LayerNorm."),
    ("qformer.", "Qformer.bert."), ("attention.attention.", "attention.self."), ("query_tokens", "query_tokens"),
]


def opt_tokenizer(folder):
    """Byte-level BPE in the files of OPT's, with BOS before every text; the newline is the letter Ċ."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "Ċ", "Ġ", *LETTERS, "ab", "Ġa"]
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\na b\nĠ a\n")
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b"), ("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    tokenizer.add_special_tokens(tokens[:4])
    return tokenizer, len(tokens)


def t5_tokenizer(folder):
    """Unigrams over letters, with the end behind every text."""
    tokens = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, "▁a", "ab"]
    tokenizer = Tokenizer(models.Unigram([(token, -1.0 - index / 10) for index, token in enumerate(tokens)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer, len(tokens)


def question(rng):
    words = ["".join(rng.choice(LETTERS[:12]) for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 4))]
    return " ".join(words) + rng.choice(["?", ":", ""])


def blip2(rng, folder, files, language, tokenizer, image_token, pad, end, new_tokens, left):
    heads, width = heads_and_width(rng)
    vision_heads, vision_width = heads_and_width(rng)
    queries, batch = rng.randint(2, 5), rng.randint(3, 5)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(hidden_size=vision_width, intermediate_size=2 * vision_width, num_hidden_layers=1,
                                        num_attention_heads=vision_heads, image_size=14, patch_size=7, layer_norm_eps=1e-5),
        qformer_config=Blip2QFormerConfig(hidden_size=width, num_hidden_layers=rng.randint(2, 4), num_attention_heads=heads,
                                          intermediate_size=2 * width, encoder_hidden_size=vision_width, vocab_size=30,
                                          cross_attention_frequency=2, hidden_dropout_prob=0.0,
                                          attention_probs_dropout_prob=0.0),
        text_config=language, num_query_tokens=queries, image_token_index=image_token,
    )
    model = randomise(Blip2ForConditionalGeneration(config), spread=1.0)
    model.query_tokens.normal_()
    for name, parameter in model.language_model.named_parameters():
        if "relative_attention_bias" in name or "lm_head" in name:
            parameter.normal_()
    model.language_model.save_pretrained(files)

    pixels = torch.randn(batch, 3, 14, 14)
    before_norm = []
    hook = model.vision_model.post_layernorm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
    model.vision_model(pixels)
    hook.remove()
    prompts = ["", *(question(rng) for _ in range(batch - 1))]
    rng.shuffle(prompts)
    rows = [[image_token] * queries + tokenizer.encode(prompt).ids for prompt in prompts]
    longest = max(map(len, rows))
    fill = [[pad] * (longest - len(row)) for row in rows]
    ids = torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, fill)])
    mask = torch.tensor([[0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
                         for row, gap in zip(rows, fill)])
    options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": end, "pad_token_id": pad}
    expected, texts = {}, {}
    for name, search in (("greedy", {}), ("beam", {"num_beams": BEAMS, "length_penalty": 1.0, "early_stopping": False})):
        said = model.generate(pixel_values=pixels, input_ids=ids, attention_mask=mask, **options, **search)
        said = said[:, longest if left else 1:]  # without prompt, or without the start
        over = (said == end).cumsum(1) > 0
        expected[f"{name}_ids"] = said.masked_fill(over, -1)
        texts[name] = [tokenizer.decode([token for token in row if token >= 0]).strip()
                       for row in expected[f"{name}_ids"].tolist()]

    projection = "opt_proj" if left else "t5_proj"
    weights = {}
    for key, value in model.state_dict().items():
        if key.startswith("language_projection."):
            weights[key.replace("language_projection", projection)] = value
        elif key.startswith(("qformer.", "query_tokens", "vision_model.post_layernorm.")):
            for old, new in RENAMED:
                key = key.replace(old, new) if key.startswith(old) or old.startswith("attention") else key
            weights[key] = value
    qformer = config.qformer_config
    write_case(folder, {
        "qformer": {
            "vocab_size": 30, "hidden_size": width, "num_hidden_layers": qformer.num_hidden_layers,
            "num_attention_heads": heads, "intermediate_size": 2 * width, "max_position_embeddings": 8,
            "layer_norm_eps": qformer.layer_norm_eps, "initializer_range": 0.02, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "cross_attention_freq": 2, "encoder_width": vision_width,
            "num_query_token": queries, "embed_dim": 4, "pad_token_id": 0,
        },
        "projection": projection, "language_width": language.hidden_size, "prompts": prompts, "max_length": MAX_LENGTH,
        "num_beams": BEAMS, "texts": texts,
    }, weights, {"features": before_norm[0]}, expected)
    shutil.copytree(files, folder / "language_model")


def blip2_prompted_opt(rng, folder, dtype):
    """OPT: prompts padded on the left, the newline ends."""
    heads, width = heads_and_width(rng)
    with tempfile.TemporaryDirectory() as files:
        tokenizer, tokens = opt_tokenizer(pathlib.Path(files))
        language = OPTConfig(vocab_size=tokens + 1, hidden_size=width, num_hidden_layers=2, num_attention_heads=heads,
                             ffn_dim=2 * width, max_position_embeddings=64, word_embed_proj_dim=width, dropout=0.0,
                             bos_token_id=2, eos_token_id=2, pad_token_id=1)
        blip2(rng, folder, files, language, tokenizer, image_token=tokens, pad=1, end=4, new_tokens=MAX_LENGTH - 1, left=True)


def blip2_prompted_t5(rng, folder, dtype):
    """T5: prompts in the encoder, padded on the right."""
    heads, width = heads_and_width(rng)
    with tempfile.TemporaryDirectory() as files:
        tokenizer, tokens = t5_tokenizer(pathlib.Path(files))
        language = T5Config(vocab_size=tokens + 1, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=heads,
                            feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
                            dropout_rate=0.0)
        blip2(rng, folder, files, language, tokenizer, image_token=tokens, pad=0, end=1, new_tokens=MAX_LENGTH, left=False)


KINDS = {"blip2_prompted_opt": blip2_prompted_opt, "blip2_prompted_t5": blip2_prompted_t5}
