//! Nucleus sampling with lanes that are filled again: where sequences have ended, the next image's begin, so that the
//! batch stays full however much their lengths differ.
//!
//! A lane holds one sequence at a time, an image slot one image. Which lanes and which slot an image gets depends on the
//! images before it and the lengths of their sequences alone: the lowest that are free.

use tch::{Device, Kind, Tensor};

use super::draw::draw;
use super::{Ends, SamplingOptions, indices};

/// Once no image follows, lanes that have ended leave when they are this share of all: leaving costs a copy of the caches.
const LEAVING: f64 = 0.2;

/// A model that continues sequences which begin at times of their own.
pub trait SlotDecoder {
    /// Puts images, `states [images, ..]`, into `slots` and begins a sequence in each of `lanes`, as many for every image,
    /// image by image: feeds them `prompt` and gives the logits behind it, `[images, vocab]`.
    fn begin(&mut self, states: &Tensor, slots: &[usize], lanes: &[usize], prompt: &[i64]) -> Tensor;
    /// Feeds each lane an id at its own place in its sequence, `ids` and `positions` `[lanes]`, all below `length`; gives the
    /// logits behind them, `[lanes, vocab]`.
    fn step(&mut self, ids: &Tensor, positions: &Tensor, length: i64) -> Tensor;
    /// Goes on with these lanes alone, as lanes 0, 1, …
    fn keep(&mut self, lanes: &[usize]);
}

/// How much there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotShape {
    /// Images at a time.
    pub slots: usize,
    /// Sequences at a time.
    pub lanes: usize,
    /// Sequences of an image.
    pub copies: usize,
}

/// The sequences of many images in the making.
pub struct SlotSampler<D> {
    decoder: D,
    /// With BOS.
    prompt: Vec<i64>,
    ends: Ends,
    options: SamplingOptions,
    copies: usize,
    /// Steps between two looks at who has ended: a look waits for the device.
    look_every: u64,
    /// What each lane holds.
    lanes: Vec<Option<Place>>,
    slots: Vec<Option<InSlot>>,
    /// Whether further images come.
    closing: bool,
    steps: u64,
    state: Option<State>,
}

#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    copy: usize,
    /// The step at which the sequence began.
    since: u64,
}

struct InSlot {
    tag: usize,
    open: usize,
    texts: Vec<Vec<i64>>,
}

/// Where the lanes are, on the device. A sequence has `max_length` ids at most; a column more takes what is written behind.
struct State {
    /// `[lanes, max_length + 1]`, filled up with the first id.
    history: Tensor,
    /// `[lanes]`: ids that each has; its next one comes there.
    lengths: Tensor,
    /// `[lanes]`: whether it goes on.
    open: Tensor,
    /// `[lanes, max_length]`: what is drawn for each generated id.
    draws: Tensor,
    /// `[lanes, vocab]`, behind the last id.
    logits: Tensor,
}

impl<D: SlotDecoder> SlotSampler<D> {
    /// Nothing in the making yet. `prompt` is what every sequence begins with, BOS included, and shorter than
    /// `options.max_length`.
    pub fn new(
        decoder: D,
        shape: SlotShape,
        prompt: Vec<i64>,
        ends: Ends,
        options: SamplingOptions,
        device: Device,
    ) -> Self {
        assert!(!prompt.is_empty() && (prompt.len() as i64) < options.max_length, "nothing to begin with, or no room");
        assert!(shape.slots > 0 && shape.lanes >= shape.copies, "no room for an image: {shape:?}");
        SlotSampler {
            decoder,
            prompt,
            ends,
            options,
            copies: shape.copies,
            look_every: if device == Device::Cpu { 1 } else { 4 },
            lanes: vec![None; shape.lanes],
            slots: (0..shape.slots).map(|_| None).collect(),
            closing: false,
            steps: 0,
            state: None,
        }
    }

    /// Images that can be admitted now.
    pub fn room(&self) -> usize {
        free(&self.slots).count().min(free(&self.lanes).count() / self.copies.max(1))
    }

    /// Whether no sequence is in the making.
    pub fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Nothing is admitted any more.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Begins the sequences of images that there is room for: `states [images, ..]`, called `tags`.
    ///
    /// `draw(image, copy, step)` in [0, 1) is for the `step`-th generated id of a sequence of the `image`-th of these; it must
    /// be a pure function of the three, and may be asked for ids that an early end makes unnecessary.
    pub fn admit(&mut self, tags: &[usize], states: &Tensor, draw: &mut dyn FnMut(usize, usize, usize) -> f64) {
        let _no_grad = tch::no_grad_guard();
        assert!(tags.len() <= self.room() && !self.closing, "{} images, room for {}", tags.len(), self.room());
        let slots: Vec<usize> = free(&self.slots).take(tags.len()).collect();
        let lanes: Vec<usize> = free(&self.lanes).take(tags.len() * self.copies).collect();
        for (index, (&slot, &tag)) in slots.iter().zip(tags).enumerate() {
            self.slots[slot] = Some(InSlot { tag, open: self.copies, texts: vec![Vec::new(); self.copies] });
            for (copy, &lane) in lanes[index * self.copies..][..self.copies].iter().enumerate() {
                self.lanes[lane] = Some(Place { slot, copy, since: self.steps });
            }
        }
        let steps = self.options.max_length as usize;
        let mut draws = Vec::with_capacity(lanes.len() * steps);
        for image in 0..tags.len() {
            for copy in 0..self.copies {
                draws.extend((0..steps).map(|step| draw(image, copy, step)));
            }
        }
        let logits = self.decoder.begin(states, &slots, &lanes, &self.prompt);
        let logits = logits.repeat_interleave_self_int(self.copies as i64, 0, None);
        let count = self.lanes.len() as i64;
        let state = self.state.get_or_insert_with(|| State::new(count, self.options.max_length, &logits));
        let draws = Tensor::from_slice(&draws).view([-1, steps as i64]).to_device(logits.device());
        state.begin(&indices(&lanes, logits.device()), &self.prompt, &draws, &logits);
    }

    /// Draws the next id of every sequence; gives the images all of whose sequences have ended, by their tags, without
    /// prompt and end.
    pub fn step(&mut self) -> Vec<(usize, Vec<Vec<i64>>)> {
        let _no_grad = tch::no_grad_guard();
        let Some(state) = &mut self.state else { return Vec::new() };
        let (ids, positions) = state.choose(&self.options, self.ends, self.prompt.len() as i64);
        self.steps += 1;
        let done = if self.steps.is_multiple_of(self.look_every) { self.look() } else { Vec::new() };
        if self.is_idle() {
            return done;
        }
        let (ids, positions) = match self.let_go() {
            Some(kept) => (ids.index_select(0, &kept), positions.index_select(0, &kept)),
            None => (ids, positions),
        };
        let ages = self.lanes.iter().flatten().map(|place| self.steps - place.since);
        let longest = self.prompt.len() as i64 + ages.max().unwrap_or(0) as i64;
        let logits = self.decoder.step(&ids, &positions, longest.min(self.options.max_length + 1));
        self.state.as_mut().expect("something was admitted").logits = logits;
        done
    }

    /// Takes out the sequences that have ended.
    fn look(&mut self) -> Vec<(usize, Vec<Vec<i64>>)> {
        let state = self.state.as_ref().expect("something was admitted");
        let open: Vec<bool> = Vec::try_from(&state.open).expect("flags [lanes]");
        let ended: Vec<usize> = (0..open.len()).filter(|lane| !open[*lane] && self.lanes[*lane].is_some()).collect();
        if ended.is_empty() {
            return Vec::new();
        }
        let history = state.history.index_select(0, &indices(&ended, state.history.device()));
        let history: Vec<Vec<i64>> = Vec::try_from(history.to_device(Device::Cpu)).expect("ids [ended, length]");
        let mut done = Vec::new();
        for (lane, ids) in ended.into_iter().zip(history) {
            let Place { slot, copy, .. } = self.lanes[lane].take().expect("it was taken");
            let in_slot = self.slots[slot].as_mut().expect("a lane's slot is taken");
            in_slot.texts[copy] = self.ends.trim(&ids[self.prompt.len()..self.options.max_length as usize]).to_vec();
            in_slot.open -= 1;
            if in_slot.open == 0 {
                let InSlot { tag, texts, .. } = self.slots[slot].take().expect("as above");
                done.push((tag, texts));
            }
        }
        done
    }

    /// Once no image follows: lanes without a sequence leave when they are enough. The lanes that stay.
    fn let_go(&mut self) -> Option<Tensor> {
        let kept: Vec<usize> = (0..self.lanes.len()).filter(|lane| self.lanes[*lane].is_some()).collect();
        let idle = self.lanes.len() - kept.len();
        if !self.closing || kept.is_empty() || (idle as f64) < LEAVING * self.lanes.len() as f64 {
            return None;
        }
        self.lanes.retain(Option::is_some);
        self.decoder.keep(&kept);
        let state = self.state.as_mut().expect("something was admitted");
        let kept = indices(&kept, state.history.device());
        state.keep(&kept);
        Some(kept)
    }
}

impl State {
    fn new(lanes: i64, max_length: i64, logits: &Tensor) -> Self {
        let device = logits.device();
        State {
            history: Tensor::zeros([lanes, max_length + 1], (Kind::Int64, device)),
            lengths: Tensor::zeros([lanes], (Kind::Int64, device)),
            open: Tensor::zeros([lanes], (Kind::Bool, device)),
            draws: Tensor::zeros([lanes, max_length], (Kind::Double, device)),
            logits: Tensor::zeros([lanes, logits.size()[1]], (logits.kind(), device)),
        }
    }

    /// `lanes [n]`, `draws [n, max_length]`, `logits [n, vocab]`
    fn begin(&mut self, lanes: &Tensor, prompt: &[i64], draws: &Tensor, logits: &Tensor) {
        let mut row = vec![prompt[0]; self.history.size()[1] as usize];
        row[..prompt.len()].copy_from_slice(prompt);
        let rows = Tensor::from_slice(&row).to_device(lanes.device()).repeat([lanes.size()[0], 1]);
        let _ = self.history.index_copy_(0, lanes, &rows);
        let _ = self.lengths.index_fill_(0, lanes, prompt.len() as i64);
        let _ = self.open.index_fill_(0, lanes, 1);
        let _ = self.draws.index_copy_(0, lanes, draws);
        let _ = self.logits.index_copy_(0, lanes, logits);
    }

    /// Draws the next id of every lane, one that has ended gets a pad. The ids, and where they stand: `[lanes]` each.
    fn choose(&mut self, options: &SamplingOptions, ends: Ends, prompt: i64) -> (Tensor, Tensor) {
        let scores = options.constraints().apply_each(&self.logits, &self.history, &self.lengths, ends.eos);
        let step = (&self.lengths - prompt).clamp(0, options.max_length - 1);
        let draws = self.draws.gather(1, &step.unsqueeze(1), false).squeeze_dim(1);
        let ids = draw(&scores, &draws, options).where_scalarother(&self.open, ends.pad);
        let positions = self.lengths.copy();
        let _ = self.history.scatter_(1, &positions.unsqueeze(1), &ids.unsqueeze(1));
        let lengths = &positions + &self.open;
        self.open = self.open.logical_and(&ids.ne(ends.eos)).logical_and(&lengths.lt(options.max_length));
        self.lengths = lengths;
        (ids, positions)
    }

    fn keep(&mut self, lanes: &Tensor) {
        for tensor in [&mut self.history, &mut self.lengths, &mut self.open, &mut self.draws] {
            *tensor = tensor.index_select(0, lanes);
        }
    }
}

/// The places that hold nothing, lowest first.
fn free<T>(places: &[Option<T>]) -> impl Iterator<Item = usize> {
    (0..places.len()).filter(|at| places[*at].is_none())
}

#[cfg(test)]
mod tests;
