"""The BLIP captioner, against BlipForConditionalGeneration."""

import torch
from transformers import BlipConfig, BlipForConditionalGeneration
from transformers.generation import (
    LogitsProcessorList, MinLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
    TopKLogitsWarper, TopPLogitsWarper,
)

from .shared import (
    count, dtype_field, halve_linears, heads_and_width, in_precision, pixels_for, randomise, vision_config,
    without_buffers, write_case,
)


def filters(logits, prefix, vocab_eos):
    """Every step of sampling apart, and whole pipelines, by transformers' own processors."""
    expected = {}

    def keep(name, *processors):
        out = LogitsProcessorList(processors)(prefix, logits.clone())
        expected[f"{name}/keep"], expected[f"{name}/probs"] = out.isfinite(), out.softmax(-1)

    penalty, minimum = RepetitionPenaltyLogitsProcessor(1.1), MinLengthLogitsProcessor(8, vocab_eos)
    expected["repetition_penalty_1.1/logits"] = penalty(prefix, logits.clone())
    for p in (0.5, 0.9):
        keep(f"top_p_{p}", TopPLogitsWarper(p))
    keep("pipeline_no_topk", penalty, minimum, TopPLogitsWarper(0.9))
    keep("pipeline", penalty, minimum, TemperatureLogitsWarper(0.7), TopKLogitsWarper(50), TopPLogitsWarper(0.9))
    return expected


def loss(logits, labels, smoothing):
    """The language-modelling loss in fp32."""
    targets = labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets, label_smoothing=smoothing)


def blip_caption(rng, folder, dtype):
    """BlipForConditionalGeneration: states, teacher forcing, greedy, beam search, sampling filters."""
    heads, width = heads_and_width(rng)
    vocab, beams, batch = rng.randint(60, 120), rng.randint(2, 4), rng.randint(1, 4)
    vision = {**vision_config(rng, 8), "hidden_act": "gelu"}
    text = {
        "vocab_size": vocab, "hidden_size": width, "encoder_hidden_size": vision["hidden_size"], "intermediate_size": 2 * width,
        "num_hidden_layers": rng.randint(2, 3), "num_attention_heads": heads, "max_position_embeddings": 40, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "bos_token_id": vocab - 2,
        "pad_token_id": 0, "sep_token_id": 4, "eos_token_id": 4, "is_decoder": True, "label_smoothing": rng.choice([0.0, 0.1]),
    }
    config = {
        "text_config": text, "vision_config": vision, "max_length": 13, "min_length": 6, "num_beams": beams,
        "length_penalty": rng.choice([1.0, 0.6]), "early_stopping": False, "beam_generations": ["5.x"],
    }
    model = randomise(BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)))
    with torch.no_grad():  # some captions should end
        model.text_decoder.cls.predictions.bias[4] += 1.5
        model.text_decoder.cls.predictions.decoder.bias[4] = model.text_decoder.cls.predictions.bias[4]
    if dtype != torch.float32:  # at full size a rounding of the image's states can turn a position's attention over
        halve_linears(model.text_decoder.bert)
    pixels = pixels_for(dtype, batch, 3, vision["image_size"], vision["image_size"])
    prompt = torch.tensor([[3] + [rng.randint(6, vocab - 3) for _ in range(rng.randint(1, 4))] + [4]] * batch)
    body = prompt.shape[1] - 2
    lengths = [rng.randint(2, 7) for _ in range(batch)]
    ids = torch.zeros(batch, 2 + body + max(lengths), dtype=torch.long)
    for row, words in enumerate(lengths):
        caption = [rng.randint(6, vocab - 3) for _ in range(words)]
        sequence = [vocab - 2] + prompt[row, 1:-1].tolist() + caption + [4]
        ids[row, :len(sequence)] = torch.tensor(sequence)
    mask = (ids != 0).long()
    all_labels = ids.masked_fill(mask == 0, -100)
    labels = all_labels.clone()
    labels[:, :body + 1] = -100

    def compute(model):
        vision_states = model.vision_model(pixels).last_hidden_state

        def forced(labels):
            return model.text_decoder(ids, attention_mask=mask, encoder_hidden_states=vision_states, labels=labels, reduction="mean")

        # the loss of logits in fp32, as quern takes it; transformers' own is of logits in the model's precision
        logits = forced(None).logits
        losses = {"loss_prompt_masked": labels, "loss_no_prompt_mask": all_labels}
        smoothing = text["label_smoothing"]
        return {
            "vision_embeddings": model.vision_model.embeddings(pixels), "vision_last_hidden_state": vision_states,
            "logits": logits,
            **{name: forced(labels).loss if dtype == torch.float32 else loss(logits, labels, smoothing)
               for name, labels in losses.items()},
        }

    model, expected = in_precision(model, dtype, compute)
    config.update(dtype_field(dtype))
    inputs = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "labels": labels}
    if dtype != torch.float32:  # a rounding would change which of two near tokens comes next: no ids
        return write_case(folder, config, without_buffers(model.state_dict()), inputs, expected)
    lengths = {"max_length": config["max_length"], "min_length": config["min_length"], "do_sample": False}

    def generate(name, **options):
        expected[name] = model.generate(pixels, **{**lengths, **options})

    generate("greedy_ids")
    generate("greedy_no_min_length_ids", min_length=0)
    generate("greedy_rep1.1_ids", repetition_penalty=1.1)
    generate("greedy_prompt_ids", input_ids=prompt.clone())
    for infix, extra in (("", {}), ("_prompt", {"input_ids": prompt.clone()})):
        out = model.generate(pixels, **lengths, **extra, num_beams=beams, length_penalty=config["length_penalty"],
                             early_stopping=False, return_dict_in_generate=True, output_scores=True)
        # transformers takes pad id 0 for "none" and fills with the end: fill with the pad, as its other searches do
        ended = (out.sequences == 4).cumsum(1) - (out.sequences == 4).long() > 0
        expected[f"beam{beams}{infix}_ids"] = out.sequences.masked_fill(ended, 0)
        expected[f"beam{beams}{infix}_scores"] = out.sequences_scores
    logits, prefix = torch.randn(6, vocab) * 2, torch.randint(5, vocab, (6, 5))
    logits[4, :20] = 1.0
    logits[5] = 0.0
    expected.update(filters(logits, prefix, 4))
    inputs.update({"prompt_tok": prompt, "proc_logits": logits, "proc_prefix": prefix})
    write_case(folder, config, without_buffers(model.state_dict()), inputs, expected)


KINDS = {"blip_caption": blip_caption}
DTYPES = {"blip_caption": [torch.bfloat16]}
COUNTS = {"blip": lambda config: count(BlipForConditionalGeneration(BlipConfig(**config)))}
