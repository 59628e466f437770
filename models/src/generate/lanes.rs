//! Which image each lane belongs to, when lanes come and go: what cross-attention with one set of keys per image needs.

use tch::{Device, Tensor};

use super::indices;

/// The lanes of some image slots, filled up to the slot that has most of them.
pub struct Lanes {
    /// Image slots up to the last that has a lane.
    pub slots: i64,
    /// `[slots · places]`: the lane in each place; a place that is only filled up has lane 0.
    lane_of: Tensor,
    /// `[lanes]`: each lane's place; a lane without an image has place 0, and what it sees means nothing.
    place_of: Tensor,
}

impl Lanes {
    /// Lanes by the image slot that each belongs to, if any.
    pub fn new(slot_of: &[Option<usize>], device: Device) -> Self {
        let slots = slot_of.iter().flatten().max().map_or(0, |last| last + 1);
        let mut lanes_of = vec![Vec::new(); slots];
        for (lane, slot) in slot_of.iter().enumerate() {
            slot.iter().for_each(|slot| lanes_of[*slot].push(lane));
        }
        let places = lanes_of.iter().map(Vec::len).max().unwrap_or(0);
        let mut lane_of = vec![0; slots * places];
        let mut place_of = vec![0; slot_of.len()];
        for (slot, lanes) in lanes_of.iter().enumerate() {
            for (place, &lane) in (slot * places..).zip(lanes) {
                lane_of[place] = lane;
                place_of[lane] = place;
            }
        }
        Lanes { slots: slots as i64, lane_of: indices(&lane_of, device), place_of: indices(&place_of, device) }
    }

    /// Applies `attend`, which wants as many lanes for every image slot, to `queries [lanes, L, W]`.
    pub fn evenly(&self, queries: &Tensor, attend: impl Fn(&Tensor) -> Tensor) -> Tensor {
        attend(&queries.index_select(0, &self.lane_of)).index_select(0, &self.place_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_find_their_image_wherever_they_are() {
        // What a lane sees of its image: the image's number, times 100, and its own query.
        let seen = |slot_of: &[Option<usize>]| {
            let lanes = Lanes::new(slot_of, Device::Cpu);
            let queries = Tensor::arange(slot_of.len() as i64, (tch::Kind::Int64, Device::Cpu)).view([-1, 1, 1]);
            let images = Tensor::arange(lanes.slots, (tch::Kind::Int64, Device::Cpu)) * 100;
            let of_image = |queries: &Tensor| (queries.view([lanes.slots, -1]) + images.unsqueeze(1)).view([-1, 1, 1]);
            Vec::<i64>::try_from(lanes.evenly(&queries, of_image).flatten(0, 2)).unwrap()
        };
        assert_eq!(seen(&[0, 0, 1, 1, 2, 2].map(Some)), [0, 1, 102, 103, 204, 205]);
        assert_eq!(seen(&[Some(2), Some(0), Some(2), Some(2)]), [200, 1, 202, 203]);
        let some_idle = seen(&[Some(1), None, Some(0), Some(1)]);
        assert_eq!((some_idle[0], some_idle[2], some_idle[3]), (100, 2, 103));
    }
}
