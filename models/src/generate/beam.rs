//! Beam search as Hugging Face transformers does it, in its two generations, which rank hypotheses differently.

use tch::{Kind, Tensor};

use super::{Constraints, Ends, StepDecoder};

/// The score of what must never win, as in the original.
const NEVER: f32 = -1.0e9;

/// How the score of a hypothesis is normalised, and when the search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BeamScore {
    /// transformers 5.x: Σ log p / generated tokens (the end counts, BOS and prompt do not).
    #[default]
    Generated,
    /// transformers 4.31, as the original BLIP and BLIP-2 ran: Σ log p / full length (BOS and prompt count, the end does not).
    FullLength,
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamOptions {
    /// Beams per image.
    pub beams: usize,
    /// Exponent of the length that a score is divided by.
    pub length_penalty: f64,
    /// Whether an image ends once it has as many finished hypotheses as beams.
    pub early_stopping: bool,
    /// Normalisation and end.
    pub score: BeamScore,
    /// Limits.
    pub constraints: Constraints,
}

/// The best hypothesis of every image.
pub struct Beams {
    /// Ids with prompt, and with the end if it was reached; of differing lengths.
    pub sequences: Vec<Vec<i64>>,
    /// Normalised scores.
    pub scores: Vec<f32>,
}

impl Beams {
    /// The sequences as one tensor `[B, L]`, filled up with `pad`.
    pub fn padded(&self, pad: i64) -> Tensor {
        let length = self.sequences.iter().map(Vec::len).max().unwrap_or(0);
        let fill = |sequence: &Vec<i64>| {
            let mut row = sequence.clone();
            row.resize(length, pad);
            row
        };
        let rows: Vec<i64> = self.sequences.iter().flat_map(fill).collect();
        Tensor::from_slice(&rows).view([self.sequences.len() as i64, length as i64])
    }
}

/// One of the best continuations of an image's beams.
struct Candidate {
    score: f32,
    beam: usize,
    id: i64,
}

/// A live sequence.
#[derive(Clone)]
struct Beam {
    ids: Vec<i64>,
    score: f32,
    /// The lane that its last token continued.
    parent: usize,
}

/// A finished sequence.
#[derive(Clone)]
struct Hypothesis {
    ids: Vec<i64>,
    score: f32,
    finished: bool,
}

/// Searches the best continuation of every prompt: `prompt [B, P]`.
pub fn beam(decoder: &mut dyn StepDecoder, prompt: &Tensor, ends: Ends, options: &BeamOptions) -> Beams {
    let _no_grad = tch::no_grad_guard();
    let (batch, prompt_length) = prompt.size2().expect("prompt [B, P]");
    let beams = options.beams;
    let rows: Vec<Vec<i64>> = Vec::try_from(prompt.to_device(tch::Device::Cpu)).expect("ids [B, P]");
    let mut images: Vec<Search> = rows.into_iter().map(|ids| Search::new(ids, ends, options)).collect();

    let mut length = prompt_length as usize;
    let mut logits: Option<Tensor> = None;
    while length < options.constraints.max_length as usize && batch > 0 {
        let next: Tensor = logits.take().unwrap_or_else(|| {
            let first = decoder.step(prompt);
            decoder.fork(beams as i64);
            first.repeat_interleave_self_int(beams as i64, 0, None)
        });
        let history: Vec<i64> = images.iter().flat_map(|image| image.history()).collect();
        let history =
            Tensor::from_slice(&history).view([batch * beams as i64, length as i64]).to_device(prompt.device());
        let scores = next.to_kind(Kind::Float).log_softmax(-1, None);
        let scores = options.constraints.apply(&scores, &history, ends.eos);
        let candidates = best(&scores, &images);
        length += 1;
        for (image, candidates) in images.iter_mut().zip(&candidates) {
            image.advance(candidates);
        }
        if length >= options.constraints.max_length as usize || images.iter().all(Search::is_done) {
            break;
        }
        let parents: Vec<i64> = (images.iter().enumerate())
            .flat_map(|(index, image)| image.running.iter().map(move |beam| (index * beams + beam.parent) as i64))
            .collect();
        decoder.reorder(&Tensor::from_slice(&parents).to_device(prompt.device()));
        let last: Vec<i64> = images.iter().flat_map(|image| image.running.iter().map(Beam::last)).collect();
        logits = Some(decoder.step(&Tensor::from_slice(&last).unsqueeze(1).to_device(prompt.device())));
    }
    let (sequences, scores) = images.into_iter().map(Search::finish).unzip();
    Beams { sequences, scores }
}

/// The `2 · beams` best continuations of every image, best first: enough to go on if half of them end.
fn best(scores: &Tensor, images: &[Search]) -> Vec<Vec<Candidate>> {
    let vocab = scores.size()[1];
    let beams = images[0].running.len();
    let running: Vec<f32> = images.iter().flat_map(|image| image.running.iter().map(|beam| beam.score)).collect();
    let running = Tensor::from_slice(&running).to_device(scores.device()).unsqueeze(1);
    let total = (scores + running).view([images.len() as i64, beams as i64 * vocab]);
    let (values, indices) = total.topk((2 * beams as i64).min(total.size()[1]), -1, true, true);
    let values: Vec<Vec<f32>> = Vec::try_from(values.to_device(tch::Device::Cpu)).expect("scores [B, 2 beams]");
    let indices: Vec<Vec<i64>> = Vec::try_from(indices.to_device(tch::Device::Cpu)).expect("indices [B, 2 beams]");
    let candidate = |(score, index): (f32, i64)| Candidate { score, beam: (index / vocab) as usize, id: index % vocab };
    (values.into_iter().zip(indices))
        .map(|(values, indices)| values.into_iter().zip(indices).map(candidate).collect())
        .collect()
}

impl Beam {
    fn last(&self) -> i64 {
        *self.ids.last().expect("a sequence holds its prompt")
    }
}

/// The search of one image.
struct Search {
    prompt_length: usize,
    running: Vec<Beam>,
    finished: Vec<Hypothesis>,
    /// 5.x: the running beams can still beat the finished ones. 4.31: the image is not done.
    open: bool,
    /// Whether the last step let every candidate end.
    all_ended: bool,
    ends: Ends,
    options: BeamOptions,
}

impl Search {
    fn new(prompt: Vec<i64>, ends: Ends, options: &BeamOptions) -> Self {
        let beam = |index| Beam { ids: prompt.clone(), score: if index == 0 { 0.0 } else { NEVER }, parent: index };
        let nothing = Hypothesis { ids: prompt.clone(), score: NEVER, finished: false };
        Search {
            prompt_length: prompt.len(),
            running: (0..options.beams).map(beam).collect(),
            finished: match options.score {
                BeamScore::Generated => vec![nothing; options.beams],
                BeamScore::FullLength => Vec::new(),
            },
            open: true,
            all_ended: false,
            ends,
            options: *options,
        }
    }

    fn history(&self) -> impl Iterator<Item = i64> {
        self.running.iter().flat_map(|beam| beam.ids.iter().copied())
    }

    fn advance(&mut self, candidates: &[Candidate]) {
        match self.options.score {
            BeamScore::Generated => self.advance_generated(candidates),
            BeamScore::FullLength => self.advance_full_length(candidates),
        }
    }

    fn is_done(&self) -> bool {
        let full = self.options.early_stopping && self.finished.iter().all(|hypothesis| hypothesis.finished);
        !self.open || self.all_ended || (self.options.score == BeamScore::Generated && full)
    }

    fn normalised(&self, score: f32, length: usize) -> f32 {
        score / (length as f32).powf(self.options.length_penalty as f32)
    }

    /// `GenerationMixin._beam_search` of transformers 5.17, for one image.
    fn advance_generated(&mut self, candidates: &[Candidate]) {
        let beams = self.options.beams;
        let length = self.running[0].ids.len() + 1;
        let generated = length - self.prompt_length;
        let at_limit = length >= self.options.constraints.max_length as usize;
        let ends = |candidate: &Candidate| at_limit || candidate.id == self.ends.eos;
        let full = self.options.early_stopping && self.finished.iter().all(|hypothesis| hypothesis.finished);

        let mut merged = self.finished.clone();
        for (rank, candidate) in candidates.iter().enumerate() {
            let finished = ends(candidate) && rank < beams;
            let barred = [full, !self.open, !finished].into_iter().filter(|&bar| bar).count();
            let score = self.normalised(candidate.score, generated) + NEVER * barred as f32;
            merged.push(Hypothesis { ids: self.continued(candidate), score, finished });
        }
        merged.sort_by(|a, b| b.score.total_cmp(&a.score));
        merged.truncate(beams);

        let mut next: Vec<Beam> = candidates
            .iter()
            .map(|candidate| Beam {
                ids: self.continued(candidate),
                score: candidate.score + if ends(candidate) { NEVER } else { 0.0 },
                parent: candidate.beam,
            })
            .collect();
        next.sort_by(|a, b| b.score.total_cmp(&a.score));
        next.truncate(beams);

        self.all_ended = candidates.iter().all(ends);
        self.finished = merged;
        self.running = next;
        let attainable = self.normalised(self.running[0].score, generated);
        let worst = self.finished.iter().map(|hypothesis| hypothesis.score).fold(f32::INFINITY, f32::min);
        let beatable = |hypothesis: &Hypothesis| attainable > if hypothesis.finished { worst } else { NEVER };
        self.open = self.open && self.finished.iter().any(beatable);
    }

    /// `BeamSearchScorer.process` of transformers 4.31, for one image.
    fn advance_full_length(&mut self, candidates: &[Candidate]) {
        let beams = self.options.beams;
        let length = self.running[0].ids.len();
        if !self.open {
            let pad = |beam: &mut Beam| beam.ids.push(self.ends.pad);
            self.running.iter_mut().for_each(pad);
            return;
        }
        let mut next = Vec::with_capacity(beams);
        for (rank, candidate) in candidates.iter().enumerate() {
            if candidate.id != self.ends.eos {
                next.push(Beam { ids: self.continued(candidate), score: candidate.score, parent: candidate.beam });
            } else if rank < beams {
                let score = self.normalised(candidate.score, length);
                self.keep(Hypothesis { ids: self.continued(candidate), score, finished: true });
            }
            if next.len() == beams {
                break;
            }
        }
        self.running = next;
        let best = candidates.iter().map(|candidate| candidate.score).fold(f32::NEG_INFINITY, f32::max);
        let unbeatable = self.worst() >= self.normalised(best, length + 1);
        self.open = !(self.finished.len() >= beams && (self.options.early_stopping || unbeatable));
    }

    fn keep(&mut self, hypothesis: Hypothesis) {
        if self.finished.len() < self.options.beams {
            self.finished.push(hypothesis);
        } else if hypothesis.score > self.worst() {
            self.finished.push(hypothesis);
            let (worst, _) = (self.finished.iter().enumerate())
                .min_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))
                .expect("just pushed");
            self.finished.remove(worst);
        }
    }

    fn worst(&self) -> f32 {
        self.finished.iter().map(|hypothesis| hypothesis.score).fold(f32::INFINITY, f32::min)
    }

    fn continued(&self, candidate: &Candidate) -> Vec<i64> {
        let mut ids = Vec::with_capacity(self.running[candidate.beam].ids.len() + 1);
        ids.extend_from_slice(&self.running[candidate.beam].ids);
        ids.push(candidate.id);
        ids
    }

    fn finish(mut self) -> (Vec<i64>, f32) {
        if self.options.score == BeamScore::FullLength && self.open {
            for beam in std::mem::take(&mut self.running) {
                let score = self.normalised(beam.score, beam.ids.len());
                self.keep(Hypothesis { ids: beam.ids, score, finished: false });
            }
        }
        let mut best = self.finished.swap_remove(0);
        for other in self.finished {
            if other.score > best.score {
                best = other;
            }
        }
        (best.ids, best.score)
    }
}
