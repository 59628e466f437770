//! The transforms between a decoded image and a model: CLIP's and BLIP's for evaluation, the one for training.
//!
//! Reference: torchvision's `Resize`, `CenterCrop`, `RandomResizedCrop` on PIL images, and transformers'
//! `CLIPImageProcessor` where its crop differs.

use quern_recipes::Augment;

use super::RgbImage;
use super::resize::{View, resize_bicubic, resize_part};
use crate::keyed::Keyed;

/// Whose centre crop: they differ by a pixel where the margin is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CropRounding {
    /// Half the margin, rounded, ties to even.
    Torchvision,
    /// Half the margin, rounded down.
    HuggingFace,
}

/// What becomes of an image's sides before a frozen model sees it; always bicubic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Geometry {
    /// CLIP: the shortest side becomes `size`, then a square of side `crop` is cut from the centre. Where the resized
    /// image is smaller than the crop, black is added around it.
    ShortestSide {
        /// Of the resized image.
        size: u32,
        /// Side of the square.
        crop: u32,
        /// Whose centre it is.
        rounding: CropRounding,
    },
    /// BLIP: both sides are set, whatever the aspect ratio.
    Squash {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

/// The evaluation transform of a frozen model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// What becomes of the sides.
    pub geometry: Geometry,
    /// Mean per channel, on the scale of 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation per channel.
    pub std: [f32; 3],
}

impl Evaluation {
    /// The image at the model's size, and the same normalised: `[3, height, width]`.
    ///
    /// # Panics
    /// If a side is 0, of the image or of the result.
    pub fn apply(&self, image: &RgbImage) -> (RgbImage, Vec<f32>) {
        let sized = match self.geometry {
            Geometry::ShortestSide { size, crop, rounding } => clip_eval(image, size, crop, rounding),
            Geometry::Squash { width, height } => blip_eval(image, width, height),
        };
        let mut pixels = vec![0.0; sized.pixels.len()];
        normalise_into(&sized, self.mean, self.std, &mut pixels);
        (sized, pixels)
    }
}

/// CLIP's evaluation geometry: see [`Geometry::ShortestSide`].
///
/// # Panics
/// If `size` or `crop` is 0, or the image has no pixels.
fn clip_eval(image: &RgbImage, size: u32, crop: u32, rounding: CropRounding) -> RgbImage {
    let (width, height) = shortest_side(image.width, image.height, size);
    let (left, top) = (crop_offset(width, crop, rounding), crop_offset(height, crop, rounding));
    let visible = |offset: i64, whole: u32| {
        let start = offset.max(0) as u32;
        start..(offset + i64::from(crop)).min(i64::from(whole)) as u32
    };
    let part = resize_part(View::of(image), (width, height), visible(left, width), visible(top, height));
    if part.width == crop && part.height == crop {
        return part;
    }
    pad(&part, crop, (-left).max(0) as usize, (-top).max(0) as usize)
}

/// BLIP's evaluation geometry: see [`Geometry::Squash`].
///
/// # Panics
/// If a side is 0, of the image or of the result.
fn blip_eval(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize_bicubic(image, width, height)
}

/// The training transform: torchvision's `RandomResizedCrop(size, (min_scale, 1), (3/4, 4/3), BICUBIC)`, then a
/// mirroring of every other image if the recipe says so. `draws` decides all: [`Keyed`] by row and epoch.
///
/// # Panics
/// If `size` is 0 or the image has no pixels.
pub fn train_crop(image: &RgbImage, size: u32, augment: &Augment, draws: &Keyed) -> RgbImage {
    let area = random_crop(image.width, image.height, augment.min_scale, draws);
    let view = View::rectangle(image, area.left..area.left + area.width, area.top..area.top + area.height);
    let mut cropped = resize_part(view, (size, size), 0..size, 0..size);
    if augment.flip && draws.uniform(FLIP_DRAW) < 0.5 {
        mirror(&mut cropped);
    }
    cropped
}

/// `(value / 255 - mean) / std` per channel, channels apart: `[3, height, width]`.
///
/// # Panics
/// If `out` is not as long as the image's pixels.
pub fn normalise_into(image: &RgbImage, mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    assert_eq!(out.len(), image.pixels.len(), "one output per channel and pixel");
    let pixels = image.pixels.len() / 3;
    if pixels == 0 {
        return;
    }
    for (channel, plane) in out.chunks_exact_mut(pixels).enumerate() {
        let table: [f32; 256] = std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel]);
        for (out, pixel) in plane.iter_mut().zip(image.pixels.chunks_exact(3)) {
            *out = table[usize::from(pixel[channel])];
        }
    }
}

/// Width and height once the shortest side is `size`; the other is rounded down.
fn shortest_side(width: u32, height: u32, size: u32) -> (u32, u32) {
    let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
    let scaled = u32::try_from(u64::from(size) * long / short).expect("a side fits 32 bits");
    if width <= height { (size, scaled) } else { (scaled, size) }
}

/// Where a crop begins in a side; negative where the side is shorter than the crop.
fn crop_offset(side: u32, crop: u32, rounding: CropRounding) -> i64 {
    let margin = i64::from(side) - i64::from(crop);
    match rounding {
        CropRounding::HuggingFace => margin.div_euclid(2),
        CropRounding::Torchvision if margin < 0 => -(-margin / 2),
        CropRounding::Torchvision => {
            let half = margin / 2;
            if margin % 2 == 1 { half + half % 2 } else { half } // ties to even
        }
    }
}

/// Puts an image on black, `crop` x `crop`.
fn pad(image: &RgbImage, crop: u32, left: usize, top: usize) -> RgbImage {
    let row_bytes = crop as usize * 3;
    let mut pixels = vec![0; row_bytes * crop as usize];
    let rows = image.pixels.chunks_exact(image.width as usize * 3);
    for (row, padded) in rows.zip(pixels.chunks_exact_mut(row_bytes).skip(top)) {
        padded[left * 3..][..row.len()].copy_from_slice(row);
    }
    RgbImage { width: crop, height: crop, pixels }
}

fn mirror(image: &mut RgbImage) {
    for row in image.pixels.chunks_exact_mut(image.width as usize * 3) {
        row.reverse();
        row.chunks_exact_mut(3).for_each(<[u8]>::reverse);
    }
}

/// A rectangle of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Area {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

const TRIES: u64 = 10;
const DRAWS_PER_TRY: u64 = 4;
const FLIP_DRAW: u64 = TRIES * DRAWS_PER_TRY;
const MIN_RATIO: f64 = 3.0 / 4.0;
const MAX_RATIO: f64 = 4.0 / 3.0;

/// torchvision's `RandomResizedCrop.get_params`.
fn random_crop(width: u32, height: u32, min_scale: f64, draws: &Keyed) -> Area {
    let area = f64::from(width) * f64::from(height);
    for first_draw in (0..TRIES).map(|index| index * DRAWS_PER_TRY) {
        let between = |index, low: f64, high: f64| low + (high - low) * draws.uniform(first_draw + index);
        let target = area * between(0, min_scale, 1.0);
        let ratio = between(1, MIN_RATIO.ln(), MAX_RATIO.ln()).exp();
        let crop_width = (target * ratio).sqrt().round_ties_even() as u32;
        let crop_height = (target / ratio).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            let offset = |index, margin: u32| draws.below(first_draw + index, u64::from(margin) + 1) as u32;
            return Area {
                left: offset(2, width - crop_width),
                top: offset(3, height - crop_height),
                width: crop_width,
                height: crop_height,
            };
        }
    }
    central_crop(width, height)
}

/// What is left when no try fits: the largest central rectangle with a ratio that is allowed.
fn central_crop(width: u32, height: u32) -> Area {
    let ratio = f64::from(width) / f64::from(height);
    let (crop_width, crop_height) = if ratio < MIN_RATIO {
        (width, (f64::from(width) / MIN_RATIO).round_ties_even() as u32)
    } else if ratio > MAX_RATIO {
        ((f64::from(height) * MAX_RATIO).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    Area { left: (width - crop_width) / 2, top: (height - crop_height) / 2, width: crop_width, height: crop_height }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::Purpose;
    use proptest::prelude::*;

    fn draws(row: u64) -> Keyed {
        Keyed::new(7, row, Purpose::Augment, 0)
    }

    fn gradient(width: u32, height: u32) -> RgbImage {
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 77])).collect();
        RgbImage { width, height, pixels }
    }

    #[test]
    fn sides_and_offsets_are_those_of_torchvision_and_hugging_face() {
        assert_eq!(shortest_side(640, 427, 224), (335, 224));
        assert_eq!(shortest_side(63, 900, 224), (224, 3200));
        assert_eq!(shortest_side(300, 300, 224), (224, 224));
        let both = |side, crop| {
            (crop_offset(side, crop, CropRounding::Torchvision), crop_offset(side, crop, CropRounding::HuggingFace))
        };
        assert_eq!(both(335, 224), (56, 55)); // 55.5 to even
        assert_eq!(both(333, 224), (54, 54)); // 54.5 to even
        assert_eq!(both(334, 224), (55, 55));
        assert_eq!(both(224, 224), (0, 0));
        assert_eq!(both(221, 224), (-1, -2)); // torchvision pads 1 left, 2 right; Hugging Face 2 and 1
    }

    #[test]
    fn a_crop_beyond_the_image_is_black() {
        let image = gradient(10, 10);
        let cropped = clip_eval(&image, 10, 13, CropRounding::Torchvision);
        let at = |x: usize, y: usize| &cropped.pixels[(y * 13 + x) * 3..][..3];
        assert_eq!((cropped.width, cropped.height), (13, 13));
        assert_eq!(at(0, 5), [0, 0, 0]);
        assert_eq!(at(1, 1), [0, 0, 77]);
        assert_eq!(at(10, 10), [9, 9, 77]);
        assert_eq!(at(11, 11), [0, 0, 0]);
    }

    #[test]
    fn mirroring_twice_changes_nothing() {
        let image = gradient(7, 5);
        let mut mirrored = image.clone();
        mirror(&mut mirrored);
        assert_eq!(mirrored.pixels[..3], [6, 0, 77]);
        mirror(&mut mirrored);
        assert_eq!(mirrored, image);
    }

    #[test]
    fn draws_decide_crop_and_flip() {
        let image = gradient(90, 70);
        let augment = Augment { min_scale: 0.5, flip: true };
        let crop = |row| train_crop(&image, 32, &augment, &draws(row));
        assert_eq!(crop(1), crop(1));
        assert_ne!(crop(1), crop(2));
        // Red grows to the right: a mirrored crop is seen by its first and last column.
        let mirrored = (0..400).filter(|&row| crop(row).pixels[0] > crop(row).pixels[31 * 3]).count();
        assert!((160..240).contains(&mirrored), "{mirrored} of 400");
        let upright = Augment { flip: false, ..augment };
        assert!((0..50).all(|row| {
            let cropped = train_crop(&image, 32, &upright, &draws(row));
            cropped.pixels[0] < cropped.pixels[31 * 3]
        }));
    }

    #[test]
    fn no_fit_falls_back_to_the_centre() {
        assert_eq!(central_crop(400, 100), Area { left: 133, top: 0, width: 133, height: 100 });
        assert_eq!(central_crop(100, 400), Area { left: 0, top: 133, width: 100, height: 133 });
        assert_eq!(random_crop(1000, 10, 0.9, &draws(0)), central_crop(1000, 10));
    }

    #[test]
    fn normalised_values_are_channels_apart() {
        let image = RgbImage { width: 2, height: 1, pixels: vec![0, 51, 255, 255, 102, 0] };
        let mut out = [0.0; 6];
        normalise_into(&image, [0.5, 0.2, 0.0], [0.5, 0.1, 2.0], &mut out);
        for (found, wanted) in out.iter().zip([-1.0, 1.0, 0.0, 2.0, 0.5, 0.0]) {
            assert!((found - wanted).abs() < 1e-6, "{out:?}");
        }
    }

    proptest! {
        #[test]
        fn a_random_crop_lies_within_and_keeps_its_share(
            width in 1u32..700, height in 1u32..700, row: u64, min_scale in 0.05f64..1.0
        ) {
            let area = random_crop(width, height, min_scale, &draws(row));
            prop_assert!(area.width >= 1 && area.left + area.width <= width);
            prop_assert!(area.height >= 1 && area.top + area.height <= height);
            if area != central_crop(width, height) {
                // Rounding moves each side by half a pixel at most.
                let share = (f64::from(area.width) + 0.5) * (f64::from(area.height) + 0.5);
                prop_assert!(share >= min_scale * f64::from(width) * f64::from(height) * 0.999);
            }
        }
    }
}
