"""Trains the zoo: tiny models in the layout of the real checkpoints, on scenes of quern's toy world.

    .venv/bin/python zoo/train.py [--out zoo] [--data DIR] [--steps-scale 1.0] [blip clip opt t5]

Each model is saved with save_pretrained, in half precision, with its tokenizer and its preprocessor's configuration.
The training scenes are written by `quern corpus synth`. See README.md beside this file for what came out.
"""

import argparse
import functools
import io
import itertools
import json
import math
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipTextConfig, BlipVisionConfig, CLIPConfig, CLIPModel,
    CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig, GPT2Tokenizer, OPTConfig, OPTForCausalLM, T5Config,
    T5ForConditionalGeneration, T5Tokenizer,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE_PX, PATCH_PX = 64, 8
WIDTH = 128  # of the towers of BLIP and CLIP
DECODER_STEPS = 600
OPT_STEPS, T5_STEPS = 1500, 1800
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
TRAIN_SEED, TRAIN_ROWS, VARIANTS = 1000, 60_000, 6

# ------------------------------------------------------------------------------------------------------------- data


class Scenes:
    """The training corpus in memory: uint8 images [N, 3, 64, 64], captions, questions.

    Of a scene's correct captions the first says everything; its wrong ones differ in one attribute; its junk is what
    the web says.
    """

    def __init__(self, folder):
        tables = [pq.read_table(path) for path in sorted(pathlib.Path(folder).glob("*.parquet"))]
        columns = lambda name: [value for table in tables for value in table.column(name).to_pylist()]
        images = (Image.open(io.BytesIO(jpg)).convert("RGB") for jpg in columns("jpg"))
        self.images = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()
        assert self.images.shape[2:] == (SIDE_PX, SIDE_PX)
        self.correct, self.wrong, self.junk = columns("correct_captions"), columns("wrong_captions"), columns("caption")
        self.questions = list(zip(columns("question"), columns("answer")))

    def __len__(self):
        return len(self.images)

    def pixels(self, rows):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return (self.images[rows].float() / 255 - mean) / std


def synthesise(folder):
    """Writes the training corpus with quern itself, once."""
    if not any(pathlib.Path(folder).glob("*.parquet")):
        command = [ROOT / "target/release/quern", "corpus", "synth", "--rows", TRAIN_ROWS, "--junk", 1, "--seed", TRAIN_SEED,
                   "--image-side", SIDE_PX, "--variants", VARIANTS, "--questions", "--out", folder]
        subprocess.run([str(part) for part in command], check=True)


# ------------------------------------------------------------------------------------------------------- tokenizers


def words_of(texts):
    return sorted({word for text in texts for word in text.lower().replace("?", " ?").replace(":", " :").split()})


ASCII = [chr(code) for code in range(33, 127) if not chr(code).isupper()]


def web_texts(scenes):
    """Junk whose words are worth an entry: no file names, prices, or words that break off."""
    return [junk for junk in scenes.junk[:20_000] if junk and not any(letter in "0123456789." for letter in junk)]


def bert_tokenizer(texts):
    """WordPiece like bert-base-uncased, with BLIP's [DEC] and [ENC] at the end."""
    letters = ASCII + [f"##{letter}" for letter in ASCII if letter.isalnum()]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + letters + [w for w in words_of(texts) if len(w) > 1]
    entries += ["[DEC]", "[ENC]"]
    tokenizer = BertTokenizer(vocab={entry: index for index, entry in enumerate(entries)}, model_max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[DEC]", "[ENC]"]})
    assert len(tokenizer) == len(entries)
    return tokenizer


def train_bpe(texts, alphabet, suffix, size):
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if suffix:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix=suffix, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return list(model["vocab"]), [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]


def clip_tokenizer(texts):
    entries, merges = train_bpe([text.lower() for text in texts], ASCII, "</w>", 500)
    entries = sorted(set(entries) | set(ASCII) | {f"{letter}</w>" for letter in ASCII})
    entries += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={entry: index for index, entry in enumerate(entries)}, merges=merges, model_max_length=77)


def opt_tokenizer(texts):
    """Byte-level BPE with OPT's special ids: <s> 0, <pad> 1, </s> 2 (begin and end), <unk> 3."""
    entries, merges = train_bpe(texts, pre_tokenizers.ByteLevel.alphabet(), "", 500)
    entries = ["<s>", "<pad>", "</s>", "<unk>"] + entries
    return GPT2Tokenizer(vocab={entry: index for index, entry in enumerate(entries)}, merges=merges, bos_token="</s>",
                         eos_token="</s>", unk_token="</s>", pad_token="<pad>", add_bos_token=True, model_max_length=128)


def t5_tokenizer(texts):
    """Unigram over whole words and letters, as SentencePiece would score them."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [("▁", -4.0)] + [(letter, -8.0) for letter in ASCII]
    words = [(f"▁{word}", -3.0) for word in words_of(texts)]
    words += [(f"▁{word}:", -3.0) for word in ("question", "answer", "Question", "Answer")] if texts else []
    tokenizer = T5Tokenizer(vocab=special + letters + words, extra_ids=0, model_max_length=128)
    return tokenizer


# --------------------------------------------------------------------------------------------------------- training


def fit(name, model, steps, batches, peak_lr, weight_decay=0.05):
    """AdamW, linear warm-up, cosine to zero; `batches(step)` gives a loss."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=peak_lr, betas=(0.9, 0.98))
    warmup, start, running = max(1, steps // 20), time.time(), None
    model.train()
    for step in range(steps):
        share = step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        for group in optimiser.param_groups:
            group["lr"] = peak_lr * share
        loss = batches(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            print(f"{name} step {step}/{steps} loss {running:.4f} {time.time() - start:.0f} s", flush=True)
    model.eval()
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {(time.time() - start) / 60:.1f} min", flush=True)


def sampler(scenes, batch, seed):
    generator = np.random.default_rng(seed)
    return lambda: generator.integers(0, len(scenes), batch), generator


def padded(tokenizer, texts):
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


def place_positions(embedding):
    """Starts a vision tower's position embeddings [1 + grid², D] as 2-D sines, so that attention finds places at once.

    The libraries' own start (normal, 0.02) is far below the patches' content: places were still random after 4,500 steps.
    """
    grid, dim = SIDE_PX // PATCH_PX, embedding.shape[-1]
    angles = torch.arange(grid)[:, None] / 100 ** (torch.arange(dim // 4) / (dim // 4))
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    with torch.no_grad():
        embedding[1:] = 0.3 * torch.cat([axis.repeat_interleave(grid, 0), axis.repeat(grid, 1)], dim=1)


def train_blip(scenes, texts, out, scale):
    """The language-modelling loss of several captions per image, at first with the one that says everything.

    Trained to the end, 98% of its sampled captions are correct, and ranking has nothing to do. So the vision tower is
    kept, and a new decoder is trained on it and stopped early.
    """
    tokenizer = bert_tokenizer(texts + web_texts(scenes))
    begin, end = tokenizer.convert_tokens_to_ids("[DEC]"), tokenizer.sep_token_id
    text = BlipTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, encoder_hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=64, projection_dim=64, bos_token_id=begin, eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id, sep_token_id=end, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    # The default initializer_range, 1e-10, is no start for training.
    vision = BlipVisionConfig(hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=4, num_attention_heads=4,
                              image_size=SIDE_PX, patch_size=PATCH_PX, layer_norm_eps=1e-6, initializer_range=0.02)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    torch.manual_seed(1)
    model = BlipForConditionalGeneration(config)
    place_positions(model.vision_model.embeddings.position_embedding[0])
    steps = int(5000 * scale)
    loss = caption_loss(model, scenes, tokenizer, seed=1)
    fit("blip", model, steps, lambda step: loss(with_full=step < steps // 2), 1.2e-3)
    restart_decoder(model, scenes, tokenizer, scale)
    return model, tokenizer, {"image_processor_type": "BlipImageProcessor", "size": {"height": SIDE_PX, "width": SIDE_PX}}


def restart_decoder(model, scenes, tokenizer, scale):
    torch.manual_seed(5)
    model.text_decoder = BlipForConditionalGeneration(model.config).text_decoder
    model.vision_model.requires_grad_(False)
    loss = caption_loss(model, scenes, tokenizer, seed=5)
    fit("blip decoder", model.text_decoder, int(DECODER_STEPS * scale), lambda step: loss(with_full=False), 1.2e-3)


def caption_loss(model, scenes, tokenizer, seed, images=32, own=3):
    """The loss of `own` captions of each of `images` scenes, drawn anew at each call."""
    begin = model.config.text_config.bos_token_id
    draw, generator = sampler(scenes, images, seed)

    def loss(with_full):
        rows, full = draw(), [0] if with_full else []
        choose = lambda: full + list(1 + generator.permutation(VARIANTS - 1)[:own - len(full)])
        ids, mask = padded(tokenizer, [scenes.correct[row][i] for row in rows for i in choose()])
        ids[:, 0] = begin
        with torch.autocast("cpu", torch.bfloat16):
            states = model.vision_model(pixel_values=scenes.pixels(rows)).last_hidden_state
            return model.text_decoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=states.repeat_interleave(own, 0),
                                      labels=ids.masked_fill(mask == 0, -100), reduction="mean").loss

    return loss


def take_vision(clip, folder):
    """Starts CLIP's vision tower as the captioner's: the same blocks, its query, key and value apart, and one more norm."""
    given = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).vision_model.state_dict()
    taken = {
        "embeddings.class_embedding": given["embeddings.class_embedding"][0, 0],
        "embeddings.patch_embedding.weight": given["embeddings.patch_embedding.weight"],
        # CLIP's patch embedding has no bias: it goes into the positions.
        "embeddings.position_embedding.weight": given["embeddings.position_embedding"][0].index_add(
            0, torch.arange(1, given["embeddings.position_embedding"].shape[1]),
            given["embeddings.patch_embedding.bias"].expand(given["embeddings.position_embedding"].shape[1] - 1, -1)),
    }
    for name, tensor in given.items():
        if name.startswith("post_layernorm"):
            taken[name] = tensor
        elif ".qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3)):
                taken[name.replace("qkv", f"{part}_proj")] = piece
        elif name.startswith("encoder"):
            taken[name.replace("self_attn.projection", "self_attn.out_proj")] = tensor
    left = clip.vision_model.load_state_dict(taken, strict=False)
    assert not left.unexpected_keys and all("pre_layrnorm" in key or "position_ids" in key for key in left.missing_keys), left


def train_clip(scenes, texts, out, scale):
    """InfoNCE over the batch, and every image's correct captions against its own wrong ones and its junk.

    The vision tower starts as the captioner's: contrast alone teaches shapes and textures slowly.
    """
    tokenizer = clip_tokenizer(texts + web_texts(scenes))
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    text = CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=3,
                          num_attention_heads=4, max_position_embeddings=77, projection_dim=WIDTH, bos_token_id=begin,
                          eos_token_id=end, pad_token_id=end)
    vision = CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=4, num_attention_heads=4,
                              image_size=SIDE_PX, patch_size=PATCH_PX, projection_dim=WIDTH)
    torch.manual_seed(2)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))
    take_vision(model, out / "blip")
    images, own = 40, 2
    draw, generator = sampler(scenes, images, 2)

    def batches(_):
        rows = draw()
        choose = lambda captions: [captions[i] for i in generator.permutation(VARIANTS)[:own]]
        correct = [caption for row in rows for caption in choose(scenes.correct[row])]
        wrong = [caption for row in rows for caption in [*choose(scenes.wrong[row]), (scenes.junk[row] or "")[:60]]]
        ids, mask = padded(tokenizer, correct + wrong)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(input_ids=ids, attention_mask=mask, pixel_values=scenes.pixels(rows))
        logits = output.logits_per_image.float()  # [B, own*B + (own+1)*B]
        correct, wrong = logits.split([own * images, (own + 1) * images], dim=1)
        correct, wrong = correct.reshape(images, images, own), wrong.reshape(images, images, own + 1)
        target = torch.arange(images)
        contrastive = sum(F.cross_entropy(side, target) for i in range(own) for side in (correct[:, :, i], correct[:, :, i].T))
        good, bad = correct[target, target], wrong[target, target]  # of the image itself: [B, own], [B, own+1]
        pairwise = F.softplus(torch.logsumexp(bad, dim=1, keepdim=True) - good).mean()
        return pairwise + contrastive / (4 * own)

    fit("clip", model, int(1500 * scale), batches, 1e-3)
    return model, tokenizer, {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE_PX}, "do_center_crop": True,
        "crop_size": {"height": SIDE_PX, "width": SIDE_PX}}


def lessons(scenes, generator, batch):
    """What the language models learn from: triples of a description, a question or nothing, and what follows.

    A description says everything about a scene. After it comes another caption of the scene, or the answer to a question.
    One caption in ten comes without a description.
    """
    for _ in range(batch):
        row = generator.integers(len(scenes))
        if generator.random() < 0.5:
            yield describe(scenes.correct[row][0], generator), *scenes.questions[row]
        else:
            description = describe(scenes.correct[row][0], generator) if generator.random() < 0.9 else []
            yield description, "", scenes.correct[row][generator.integers(VARIANTS)]


def describe(caption, generator):
    """A full caption as groups of words; the words of a group are to share one embedding. Its objects come in any order.

    Half of the descriptions are text, a word in each group. In the others an object is one to three groups: so the
    models learn to read embeddings that are no word's, as stage 2's visual tokens are.
    """
    objects, background = re.fullmatch("(.*) (on .*)", caption).groups()
    objects = objects.split(" and ")
    generator.shuffle(objects)
    if generator.random() < 0.5:
        return [[word] for word in f"{' and '.join(objects)} {background}".split()]
    phrases = [phrase.split() for phrase in [*objects, background]]
    cuts = [np.sort(generator.integers(0, len(phrase), generator.integers(0, 3))) for phrase in phrases]
    groups = [group.tolist() for phrase, own in zip(phrases, cuts) for group in np.split(phrase, own)]
    return [group for group in groups if group]


def embedded(embedding, tokenizer, descriptions, texts):
    """Descriptions followed by texts (token ids), as input embeddings [B, L, D] with their mask [B, L]."""
    rows = []
    for description, text in zip(descriptions, texts):
        groups = [[token for word in group for token in word_tokens(tokenizer, word)] for group in description]
        rows.append(groups + [[token] for token in text])
    groups = [group for row in rows for group in row]
    tokens = torch.tensor([token for group in groups for token in group])
    starts = torch.tensor([0, *itertools.accumulate(len(group) for group in groups[:-1])])
    # A sum that is as long as one word's embedding.
    weights = torch.tensor([len(group) ** -0.5 for group in groups for _ in group])
    sums = F.embedding_bag(tokens, embedding.weight, starts, mode="sum", per_sample_weights=weights)
    rows = sums.split([len(row) for row in rows])
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True), mask


@functools.cache
def word_tokens(tokenizer, word):
    """The tokens of a word inside a text."""
    return tokenizer(f" {word}", add_special_tokens=False).input_ids


def mean_of_texts(logits, labels):
    """Cross entropy, averaged over each text's tokens, then over texts: answers are short."""
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (losses.sum(1) / (labels >= 0).sum(1)).mean()


def train_opt(scenes, texts, out, scale):
    """A description, then </s> and the text, as in stage 2; of a question only the answer counts."""
    tokenizer = opt_tokenizer(texts)
    # The default init_std, 0.02, is meant for wider models: with it, 41% of the answers were right after 500 steps, not 77%.
    config = OPTConfig(vocab_size=len(tokenizer), hidden_size=96, word_embed_proj_dim=96, ffn_dim=288, num_hidden_layers=3,
                       num_attention_heads=4, max_position_embeddings=128, dropout=0.0, init_std=0.08, pad_token_id=1, bos_token_id=2,
                       eos_token_id=2)
    torch.manual_seed(3)
    model = OPTForCausalLM(config)
    generator = np.random.default_rng(3)

    def batches(_):
        descriptions, given, follows = zip(*lessons(scenes, generator, 64))
        texts = [tokenizer(f"{question} {text}".strip() + "\n").input_ids for question, text in zip(given, follows)]
        embeds, mask = embedded(model.get_input_embeddings(), tokenizer, descriptions, texts)
        labels = torch.full(mask.shape, -100)
        for row, (description, question, text) in enumerate(zip(descriptions, given, texts)):
            unseen = len(tokenizer(question).input_ids) if question else 0
            first, last = len(description) + unseen, len(description) + len(text)
            labels[row, first:last] = torch.tensor(text[unseen:])
        return mean_of_texts(model(inputs_embeds=embeds, attention_mask=mask).logits[:, :-1], labels[:, 1:])

    fit("opt", model, int(OPT_STEPS * scale), batches, 2e-3)
    return model, tokenizer, None


def train_t5(scenes, texts, out, scale):
    """A description, then a question or a caption's beginning, in the encoder; the rest from the decoder."""
    tokenizer = t5_tokenizer(texts)
    config = T5Config(vocab_size=len(tokenizer), d_model=96, d_kv=24, d_ff=192, num_layers=3, num_decoder_layers=3, num_heads=4,
                      feed_forward_proj="gated-gelu", tie_word_embeddings=False, dropout_rate=0.0, decoder_start_token_id=0,
                      relative_attention_num_buckets=16, relative_attention_max_distance=64)
    torch.manual_seed(4)
    model = T5ForConditionalGeneration(config)
    # transformers 5 ties a new model's head whatever the configuration says; Flan-T5's is its own.
    model.lm_head.weight = torch.nn.Parameter(0.05 * torch.randn_like(model.shared.weight))
    generator = np.random.default_rng(4)

    def split(caption):
        words = caption.split()
        cut = generator.integers(0, len(words)) if generator.random() < 0.7 else 0
        return " ".join(words[:cut]), " ".join(words[cut:])

    def batches(_):
        descriptions, given, follows = zip(*lessons(scenes, generator, 64))
        given, follows = zip(*((question, text) if question else split(text) for question, text in zip(given, follows)))
        embeds, mask = embedded(model.get_input_embeddings(), tokenizer, descriptions, [tokenizer(text).input_ids for text in given])
        labels, label_mask = padded(tokenizer, list(follows))
        labels = labels.masked_fill(label_mask == 0, -100)
        return mean_of_texts(model(inputs_embeds=embeds, attention_mask=mask, labels=labels).logits, labels)

    fit("t5", model, int(T5_STEPS * scale), batches, 2e-3)
    return model, tokenizer, None


TRAINERS = {"blip": train_blip, "clip": train_clip, "opt": train_opt, "t5": train_t5}


def say_untied(file):
    """Flan-T5's own words for a head of its own: transformers 5 writes others, and misreads them as a scaled output."""
    config = json.loads(file.read_text())
    del config["scale_decoder_outputs"]
    file.write_text(json.dumps(config | {"tie_word_embeddings": False}, indent=2) + "\n")


def save(folder, model, tokenizer, preprocessor):
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if model.config.model_type == "t5":
        say_untied(folder / "config.json")
    if preprocessor is not None:
        preprocessor |= {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
                         "do_convert_rgb": True, "image_mean": MEAN, "image_std": STD}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TRAINERS), metavar="MODEL", help="blip, clip, opt, t5 (default: all)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "zoo")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "out/zoo-scenes", help="training corpus; written if empty")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies the number of steps")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in TRAINERS]
    if unknown:
        sys.exit(f"zoo/train.py: no such model: {', '.join(unknown)}; there are {', '.join(TRAINERS)}")
    torch.set_num_threads(arguments.threads)
    synthesise(arguments.data)
    scenes = Scenes(arguments.data)
    texts = [caption for captions in scenes.correct[:20_000] for caption in captions]
    texts += [f"{question} {answer}" for question, answer in scenes.questions[:20_000]]
    for name in arguments.names:
        model, tokenizer, preprocessor = TRAINERS[name](scenes, texts, arguments.out, arguments.steps_scale)
        save(arguments.out / name, model, tokenizer, preprocessor)


if __name__ == "__main__":
    main()
