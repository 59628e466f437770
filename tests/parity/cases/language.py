"""The language models of stage 2, against OPTForCausalLM and T5ForConditionalGeneration with `inputs_embeds`.

A case's `model/` is a folder as save_pretrained writes it. Expected are logits, loss and its gradient by the visual tokens
for texts of different lengths; and, in float32 (where rounding does not choose), what greedy and beam search say after
prompts of different lengths.

ReLU's derivative jumps: one rounding of a state near zero changes a gradient at random. In half precision a GELU stands in
its place, and OPT's weights are halved: the original's gradient is then off by 1 to 6 %, and one case is like another.
"""

import json

import torch
import transformers
from transformers import OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from .shared import count, dtype_field, halve_linears, in_precision, randomise, write_case

transformers.utils.logging.disable_progress_bar()

NEW_TOKENS, MIN_NEW_TOKENS, END = 9, 3, 5


def ragged(rng, batch, vocab, pad, first=(), last=(), left=False):
    """Rows of different lengths of random ids, and their mask."""
    lengths = rng.sample(range(1, batch + 5), batch)
    rows = [[*first, *(rng.randint(6, vocab - 1) for _ in range(length)), *last] for length in lengths]
    width = max(map(len, rows))
    filled = [[pad] * (width - len(row)) + row if left else row + [pad] * (width - len(row)) for row in rows]
    ones = [[0] * (width - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(filled), torch.tensor(ones)


def with_visual(mask, visual):
    return torch.cat([torch.ones(visual.shape[:2], dtype=mask.dtype), mask], dim=1)


def losses(predicted, targets, leaf, logits):
    """The mean loss, its gradient by the visual tokens, and all logits."""
    loss = torch.nn.functional.cross_entropy(predicted.flatten(0, 1), targets.flatten())
    gradient, = torch.autograd.grad(loss, leaf)
    return {"loss": loss, "gradient": gradient, "logits": logits}


def said_after(model, config, expected, skip, **prompt):
    """Greedy and beam search, as ids after the first `skip`."""
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": MIN_NEW_TOKENS, "do_sample": False, "eos_token_id": END}
    pad = model.config.pad_token_id
    expected["greedy_ids"] = model.generate(**prompt, **options)[:, skip:]
    out = model.generate(**prompt, **options, num_beams=config["num_beams"], length_penalty=config["length_penalty"],
                         early_stopping=False, return_dict_in_generate=True, output_scores=True)
    ids = out.sequences[:, skip:]
    # transformers takes pad id 0 for "none" and fills with the end: fill with the pad, as its other searches do
    ended = (ids == END).cumsum(1) - (ids == END).long() > 0
    expected["beam_ids"] = ids.masked_fill(ended, pad)
    expected["beam_scores"] = out.sequences_scores


def finish(model, rng, folder, dtype, config, inputs, expected, generate, **rewritten):
    """Writes the case: the model as a folder (sharded at times), the rest as tensors."""
    config = {**dtype_field(dtype), "num_beams": rng.randint(2, 4),
              "length_penalty": rng.choice([1.0, 0.6, -1.0]), "eos_token_id": END, "new_tokens": NEW_TOKENS,
              "min_new_tokens": MIN_NEW_TOKENS, **config}
    if dtype == torch.float32:
        generate(config)
    write_case(folder, config, None, inputs, expected)
    model.save_pretrained(folder / "model", max_shard_size=rng.choice(["20KB", "1GB"]))
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **rewritten}))


def opt_lm(rng, folder, dtype, **changes):
    """OPTForCausalLM: right-padded texts, left-padded prompts."""
    heads = rng.choice([2, 3, 4])
    width = heads * rng.choice([8, 12])
    vocab, batch, queries = rng.randint(40, 90), rng.randint(2, 4), rng.randint(2, 6)
    shape = {
        "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": rng.randint(2, 4), "num_attention_heads": heads,
        "ffn_dim": width * rng.choice([2, 3]), "max_position_embeddings": 40, "dropout": 0.0,
        "activation_function": rng.choice(["relu", "gelu"]) if dtype == torch.float32 else "gelu", "word_embed_proj_dim": width,
    }
    shape.update({key: value(width) if callable(value) else value for key, value in changes.items()})
    visual = torch.randn(batch, queries, shape["word_embed_proj_dim"]).to(dtype).float()
    ids, mask = ragged(rng, batch, vocab, 1, first=[2], last=[END])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :rng.randint(0, 2)] = -100  # a prompt
    whole = with_visual(mask, visual)
    targets = torch.cat([torch.full(visual.shape[:2], -100), labels], 1)[:, 1:]

    @torch.enable_grad()
    def forced(model):
        leaf = visual.clone().requires_grad_()
        embedded = torch.cat([leaf.to(model.dtype), model.get_input_embeddings()(ids)], 1)
        logits = model(inputs_embeds=embedded, attention_mask=whole).logits.float()
        return losses(logits[:, :-1], targets, leaf, logits * whole.unsqueeze(-1))

    model = randomise(OPTForCausalLM(OPTConfig(**shape)))
    if dtype != torch.float32:
        halve_linears(model.model)
    model, expected = in_precision(model, dtype, forced)
    embed = model.get_input_embeddings()
    prompt, prompt_mask = ragged(rng, batch, vocab, 1, first=[2], left=True)
    inputs = {"visual": visual, "ids": ids, "mask": mask, "labels": labels, "prompt": prompt, "prompt_mask": prompt_mask}

    def generate(config):
        embedded = torch.cat([visual, embed(prompt)], 1)
        said_after(model, config, expected, 0, inputs_embeds=embedded, attention_mask=with_visual(prompt_mask, visual))

    finish(model, rng, folder, dtype, {}, inputs, expected, generate)


def opt_lm_narrow(rng, folder, dtype):
    """As 350m: layer norms behind, embeddings narrower than the states; no biases at times."""
    opt_lm(rng, folder, dtype, word_embed_proj_dim=lambda width: width // 2, do_layer_norm_before=False,
           enable_bias=rng.choice([True, False]))


def t5_lm(rng, folder, dtype, feed_forward="gated-gelu", tied=False):
    """T5ForConditionalGeneration: a text beside the visual tokens, another to be said."""
    heads, head_width, width = rng.choice([2, 3]), rng.choice([4, 8]), rng.choice([16, 24])
    vocab, batch, queries = rng.randint(40, 90), rng.randint(2, 4), rng.randint(2, 6)
    depth = rng.randint(2, 4)  # the decoder's may be smaller; if larger, transformers 5.17's cache is too short
    config = T5Config(
        vocab_size=vocab, d_model=width, d_kv=head_width, d_ff=width * rng.choice([2, 3]), num_layers=depth,
        num_decoder_layers=rng.randint(2, depth), num_heads=heads, relative_attention_num_buckets=rng.choice([8, 12]),
        relative_attention_max_distance=rng.choice([10, 20]), dropout_rate=0.0, feed_forward_proj=feed_forward,
        tie_word_embeddings=tied, decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    if not tied:  # transformers 5 ties every new model
        model.lm_head.weight = torch.nn.Parameter(torch.randn(vocab, width))
    for name, parameter in model.named_parameters():
        if "layer_norm" in name:
            parameter.normal_(1.0, 0.1)
        elif "relative_attention_bias" in name:
            parameter.normal_(0.0, 1.0)
    visual = torch.randn(batch, queries, width).to(dtype).float()
    ids, mask = ragged(rng, batch, vocab, 0, last=[1])
    said, said_mask = ragged(rng, batch, vocab, 0, last=[1])
    labels = said.masked_fill(said_mask == 0, -100)

    @torch.enable_grad()
    def forced(model):
        leaf = visual.clone().requires_grad_()
        logits = model(
            inputs_embeds=torch.cat([leaf.to(model.dtype), model.shared(ids)], 1), labels=labels,
            attention_mask=with_visual(mask, visual), decoder_attention_mask=said_mask,
        ).logits.float()
        return losses(logits, labels, leaf, logits * said_mask.unsqueeze(-1))

    model, expected = in_precision(model, dtype, forced)
    inputs = {"visual": visual, "ids": ids, "mask": mask, "labels": labels, "prompt": ids, "prompt_mask": mask}

    def generate(config):
        embedded = torch.cat([visual, model.shared(ids)], 1)
        said_after(model, config, expected, 1, inputs_embeds=embedded, attention_mask=with_visual(mask, visual))

    # public checkpoints say whether they are tied; transformers 5 says of all that they are, and notes the scale apart
    public = {"tie_word_embeddings": tied} if rng.choice([True, False]) else {}
    finish(model, rng, folder, dtype, {}, inputs, expected, generate, **public)


def t5_lm_tied(rng, folder, dtype):
    """Version 1.0: ReLU, and a head tied to the embedding and scaled."""
    t5_lm(rng, folder, dtype, "relu" if dtype == torch.float32 else "gelu_new", True)


def t5_count(config):
    """Without `tie_word_embeddings` the head is a tensor of its own, as in the checkpoint; transformers 5 ties it until it
    has read that."""
    model = T5ForConditionalGeneration(T5Config(**config))
    if not config.get("tie_word_embeddings", True):
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return count(model)


COUNTS = {"opt": lambda config: count(OPTForCausalLM(OPTConfig(**config))), "t5": t5_count}
KINDS = {"opt_lm": opt_lm, "opt_lm_narrow": opt_lm_narrow, "t5_lm": t5_lm, "t5_lm_tied": t5_lm_tied}
DTYPES = {stem: [torch.bfloat16] for stem in KINDS}
