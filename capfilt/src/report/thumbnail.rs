//! Images small enough to stand in a page.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quern_corpus::images::{self, RgbImage};
use quern_recipes::ImageLimits;

use crate::web_image_kind;

/// An image of at most this many bytes is embedded as it is.
const SMALL_BYTES: usize = 12 << 10;
/// The longer side of a thumbnail.
const SIDE_PX: u32 = 256;
const JPEG_QUALITY: i32 = 82;

/// The image as a data URI; none if it can't be decoded.
pub(super) fn data_uri(bytes: &[u8], limits: &ImageLimits) -> Option<String> {
    let image = images::decode(bytes, limits).ok()?;
    let uri = |kind: &str, bytes: &[u8]| format!("data:image/{kind};base64,{}", STANDARD.encode(bytes));
    if let Some(kind) = web_image_kind(bytes).filter(|_| bytes.len() <= SMALL_BYTES) {
        return Some(uri(kind, bytes));
    }
    let small = shrink(image);
    let raw = turbojpeg::Image {
        pixels: small.pixels.as_slice(),
        width: small.width as usize,
        pitch: small.width as usize * 3,
        height: small.height as usize,
        format: turbojpeg::PixelFormat::RGB,
    };
    let jpeg = turbojpeg::compress(raw, JPEG_QUALITY, turbojpeg::Subsamp::Sub2x2).ok()?;
    Some(uri("jpeg", &jpeg))
}

fn shrink(image: RgbImage) -> RgbImage {
    let longer = image.width.max(image.height);
    if longer <= SIDE_PX {
        return image;
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(SIDE_PX) / u64::from(longer)).max(1) as u32;
    images::resize_bicubic(&image, scaled(image.width), scaled(image.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jpeg(width: usize, height: usize) -> Vec<u8> {
        // Noise, so that it does not compress.
        let pixels: Vec<u8> = (0..width * height * 3).map(|at| (at * at % 251) as u8).collect();
        let format = turbojpeg::PixelFormat::RGB;
        let image = turbojpeg::Image { pixels: pixels.as_slice(), width, pitch: width * 3, height, format };
        turbojpeg::compress(image, 95, turbojpeg::Subsamp::None).unwrap().to_vec()
    }

    fn decoded(uri: &str) -> Vec<u8> {
        STANDARD.decode(uri.split_once(',').unwrap().1).unwrap()
    }

    #[test]
    fn a_small_image_is_embedded_as_it_is() {
        let bytes = jpeg(32, 16);
        let uri = data_uri(&bytes, &ImageLimits::default()).unwrap();
        assert!(uri.starts_with("data:image/jpeg;base64,"));
        assert_eq!(decoded(&uri), bytes);
    }

    #[test]
    fn a_large_image_becomes_a_thumbnail() {
        let uri = data_uri(&jpeg(600, 300), &ImageLimits::default()).unwrap();
        let thumbnail = images::decode(&decoded(&uri), &ImageLimits::default()).unwrap();
        assert_eq!((thumbnail.width, thumbnail.height), (256, 128));
    }

    #[test]
    fn what_can_not_be_decoded_is_not_embedded() {
        let mut bytes = jpeg(32, 16);
        bytes.truncate(200);
        assert_eq!(data_uri(&bytes, &ImageLimits::default()), None);
        assert_eq!(data_uri(b"<svg onload=alert(1)>", &ImageLimits::default()), None);
    }
}
