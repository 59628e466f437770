"""BLIP and CLIP of the public sizes with random weights, in Hugging Face layout, with tokenizers over made-up words.

A caption ends naturally: the bias of the end token makes its probability about one in ten at every step."""

import json
import math
from pathlib import Path

import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizerFast,
)

BLIP_VOCABULARY = 30524
END_PROBABILITY = 0.1

BLIP = {
    "base": dict(vision_config=dict(image_size=384)),
    "large": dict(
        vision_config=dict(image_size=384, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    ),
}
CLIP = {
    # openai/clip-vit-base-patch32, openai/clip-vit-large-patch14
    "base": dict(),
    "large": dict(
        projection_dim=768,
        text_config=dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768),
        vision_config=dict(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14, projection_dim=768
        ),
    ),
}

SYLLABLES = [c + v for c in "bcdfghjklmnprstvwyzx" for v in "aeiou"]


def words(count):
    """Two syllables, then three: what both tokenizers know."""
    two = [a + b for a in SYLLABLES for b in SYLLABLES]
    three = (a + b for a in two for b in SYLLABLES)
    return two[:count] + [next(three) for _ in range(max(0, count - len(two)))]


def make_blip(folder, size):
    torch.manual_seed(1)
    config = BlipConfig(**BLIP[size])
    config.text_config.vocab_size = BLIP_VOCABULARY
    model = BlipForConditionalGeneration(config).eval()
    bias = math.log(END_PROBABILITY / (1 - END_PROBABILITY) * (BLIP_VOCABULARY - 1))
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[config.text_config.sep_token_id] = bias
    model.save_pretrained(folder)
    BlipImageProcessor().save_pretrained(folder)
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 30522: "[DEC]", 30523: "[ENC]"}
    fill = iter(words(BLIP_VOCABULARY))
    vocabulary = [special[id] if id in special else next(fill) for id in range(BLIP_VOCABULARY)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt"), bos_token="[DEC]").save_pretrained(folder)


def make_clip(folder, size):
    torch.manual_seed(2)
    CLIPModel(CLIPConfig(**CLIP[size])).eval().save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    letters = [chr(code) for code in range(33, 127)]
    pairs = [(s[0], s[1]) for s in SYLLABLES] + [(s[0], s[1] + "</w>") for s in SYLLABLES]
    pairs += [(a, b + "</w>") for a in SYLLABLES for b in SYLLABLES] + [(a, b) for a in SYLLABLES for b in SYLLABLES]
    vocabulary = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in pairs]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    # The end is the highest id of the model's vocabulary, where CLIP pools.
    ids = {token: id for id, token in enumerate(vocabulary[:-2])} | {vocabulary[-2]: 49406, vocabulary[-1]: 49407}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in pairs) + "\n")
    CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def make(folder: Path, size):
    """`folder/blip-SIZE` and `folder/clip-SIZE`, made where they are missing."""
    made = []
    for name, maker in [("blip", make_blip), ("clip", make_clip)]:
        path = folder / f"{name}-{size}"
        if not (path / "made").exists():
            path.mkdir(parents=True, exist_ok=True)
            maker(path, size)
            (path / "made").touch()
        made.append(path)
    return made


def flops(size, tokens, clip_tokens, candidates):
    """Multiply-adds times two that an image needs: encoders once, keys and values once, each token once."""
    config = BlipConfig(**BLIP[size])
    vision, text = config.vision_config, config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    width, inner = vision.hidden_size, vision.intermediate_size
    encode = vision.num_hidden_layers * (patches * (4 * width**2 + 2 * width * inner) + 2 * patches**2 * width)
    keys = text.num_hidden_layers * 2 * patches * width * text.hidden_size
    hidden = text.hidden_size
    token = text.num_hidden_layers * (6 * hidden**2 + 2 * hidden * text.intermediate_size + 2 * patches * hidden)
    token += hidden**2 + hidden * BLIP_VOCABULARY
    clip = CLIPConfig(**CLIP[size])
    vision, text = clip.vision_config, clip.text_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    width, inner = vision.hidden_size, vision.intermediate_size
    look = vision.num_hidden_layers * (patches * (4 * width**2 + 2 * width * inner) + 2 * patches**2 * width)
    read = text.num_hidden_layers * (4 * text.hidden_size**2 + 2 * text.hidden_size * text.intermediate_size)
    return 2 * (encode + keys + candidates * (tokens + 1) * token + look + (candidates + 1) * clip_tokens * read)
