//! BLIP's text decoder over image slots: captions that begin at times of their own, each image's keys and values in a slot.

use tch::{Kind, Tensor};

use super::text::{TextDecoder, see};
use crate::generate::{LaneCache, Lanes, SlotDecoder, SlotShape, indices};
use crate::layers::Mask;

/// Captions of the images in the slots.
pub struct BlipSlots<'a> {
    model: &'a TextDecoder,
    slots: i64,
    /// Each layer's keys and values of the images, `[slots, H, N, D]`; none before the first image.
    images: Vec<(Tensor, Tensor)>,
    caches: Vec<LaneCache>,
    slot_of: Vec<Option<usize>>,
    lanes: Lanes,
}

impl<'a> BlipSlots<'a> {
    /// Nothing begun yet; captions have up to `max_length` tokens.
    pub fn new(model: &'a TextDecoder, shape: SlotShape, max_length: i64) -> Self {
        let slot_of = vec![None; shape.lanes];
        // What follows a caption's end is fed behind it.
        let cache = |_| LaneCache::new(shape.lanes as i64, max_length + 1);
        BlipSlots {
            model,
            slots: shape.slots as i64,
            images: Vec::new(),
            caches: model.layers.iter().map(cache).collect(),
            lanes: Lanes::new(&slot_of, model.device()),
            slot_of,
        }
    }

    fn assign(&mut self, slots: &[usize], lanes: &[usize]) {
        for slot in self.slot_of.iter_mut().filter(|slot| slot.is_some_and(|slot| slots.contains(&slot))) {
            *slot = None;
        }
        let copies = lanes.len() / slots.len();
        for (&slot, lanes) in slots.iter().zip(lanes.chunks(copies)) {
            lanes.iter().for_each(|lane| self.slot_of[*lane] = Some(slot));
        }
        self.lanes = Lanes::new(&self.slot_of, self.model.device());
    }
}

impl SlotDecoder for BlipSlots<'_> {
    fn begin(&mut self, states: &Tensor, slots: &[usize], lanes: &[usize], prompt: &[i64]) -> Tensor {
        self.assign(slots, lanes);
        let images = self.model.image_keys(states);
        if self.images.is_empty() {
            let room = |of: &Tensor| {
                let size = [&[self.slots], &of.size()[1..]].concat();
                Tensor::zeros(size, (of.kind(), of.device()))
            };
            self.images = images.iter().map(|(keys, values)| (room(keys), room(values))).collect();
        }
        let (slots, lanes) = (indices(slots, states.device()), indices(lanes, states.device()));
        let copies = lanes.size()[0] / slots.size()[0];
        let prompt = Tensor::from_slice(prompt).to_device(states.device()).unsqueeze(0);
        let mut x = self.model.embed(&prompt.repeat([slots.size()[0], 1]), 0);
        let stored = self.images.iter_mut().zip(&mut self.caches);
        for ((layer, image), ((keys, values), cache)) in self.model.layers.iter().zip(&images).zip(stored) {
            let _ = keys.index_copy_(0, &slots, &image.0);
            let _ = values.index_copy_(0, &slots, &image.1);
            let remember = |k: Tensor, v: Tensor| {
                let each = |of: &Tensor| of.repeat_interleave_self_int(copies, 0, None);
                cache.begin(&lanes, &each(&k), &each(&v));
                (k, v)
            };
            x = layer.forward(&x, remember, Mask::Causal, |queries| see(queries, image));
        }
        self.model.head.forward(&x.select(1, -1))
    }

    fn step(&mut self, ids: &Tensor, positions: &Tensor, length: i64) -> Tensor {
        let lanes = &self.lanes;
        let places = Tensor::arange(length, (Kind::Int64, ids.device()));
        let visible = places.le_tensor(&positions.unsqueeze(1)).view([-1, 1, 1, length]);
        let mut x = self.model.embed_at(&ids.unsqueeze(1), positions);
        let stored = self.images.iter().zip(&mut self.caches);
        for (layer, ((keys, values), cache)) in self.model.layers.iter().zip(stored) {
            let image = (keys.narrow(0, 0, lanes.slots), values.narrow(0, 0, lanes.slots));
            let remember = |k: Tensor, v: Tensor| cache.put(positions, &k, &v, length);
            let look = |queries: &Tensor| lanes.evenly(queries, |queries| see(queries, &image));
            x = layer.forward(&x, remember, Mask::Given(&visible), look);
        }
        self.model.head.forward(&x.select(1, 0))
    }

    fn keep(&mut self, lanes: &[usize]) {
        self.slot_of = lanes.iter().map(|lane| self.slot_of[*lane]).collect();
        self.lanes = Lanes::new(&self.slot_of, self.model.device());
        let lanes = indices(lanes, self.model.device());
        self.caches.iter_mut().for_each(|cache| cache.keep(&lanes));
    }
}
