//! Pillow's antialiased bicubic resize, byte for byte (`libImaging/Resample.c` of Pillow 11).
//!
//! The kernel is Keys' cubic with a = -0.5, stretched by the factor of shrinking. Weights are normalised in f64, then
//! rounded to 22-bit fixed point; the horizontal pass comes first, and its result is rounded to 8 bits before the
//! vertical one. Every output pixel depends on its own inputs only, so a part of the output (a crop) is computed
//! without the rest.

use std::ops::Range;

use super::RgbImage;

#[cfg(target_arch = "x86_64")]
mod avx2;

const PRECISION_BITS: u32 = 22;
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// The kernel is zero from this distance on.
const SUPPORT: f64 = 2.0;

/// Resizes to `width` x `height` as Pillow's `image.resize((width, height), BICUBIC)`.
///
/// # Panics
/// If a side is 0, of the image or of the result.
pub fn resize_bicubic(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize_part(View::of(image), (width, height), 0..width, 0..height)
}

/// A rectangle of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// From the rectangle's first pixel on.
    pixels: &'a [u8],
    /// Bytes from a row to the next.
    stride: usize,
    width: usize,
    height: usize,
}

impl<'a> View<'a> {
    /// The whole image.
    pub fn of(image: &'a RgbImage) -> Self {
        View::rectangle(image, 0..image.width, 0..image.height)
    }

    /// Some columns and rows of an image.
    pub fn rectangle(image: &'a RgbImage, columns: Range<u32>, rows: Range<u32>) -> Self {
        assert!(columns.end <= image.width && rows.end <= image.height, "a rectangle lies within its image");
        assert!(columns.start < columns.end && rows.start < rows.end, "a rectangle has at least one pixel");
        let stride = image.width as usize * 3;
        View {
            pixels: &image.pixels[rows.start as usize * stride + columns.start as usize * 3..],
            stride,
            width: columns.len(),
            height: rows.len(),
        }
    }

    fn row(&self, row: usize) -> &'a [u8] {
        &self.pixels[row * self.stride..][..self.width * 3]
    }
}

/// Resizes the view to `size` (width, height) and returns `columns` and `rows` of the result.
pub(super) fn resize_part(view: View<'_>, size: (u32, u32), columns: Range<u32>, rows: Range<u32>) -> RgbImage {
    let (width, height) = (columns.len() as u32, rows.len() as u32);
    assert!(width > 0 && height > 0, "an image has at least one pixel");
    assert!(columns.end <= size.0 && rows.end <= size.1, "a part lies within its whole");
    let horizontal = Axis::new(view.width, size.0, columns);
    let vertical = Axis::new(view.height, size.1, rows);
    let mut output = vec![0; width as usize * height as usize * 3];
    resample(view, &horizontal, &vertical, &mut output);
    RgbImage { width, height, pixels: output }
}

/// One direction of a resize: for every output its first input and its weights.
struct Axis {
    /// First input and number of inputs, per output.
    bounds: Vec<(usize, usize)>,
    /// `stride` weights per output, in fixed point; those beyond its number of inputs are 0.
    weights: Vec<i32>,
    stride: usize,
}

impl Axis {
    /// The outputs `wanted` of a resize from `inputs` to `outputs`. Pillow's `precompute_coeffs` and
    /// `normalize_coeffs_8bpc`.
    fn new(inputs: usize, outputs: u32, wanted: Range<u32>) -> Self {
        let scale = inputs as f64 / f64::from(outputs);
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let stride = support.ceil() as usize * 2 + 1;
        let mut bounds = Vec::with_capacity(wanted.len());
        let mut weights = vec![0; wanted.len() * stride];
        let mut exact = vec![0.0; stride];
        for (output, weights) in wanted.zip(weights.chunks_exact_mut(stride)) {
            let center = (f64::from(output) + 0.5) * scale;
            // Truncation towards zero, as in C.
            let first = ((center - support + 0.5) as i64).max(0) as usize;
            let last = ((center + support + 0.5) as i64).min(inputs as i64) as usize;
            let count = last - first;
            let exact = &mut exact[..count];
            for (index, weight) in exact.iter_mut().enumerate() {
                *weight = cubic(((index + first) as f64 - center + 0.5) * (1.0 / stretch));
            }
            let sum: f64 = exact.iter().sum();
            for (weight, exact) in weights.iter_mut().zip(exact.iter()) {
                let normalised = if sum == 0.0 { *exact } else { exact / sum };
                *weight = fixed_point(normalised);
            }
            bounds.push((first, count));
        }
        Axis { bounds, weights, stride }
    }

    /// First input and weights of every output.
    fn taps(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.bounds.iter().zip(weights).map(|(&(first, count), weights)| (first, &weights[..count]))
    }

    /// The inputs that any output needs.
    fn inputs(&self) -> Range<usize> {
        let first = self.bounds.first().map_or(0, |&(first, _)| first);
        let last = self.bounds.last().map_or(0, |&(first, count)| first + count);
        first..last
    }
}

/// Keys' cubic kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Both passes, with the widest vectors that the processor has; integers, so the bytes are the same on all.
fn resample(view: View<'_>, horizontal: &Axis, vertical: &Axis, output: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was just asked.
        unsafe { avx2::resample(view, horizontal, vertical, output) };
        return;
    }
    resample_passes(view, horizontal, vertical, output);
}

fn resample_passes(view: View<'_>, horizontal: &Axis, vertical: &Axis, output: &mut [u8]) {
    let row_bytes = horizontal.bounds.len() * 3;
    let needed = vertical.inputs();
    let mut between = vec![0; needed.len() * row_bytes];
    let mut pixels = vec![[0; 4]; view.width];
    for (row, between) in needed.clone().zip(between.chunks_exact_mut(row_bytes)) {
        widen(view.row(row), &mut pixels);
        horizontal_pass(&pixels, horizontal, between);
    }
    let mut sums = vec![0; row_bytes];
    for ((first, weights), output) in vertical.taps().zip(output.chunks_exact_mut(row_bytes)) {
        let rows = &between[(first - needed.start) * row_bytes..];
        vertical_pass(rows, weights, &mut sums, output);
    }
}

/// Bytes to four lanes per pixel, so that a pixel is a vector.
fn widen(row: &[u8], pixels: &mut [[i32; 4]]) {
    for (pixel, bytes) in pixels.iter_mut().zip(row.chunks_exact(3)) {
        *pixel = [i32::from(bytes[0]), i32::from(bytes[1]), i32::from(bytes[2]), 0];
    }
}

fn horizontal_pass(pixels: &[[i32; 4]], axis: &Axis, output: &mut [u8]) {
    for ((first, weights), output) in axis.taps().zip(output.chunks_exact_mut(3)) {
        let mut sums = [HALF; 4];
        for (&weight, pixel) in weights.iter().zip(&pixels[first..]) {
            for lane in 0..4 {
                sums[lane] += weight * pixel[lane];
            }
        }
        for lane in 0..3 {
            output[lane] = to_u8(sums[lane]);
        }
    }
}

/// One output row from as many rows as there are weights.
fn vertical_pass(rows: &[u8], weights: &[i32], sums: &mut [i32], output: &mut [u8]) {
    sums.fill(HALF);
    for (&weight, row) in weights.iter().zip(rows.chunks_exact(output.len())) {
        for (sum, &byte) in sums.iter_mut().zip(row) {
            *sum += weight * i32::from(byte);
        }
    }
    for (output, &sum) in output.iter_mut().zip(sums.iter()) {
        *output = to_u8(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
        let draws = crate::Keyed::new(seed, 0, crate::Purpose::Init, 0);
        let pixels = (0..u64::from(width) * u64::from(height) * 3).map(|index| draws.bits(index) as u8).collect();
        RgbImage { width, height, pixels }
    }

    fn crop(image: &RgbImage, columns: Range<u32>, rows: Range<u32>) -> RgbImage {
        let view = View::rectangle(image, columns.clone(), rows.clone());
        let pixels = (0..view.height).flat_map(|row| view.row(row).to_vec()).collect();
        RgbImage { width: columns.len() as u32, height: rows.len() as u32, pixels }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_same_size_changes_nothing(width in 1u32..40, height in 1u32..40, seed: u64) {
            let image = noise(width, height, seed);
            prop_assert_eq!(resize_bicubic(&image, width, height), image);
        }

        #[test]
        fn a_part_is_the_part_of_the_whole(
            size in (1u32..60, 1u32..60), to in (8u32..50, 8u32..50), at in (0u32..4, 0u32..4), seed: u64
        ) {
            let image = noise(size.0, size.1, seed);
            let (columns, rows) = (at.0..to.0 - 3, at.1..to.1 - 3);
            let whole = resize_bicubic(&image, to.0, to.1);
            let part = resize_part(View::of(&image), to, columns.clone(), rows.clone());
            prop_assert_eq!(part, crop(&whole, columns, rows));
        }

        #[test]
        fn a_view_resizes_as_its_copy(seed: u64, left in 0u32..9, top in 0u32..9) {
            let image = noise(20, 30, seed);
            let (columns, rows) = (left..left + 11, top..top + 13);
            let view = View::rectangle(&image, columns.clone(), rows.clone());
            let copy = crop(&image, columns, rows);
            prop_assert_eq!(resize_part(view, (7, 31), 0..7, 0..31), resize_bicubic(&copy, 7, 31));
        }

        #[test]
        fn one_colour_stays_one_colour(from in (1u32..60, 1u32..60), to in (1u32..60, 1u32..60), colour: [u8; 3]) {
            let pixels = colour.repeat((from.0 * from.1) as usize);
            let resized = resize_bicubic(&RgbImage { width: from.0, height: from.1, pixels }, to.0, to.1);
            prop_assert!(resized.pixels.chunks(3).all(|pixel| pixel == colour));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn all_instruction_sets_give_the_same_bytes(
            from in (1u32..90, 1u32..90), to in (1u32..60, 1u32..60), extreme: bool, seed: u64
        ) {
            let mut image = noise(from.0, from.1, seed);
            if extreme {
                image.pixels.iter_mut().for_each(|byte| *byte = if *byte < 128 { 0 } else { 255 });
            }
            let horizontal = Axis::new(from.0 as usize, to.0, 0..to.0);
            let vertical = Axis::new(from.1 as usize, to.1, 0..to.1);
            let mut plain = vec![0; (to.0 * to.1 * 3) as usize];
            resample_passes(View::of(&image), &horizontal, &vertical, &mut plain);
            prop_assert_eq!(resize_bicubic(&image, to.0, to.1).pixels, plain);
        }
    }
}
