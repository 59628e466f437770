//! The two passes with AVX2. A weight of 22 bits is cut in two, `high · 2¹¹ + low`, each of which fits 16 bits: then a
//! multiplication takes sixteen pairs at a time, and the sums are the same integers.

use std::arch::x86_64::*;

use super::{Axis, HALF, PRECISION_BITS, View};

/// Bits of the low part.
const LOW_BITS: u32 = 11;
/// Inputs that a horizontal step takes.
const STEP: usize = 4;
/// What may be read behind a row.
const BEHIND: usize = 16;
/// Columns (bytes) that a vertical step takes.
const COLUMNS: usize = 16;

/// A weight's two parts.
fn parts(weight: i32) -> [i16; 2] {
    [(weight >> LOW_BITS) as i16, (weight & ((1 << LOW_BITS) - 1)) as i16]
}

/// Weights of two neighbouring inputs, as one lane of a pairwise multiplication takes them.
fn pair(first: i16, second: i16) -> i32 {
    i32::from(first as u16) | i32::from(second as u16) << 16
}

/// As [`resample_passes`](super::resample_passes).
#[target_feature(enable = "avx2")]
pub(super) fn resample(view: View<'_>, horizontal: &Axis, vertical: &Axis, output: &mut [u8]) {
    let row_bytes = horizontal.bounds.len() * 3;
    let needed = vertical.inputs();
    // A row of zeros behind the last, for the second of a last odd row, and what a step may write behind a row.
    let mut between = vec![0; (needed.len() + 1) * row_bytes + COLUMNS];
    let weights = HorizontalWeights::new(horizontal);
    let mut row = vec![0; view.width * 3 + BEHIND + STEP * 3];
    for (index, input) in needed.clone().enumerate() {
        row[..view.width * 3].copy_from_slice(view.row(input));
        horizontal_pass(&row, &weights, &mut between[index * row_bytes..][..row_bytes]);
    }
    for ((first, weights), output) in vertical.taps().zip(output.chunks_exact_mut(row_bytes)) {
        vertical_pass(&between[(first - needed.start) * row_bytes..], weights, output);
    }
}

/// Weights of each output in steps of four inputs, as they are multiplied: the pairs of the high parts for the first two
/// inputs, once per channel, and for the others; then those of the low parts.
struct HorizontalWeights<'a> {
    axis: &'a Axis,
    /// Steps per output.
    steps: usize,
    /// `[outputs · steps]`
    packed: Vec<[i32; 16]>,
}

impl<'a> HorizontalWeights<'a> {
    fn new(axis: &'a Axis) -> Self {
        let steps = axis.stride.div_ceil(STEP);
        let mut packed = Vec::with_capacity(axis.bounds.len() * steps);
        for weights in axis.weights.chunks_exact(axis.stride) {
            for step in 0..steps {
                let of = |at: usize| parts(weights.get(step * STEP + at).copied().unwrap_or(0));
                let [a, b, c, d] = [of(0), of(1), of(2), of(3)];
                let pairs = [pair(a[0], b[0]), pair(c[0], d[0]), pair(a[1], b[1]), pair(c[1], d[1])];
                packed.push(std::array::from_fn(|lane| pairs[lane / 4]));
            }
        }
        HorizontalWeights { axis, steps, packed }
    }
}

/// One row. `row` has [`BEHIND`] bytes and a step behind its end.
#[target_feature(enable = "avx2")]
fn horizontal_pass(row: &[u8], weights: &HorizontalWeights<'_>, output: &mut [u8]) {
    // Four pixels of three bytes: of the first two in the lower half, of the others in the upper, pairs of each channel.
    #[rustfmt::skip]
    let pairs = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    );
    let of_outputs = weights.packed.chunks_exact(weights.steps);
    for ((&(first, count), weights), output) in
        weights.axis.bounds.iter().zip(of_outputs).zip(output.chunks_exact_mut(3))
    {
        let (mut high, mut low) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (step, weights) in weights.iter().take(count.div_ceil(STEP)).enumerate() {
            let pixels: &[u8; BEHIND] =
                row[(first + step * STEP) * 3..][..BEHIND].try_into().expect("so many were taken");
            // SAFETY: sixteen bytes and twice eight lanes of arrays that have as many; loads need no alignment.
            let (pixels, highs, lows) = unsafe {
                let weights: *const __m256i = weights.as_ptr().cast();
                (
                    _mm_loadu_si128(pixels.as_ptr().cast()),
                    _mm256_loadu_si256(weights),
                    _mm256_loadu_si256(weights.add(1)),
                )
            };
            let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), pairs);
            high = _mm256_add_epi32(high, _mm256_madd_epi16(pixels, highs));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(pixels, lows));
        }
        let sums = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high), low);
        let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let sums = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm_add_epi32(sums, _mm_set1_epi32(HALF)));
        let bytes = _mm_packus_epi16(_mm_packs_epi32(sums, sums), _mm_setzero_si128());
        output.copy_from_slice(&_mm_cvtsi128_si32(bytes).to_le_bytes()[..3]);
    }
}

/// One output row from as many rows as there are weights. `rows` has another row and [`COLUMNS`] bytes behind the last.
#[target_feature(enable = "avx2")]
fn vertical_pass(rows: &[u8], weights: &[i32], output: &mut [u8]) {
    let row_bytes = output.len();
    for (at, output) in (0..row_bytes).step_by(COLUMNS).zip(output.chunks_mut(COLUMNS)) {
        // Of columns 0 to 3 and 8 to 11, and of the others.
        let zero = _mm256_setzero_si256();
        let (mut high, mut low) = ([zero; 2], [zero; 2]);
        for (index, pair_of) in weights.chunks(2).enumerate() {
            let [first, second] = [parts(pair_of[0]), parts(pair_of.get(1).copied().unwrap_or(0))];
            let load = |row: usize| {
                let bytes: &[u8; COLUMNS] =
                    rows[row * row_bytes + at..][..COLUMNS].try_into().expect("so many were taken");
                // SAFETY: sixteen bytes of an array that has as many; a load needs no alignment.
                _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
            };
            let (a, b) = (load(index * 2), load(index * 2 + 1));
            let pixels = [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
            let (highs, lows) =
                (_mm256_set1_epi32(pair(first[0], second[0])), _mm256_set1_epi32(pair(first[1], second[1])));
            for half in 0..2 {
                high[half] = _mm256_add_epi32(high[half], _mm256_madd_epi16(pixels[half], highs));
                low[half] = _mm256_add_epi32(low[half], _mm256_madd_epi16(pixels[half], lows));
            }
        }
        let rounded = |half: usize| {
            let sums = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high[half]), low[half]);
            _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(sums, _mm256_set1_epi32(HALF)))
        };
        let words = _mm256_packs_epi32(rounded(0), rounded(1));
        let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let mut columns = [0; COLUMNS];
        // SAFETY: sixteen bytes into an array that has as many; a store needs no alignment.
        unsafe { _mm_storeu_si128(columns.as_mut_ptr().cast(), bytes) };
        output.copy_from_slice(&columns[..output.len()]);
    }
}
