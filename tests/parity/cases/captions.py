"""BLEU and CIDEr of random captions on random references, by pycocoevalcap's own scorers."""

import torch
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer

from .shared import write_case

WORDS = "a the red blue small large circle square dog cat on above under near two runs 's n't".split()


def sentence(rng, longest):
    """Few words, so that long n-grams recur; now and then none at all."""
    return [rng.choice(WORDS) for _ in range(rng.randint(0 if rng.random() < 0.1 else 1, longest))]


def varied(rng, tokens):
    """A reference that shares most of its n-grams with `tokens`."""
    kept = [token for token in tokens if rng.random() > 0.15]
    return kept + sentence(rng, 3) if rng.random() < 0.5 else kept or sentence(rng, 5) or ["a"]


def caption_metrics(rng, folder, dtype):
    images = []
    for _ in range(rng.choice([1, 2, 7, 40])):
        hypothesis = sentence(rng, 14)
        references = [
            varied(rng, hypothesis) if rng.random() < 0.7 else sentence(rng, 12) or ["the"] for _ in range(rng.randint(1, 5))
        ]
        images.append({"hypothesis": hypothesis, "references": references})
    bleu, cider = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
    for image in images:
        pair = (" ".join(image["hypothesis"]), [" ".join(reference) for reference in image["references"]])
        bleu += pair
        cider += pair
    corpus, _ = bleu.compute_score(option="closest", verbose=0)
    mean, each = cider.compute_score()
    expected = {"bleu": corpus, "cider": each.tolist(), "cider_mean": [float(mean)]}
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in expected.items()}
    write_case(folder, {"images": images}, {}, {}, tensors)


KINDS = {"caption_metrics": caption_metrics}
