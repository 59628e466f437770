//! Keyed dropout: whether an element is dropped is a function of (lane's key, site, position in the lane).
//!
//! A lane is one row of the batch; its key says who it is (in training: run seed, step, RowId and pass), so a mask
//! does not depend on rank, batch size or recomputation. A lane's mask is made line by line (a line is the last
//! dimension), so that neither does it depend on how much padding follows a text. Each 64-bit hash (SplitMix64's
//! finaliser) decides four elements by 16 bits each; the probability is thereby rounded to a multiple of 2⁻¹⁶, and the
//! scale is exact for the rounded one. On the CPU masks are made by a plain loop, elsewhere by the same arithmetic on
//! integer tensors.

use tch::{Device, Kind, Tensor};

use super::QFormerConfig;

/// The increment of SplitMix64.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX_FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const MIX_SECOND: u64 = 0x94d0_49bb_1331_11eb;
/// Elements that one hash decides.
const PER_WORD: usize = 4;
/// Bits of a line's number per dimension.
const LINE_BITS: u32 = 24;
/// Bits per element.
const BITS: u32 = 16;

/// The dropout of one forward pass.
#[derive(Debug, Clone, Default)]
pub struct Dropout {
    lanes: Vec<u64>,
    hidden: f64,
    probabilities: f64,
}

impl Dropout {
    /// Nothing is dropped, at no cost.
    pub const OFF: Dropout = Dropout { lanes: Vec::new(), hidden: 0.0, probabilities: 0.0 };

    /// `config`'s probabilities, with one key per row of the batch.
    pub fn keyed(config: &QFormerConfig, lanes: Vec<u64>) -> Self {
        Dropout { lanes, hidden: config.hidden_dropout_prob, probabilities: config.attention_probs_dropout_prob }
    }

    /// The dropout of the lanes `lanes` alone, in that order.
    pub fn select(&self, lanes: &[i64]) -> Self {
        match self.lanes.is_empty() {
            true => self.clone(),
            false => Dropout { lanes: lanes.iter().map(|&lane| self.lanes[lane as usize]).collect(), ..*self },
        }
    }

    /// `x [B, ..]` with elements dropped and the rest scaled up.
    pub(super) fn hidden(&self, x: Tensor, site: Site) -> Tensor {
        match self.mask(&x.size(), self.hidden, site, x.device()) {
            Some(mask) => x * mask,
            None => x,
        }
    }

    /// What attention probabilities of `shape [B, H, Lq, Lk]` are multiplied by; `None`: nothing is dropped.
    pub(super) fn probabilities(&self, shape: &[i64], site: Site, device: Device) -> Option<Tensor> {
        self.mask(shape, self.probabilities, site, device)
    }

    fn mask(&self, shape: &[i64], probability: f64, site: Site, device: Device) -> Option<Tensor> {
        let threshold = (probability * f64::from(1u32 << BITS)).round() as u16;
        if threshold == 0 {
            return None;
        }
        assert_eq!(shape[0], self.lanes.len() as i64, "a key per row of the batch");
        let lines = lines(&shape[1..shape.len() - 1]);
        let streams: Vec<u64> = (self.lanes.iter())
            .map(|lane| mix(lane ^ (site.0 + 1).wrapping_mul(GOLDEN)))
            .flat_map(|stream| lines.iter().map(move |line| mix(stream.wrapping_add((line + 1).wrapping_mul(GOLDEN)))))
            .collect();
        let per_line = shape[shape.len() - 1] as usize;
        let mask = match device {
            Device::Cpu => mask_by_loop(&streams, per_line, threshold),
            _ => mask_by_tensors(&streams, per_line, threshold, device),
        };
        Some(mask.view(shape))
    }
}

/// Where in the model a mask is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Site(u64);

/// The places in a block.
#[derive(Debug, Clone, Copy)]
pub(super) enum SiteKind {
    SelfProbabilities = 0,
    SelfOutput = 1,
    CrossProbabilities = 2,
    CrossOutput = 3,
    TextFeedForward = 4,
    QueryFeedForward = 5,
}

impl Site {
    pub const EMBEDDINGS: Site = Site(0);

    pub fn new(layer: usize, kind: SiteKind) -> Self {
        Site(8 * (layer as u64 + 1) + kind as u64)
    }
}

/// SplitMix64's finaliser.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(MIX_FIRST);
    z = (z ^ (z >> 27)).wrapping_mul(MIX_SECOND);
    z ^ (z >> 31)
}

/// Numbers of a lane's lines, given the dimensions between the lane and the line; not dense, so that a line keeps its
/// number when a dimension grows.
fn lines(dimensions: &[i64]) -> Vec<u64> {
    dimensions.iter().fold(vec![0], |outer, &extent| {
        outer.iter().flat_map(|line| (0..extent as u64).map(move |index| (line << LINE_BITS) | index)).collect()
    })
}

fn scale(threshold: u16) -> f32 {
    (1.0 / (1.0 - f64::from(threshold) / f64::from(1u32 << BITS))) as f32
}

fn mask_by_loop(streams: &[u64], per_line: usize, threshold: u16) -> Tensor {
    let kept = scale(threshold);
    let mut values = vec![0f32; streams.len() * per_line];
    for (stream, line) in streams.iter().zip(values.chunks_mut(per_line)) {
        for (word, elements) in line.chunks_mut(PER_WORD).enumerate() {
            let bits = mix(stream.wrapping_add((word as u64 + 1).wrapping_mul(GOLDEN)));
            for (index, element) in elements.iter_mut().enumerate() {
                let draw = (bits >> (BITS * index as u32)) as u16;
                *element = if draw >= threshold { kept } else { 0.0 };
            }
        }
    }
    Tensor::from_slice(&values)
}

fn mask_by_tensors(streams: &[u64], per_line: usize, threshold: u16, device: Device) -> Tensor {
    let starts: Vec<i64> = streams.iter().map(|&stream| stream as i64).collect();
    let words = per_line.div_ceil(PER_WORD) as i64;
    let counters = Tensor::arange_start(1, words + 1, (Kind::Int64, device)) * GOLDEN as i64;
    let bits = mix_tensor(&(Tensor::from_slice(&starts).to_device(device).unsqueeze(1) + counters)); // [lines, words]
    let shifts = Tensor::arange(PER_WORD as i64, (Kind::Int64, device)) * i64::from(BITS);
    let draws = bits.unsqueeze(2).bitwise_right_shift(&shifts).bitwise_and((1i64 << BITS) - 1); // [lines, words, 4]
    let kept = draws.ge(i64::from(threshold)).to_kind(Kind::Float) * f64::from(scale(threshold));
    kept.view([streams.len() as i64, -1]).narrow(1, 0, per_line as i64).contiguous()
}

/// [`mix`] on 64-bit integers whose arithmetic wraps.
fn mix_tensor(z: &Tensor) -> Tensor {
    let xor_shifted = |z: &Tensor, by: i64| {
        let logical = z.bitwise_right_shift_tensor_scalar(by).bitwise_and((1i64 << (64 - by)) - 1);
        z.bitwise_xor_tensor(&logical)
    };
    let z = xor_shifted(z, 30) * MIX_FIRST as i64;
    let z = xor_shifted(&z, 27) * MIX_SECOND as i64;
    xor_shifted(&z, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropout(lanes: &[u64], p: f64) -> Dropout {
        Dropout { lanes: lanes.to_vec(), hidden: p, probabilities: p }
    }

    #[test]
    fn loop_and_tensors_draw_the_same_masks() {
        let streams: Vec<u64> = (0..5).map(|lane| mix(lane + 77)).collect();
        for per_line in [1, 3, 4, 30, 257] {
            let by_loop = mask_by_loop(&streams, per_line, 6554).view([5, -1]);
            let by_tensors = mask_by_tensors(&streams, per_line, 6554, Device::Cpu);
            assert!(by_loop.equal(&by_tensors), "{per_line} elements per line");
        }
    }

    #[test]
    fn a_lane_is_dropped_alike_in_any_batch() {
        let site = Site::new(3, SiteKind::SelfOutput);
        let together = dropout(&[11, 22, 33], 0.1).mask(&[3, 7, 16], 0.1, site, Device::Cpu).unwrap();
        let alone = dropout(&[33], 0.1).mask(&[1, 7, 16], 0.1, site, Device::Cpu).unwrap();
        assert!(together.narrow(0, 2, 1).equal(&alone));
        assert!(!together.get(0).equal(&together.get(1)));
        let elsewhere = dropout(&[33], 0.1).mask(&[1, 7, 16], 0.1, Site::EMBEDDINGS, Device::Cpu).unwrap();
        assert!(!alone.equal(&elsewhere));
    }

    #[test]
    fn the_share_and_the_scale_are_right() {
        let mask = dropout(&[5], 0.25).mask(&[1, 100, 1_000], 0.25, Site::EMBEDDINGS, Device::Cpu).unwrap();
        let dropped = mask.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((dropped - 0.25).abs() < 0.006, "{dropped}"); // four standard errors
        assert!((mask.max().double_value(&[]) - 4.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn without_probability_there_is_no_mask() {
        assert!(dropout(&[5], 0.0).mask(&[1, 2, 8], 0.0, Site::EMBEDDINGS, Device::Cpu).is_none());
    }
}
