//! Pixels to JPEG, for parts that carry smaller images than the corpus has.

use bytes::Bytes;
use quern_recipes::Shrink;
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

use super::{RgbImage, resize_bicubic};

/// What every JPEG begins with.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];

/// Why an image can't be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{width}x{height} pixels can't be encoded as JPEG: {detail}")]
pub struct EncodeError {
    width: u32,
    height: u32,
    detail: String,
}

/// An image as parts carry it under `shrink`, given its bytes and their pixels. A JPEG that is small enough is kept as it is:
/// encoding it again could only harm it. All else becomes a JPEG of these pixels, resized with Pillow's bicubic when its
/// longer side is too long, colours at half resolution (4:2:0) as Pillow has it; what stood beside the pixels (EXIF,
/// colour profile) is dropped. The same pixels give the same bytes.
///
/// # Errors
/// When the encoder refuses, as it does beyond 65,535 pixels a side.
pub fn shrunk(bytes: &Bytes, image: &RgbImage, shrink: Shrink) -> Result<Bytes, EncodeError> {
    let longer = image.width.max(image.height);
    if longer <= shrink.max_side {
        return if bytes.starts_with(&JPEG) { Ok(bytes.clone()) } else { encode(image, shrink.quality) };
    }
    // Rounded to the nearest, and never nothing.
    let side = |side: u32| {
        let scaled = (u64::from(side) * u64::from(shrink.max_side) * 2 + u64::from(longer)) / (u64::from(longer) * 2);
        u32::try_from(scaled).unwrap_or(shrink.max_side).max(1)
    };
    encode(&resize_bicubic(image, side(image.width), side(image.height)), shrink.quality)
}

fn encode(image: &RgbImage, quality: u8) -> Result<Bytes, EncodeError> {
    let RgbImage { width, height, pixels } = image;
    let failed = |error: turbojpeg::Error| EncodeError { width: *width, height: *height, detail: error.to_string() };
    let mut compressor = Compressor::new().map_err(failed)?;
    compressor.set_quality(i32::from(quality)).map_err(failed)?;
    compressor.set_subsamp(Subsamp::Sub2x2).map_err(failed)?;
    let (width, height) = (*width as usize, *height as usize);
    let view = Image { pixels: pixels.as_slice(), width, pitch: width * 3, height, format: PixelFormat::RGB };
    compressor.compress_to_vec(view).map(Bytes::from).map_err(failed)
}

#[cfg(test)]
mod tests {
    use quern_recipes::ImageLimits;

    use super::super::decode;
    use super::*;

    const SHRINK: Shrink = Shrink { max_side: 40, quality: 90 };

    /// A smooth picture.
    fn picture(width: u32, height: u32) -> RgbImage {
        let pixel = |at: u32| {
            let (x, y) = (at % width, at / width);
            [(x * 255 / width) as u8, (y * 255 / height) as u8, 128]
        };
        RgbImage { width, height, pixels: (0..width * height).flat_map(pixel).collect() }
    }

    fn decoded(bytes: &Bytes) -> RgbImage {
        decode(bytes, &ImageLimits::default()).unwrap()
    }

    #[test]
    fn the_longer_side_is_cut_to_size_and_the_other_keeps_its_proportion() {
        for ((width, height), expected) in
            [((80, 40), (40, 20)), ((41, 100), (16, 40)), ((500, 1), (40, 1)), ((40, 40), (40, 40)), ((7, 3), (7, 3))]
        {
            let small = decoded(&shrunk(&Bytes::from_static(b"no jpeg"), &picture(width, height), SHRINK).unwrap());
            assert_eq!((small.width, small.height), expected, "{width}x{height}");
        }
    }

    #[test]
    fn it_is_still_the_picture_and_always_the_same_bytes() {
        let large = picture(160, 120);
        let bytes = shrunk(&Bytes::from_static(b"no jpeg"), &large, SHRINK).unwrap();
        assert_eq!(shrunk(&Bytes::from_static(b"png"), &large, SHRINK).unwrap(), bytes);
        let (found, expected) = (decoded(&bytes), resize_bicubic(&large, 40, 30));
        let off = found.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(off <= 12, "a channel is off by {off}");
        let coarse = shrunk(&Bytes::from_static(b"png"), &large, Shrink { quality: 10, ..SHRINK }).unwrap();
        assert!(coarse.len() < bytes.len());
    }

    #[test]
    fn a_small_jpeg_is_kept_byte_for_byte() {
        let small = shrunk(&Bytes::from_static(b"png"), &picture(30, 40), SHRINK).unwrap();
        assert_eq!(shrunk(&small, &decoded(&small), SHRINK).unwrap(), small);
    }
}
