//! Which image each lane belongs to, when lanes come and go: what cross-attention with one set of keys per image needs.

use tch::{Device, Tensor};

/// The lanes of a batch of images.
pub struct Lanes {
    /// Lane to image; rises.
    image_of: Vec<i64>,
    images: i64,
    /// `None`: every image has as many lanes.
    uneven: Option<Uneven>,
}

/// Images with differing numbers of lanes, filled up to the largest: `slots` per image.
struct Uneven {
    /// `[images · slots]`: the lane in each slot; a slot that is only filled up has lane 0.
    lane_of: Tensor,
    /// `[lanes]`: each lane's slot.
    slot_of: Tensor,
}

impl Lanes {
    /// One lane for each image.
    pub fn new(images: i64) -> Self {
        Lanes { image_of: (0..images).collect(), images, uneven: None }
    }

    /// Makes `copies` adjacent lanes of each lane.
    pub fn fork(&mut self, copies: i64) {
        assert!(self.uneven.is_none(), "lanes are forked before any leaves");
        self.image_of = self.image_of.iter().flat_map(|image| (0..copies).map(|_| *image)).collect();
    }

    /// Goes on with these lanes alone, in rising order.
    pub fn keep(&mut self, lanes: &[i64], device: Device) {
        self.image_of = lanes.iter().map(|lane| self.image_of[*lane as usize]).collect();
        let mut counts = vec![0i64; self.images as usize];
        let place = |image: &i64| {
            counts[*image as usize] += 1;
            counts[*image as usize] - 1
        };
        let places: Vec<i64> = self.image_of.iter().map(place).collect();
        let slots = counts.iter().copied().max().unwrap_or(0);
        if counts.iter().all(|count| *count == slots) {
            self.uneven = None;
            return;
        }
        let slot_of: Vec<i64> = self.image_of.iter().zip(places).map(|(image, place)| image * slots + place).collect();
        let mut lane_of = vec![0i64; (self.images * slots) as usize];
        slot_of.iter().zip(0..).for_each(|(slot, lane)| lane_of[*slot as usize] = lane);
        let tensor = |ids: &[i64]| Tensor::from_slice(ids).to_device(device);
        self.uneven = Some(Uneven { lane_of: tensor(&lane_of), slot_of: tensor(&slot_of) });
    }

    /// Applies `attend`, which wants as many lanes for every image, to `queries [lanes, L, W]`.
    pub fn evenly(&self, queries: &Tensor, attend: impl Fn(&Tensor) -> Tensor) -> Tensor {
        match &self.uneven {
            None => attend(queries),
            Some(Uneven { lane_of, slot_of }) => attend(&queries.index_select(0, lane_of)).index_select(0, slot_of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_find_their_image_whoever_has_left() {
        let mut lanes = Lanes::new(3);
        lanes.fork(2);
        let of_image = |queries: &Tensor| {
            let images = Tensor::arange(3, (tch::Kind::Int64, Device::Cpu)) * 100;
            (queries.view([3, -1]) + images.unsqueeze(1)).view([-1, 1, 1])
        };
        let seen = |lanes: &Lanes, ids: &[i64]| {
            let queries = Tensor::from_slice(ids).view([-1, 1, 1]);
            Vec::<i64>::try_from(lanes.evenly(&queries, of_image).flatten(0, 2)).unwrap()
        };
        assert_eq!(seen(&lanes, &[0, 1, 2, 3, 4, 5]), [0, 1, 102, 103, 204, 205]);
        lanes.keep(&[1, 4, 5], Device::Cpu);
        assert_eq!(seen(&lanes, &[1, 4, 5]), [1, 204, 205]);
        lanes.keep(&[0, 1], Device::Cpu);
        assert_eq!(seen(&lanes, &[1, 4]), [1, 204]);
        lanes.keep(&[1], Device::Cpu);
        assert_eq!(seen(&lanes, &[4]), [204]);
    }
}
