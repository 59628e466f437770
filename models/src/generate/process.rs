//! What happens to logits before a token is chosen; every step equals its Hugging Face processor.

use tch::{Kind, Tensor};

/// Limits on sequences. Lengths count BOS and prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constraints {
    /// The end is forbidden before this many tokens.
    pub min_length: i64,
    /// No sequence grows beyond this many tokens.
    pub max_length: i64,
    /// Scores of ids that already occur are divided by this where positive, multiplied where negative; 1 = none.
    pub repetition_penalty: f64,
}

/// How captions are sampled. Lengths count BOS and prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingOptions {
    /// The smallest set of ids whose probability reaches this is kept; 1 = all.
    pub top_p: f64,
    /// Ids scoring below the k-th best are dropped before top-p.
    pub top_k: Option<i64>,
    /// Scores are divided by this.
    pub temperature: f64,
    /// The end is forbidden before this many tokens.
    pub min_length: i64,
    /// No sequence grows beyond this many tokens.
    pub max_length: i64,
    /// See [`Constraints::repetition_penalty`].
    pub repetition_penalty: f64,
}

impl Constraints {
    /// `logits [lanes, vocab]` after `history [lanes, t]` -> constrained scores, in fp32.
    pub fn apply(&self, logits: &Tensor, history: &Tensor, eos: i64) -> Tensor {
        let scores = self.penalise(logits, history);
        if history.size()[1] < self.min_length {
            let _ = scores.select(-1, eos).fill_(f64::NEG_INFINITY);
        }
        scores
    }

    /// As [`apply`](Constraints::apply) where lanes have sequences of differing `lengths [lanes]`: the `history` of each is
    /// filled up with an id that it has.
    pub fn apply_each(&self, logits: &Tensor, history: &Tensor, lengths: &Tensor, eos: i64) -> Tensor {
        let scores = self.penalise(logits, history);
        let _ = scores.select(-1, eos).masked_fill_(&lengths.lt(self.min_length), f64::NEG_INFINITY);
        scores
    }

    /// A tensor of its own, in fp32.
    fn penalise(&self, logits: &Tensor, history: &Tensor) -> Tensor {
        let scores = logits.to_kind(Kind::Float);
        if self.repetition_penalty == 1.0 {
            return if logits.kind() == Kind::Float { scores.copy() } else { scores };
        }
        let seen = scores.gather(-1, history, false);
        let lowered = (&seen * self.repetition_penalty).where_self(&seen.lt(0.0), &(&seen / self.repetition_penalty));
        scores.scatter(-1, history, &lowered)
    }
}

impl SamplingOptions {
    /// The limits among these options.
    pub fn constraints(&self) -> Constraints {
        Constraints {
            min_length: self.min_length,
            max_length: self.max_length,
            repetition_penalty: self.repetition_penalty,
        }
    }

    /// Temperature, top-k, top-p: `scores [lanes, vocab]` -> the same with -inf for every id that is dropped.
    ///
    /// Ties at the k-th best are all kept; in top-p, ids of equal score are dropped lowest id first.
    pub fn filter(&self, scores: &Tensor) -> Tensor {
        let mut scores = if self.temperature == 1.0 { scores.shallow_clone() } else { scores / self.temperature };
        let vocab = scores.size()[1];
        if let Some(k) = self.top_k.filter(|&k| k < vocab) {
            let (best, _) = scores.topk(k, -1, true, true);
            scores = scores.masked_fill(&scores.lt_tensor(&best.narrow(-1, k - 1, 1)), f64::NEG_INFINITY);
        }
        if self.top_p < 1.0 {
            let (ascending, ids) = scores.sort_stable(true, -1, false);
            let dropped = ascending.softmax(-1, None).cumsum(-1, None).le(1.0 - self.top_p);
            let _ = dropped.narrow(-1, vocab - 1, 1).fill_(0); // the best is always kept
            scores = scores.masked_fill(&dropped.scatter(-1, &ids, &dropped), f64::NEG_INFINITY);
        }
        scores
    }
}

/// The distribution over ids that filtered scores describe; 0 for dropped ids.
pub fn probabilities(filtered: &Tensor) -> Tensor {
    filtered.softmax(-1, None)
}
