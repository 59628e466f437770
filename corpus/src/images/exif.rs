//! EXIF orientation: where it is written, and turning an image by it as Pillow's `ImageOps.exif_transpose` does.

use super::RgbImage;

/// What is done about an image's EXIF orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// Nothing: plain Pillow, torchvision and LAVIS.
    #[default]
    Ignore,
    /// The image is turned upright: Hugging Face's `load_image`.
    Apply,
}

/// The orientation (1 to 8) that a JPEG's EXIF segment states; 1 if none does.
pub(super) fn jpeg_orientation(bytes: &[u8]) -> u8 {
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let [0xff, marker, high, low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(segment) = rest.get(4..2 + length) else { return 1 };
        match (marker, segment.strip_prefix(b"Exif\0\0")) {
            (0xe1, Some(exif)) => return orientation(exif),
            (0xda, _) => return 1, // the scan begins
            _ => rest = &rest[2 + length..],
        }
    }
    1
}

/// The orientation (1 to 8) that an EXIF block states; 1 if it states none.
pub(super) fn orientation(exif: &[u8]) -> u8 {
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    image::metadata::Orientation::from_exif_chunk(exif).map_or(1, image::metadata::Orientation::to_exif)
}

/// Turns an image upright that is stored with this orientation.
pub(super) fn orient(image: RgbImage, orientation: u8) -> RgbImage {
    let (width, height) = (image.width as usize, image.height as usize);
    // Of the upright pixel (x, y), where it is stored.
    let stored: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation {
        2 => |x, y, w, _| (w - 1 - x, y),
        3 => |x, y, w, h| (w - 1 - x, h - 1 - y),
        4 => |x, y, _, h| (x, h - 1 - y),
        5 => |x, y, _, _| (y, x),
        6 => |x, y, _, h| (y, h - 1 - x),
        7 => |x, y, w, h| (w - 1 - y, h - 1 - x),
        8 => |x, y, w, _| (w - 1 - y, x),
        _ => return image,
    };
    let (upright_width, upright_height) = if orientation >= 5 { (height, width) } else { (width, height) };
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..upright_height {
        for x in 0..upright_width {
            let (column, row) = stored(x, y, width, height);
            let start = (row * width + column) * 3;
            pixels.extend_from_slice(&image.pixels[start..start + 3]);
        }
    }
    RgbImage { width: upright_width as u32, height: upright_height as u32, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 2x3 image whose pixels are numbered, after turning, row by row.
    fn turned(orientation: u8) -> (u32, u32, Vec<u8>) {
        let pixels = (0..6).flat_map(|number| [number; 3]).collect();
        let image = orient(RgbImage { width: 2, height: 3, pixels }, orientation);
        (image.width, image.height, image.pixels.chunks(3).map(|pixel| pixel[0]).collect())
    }

    #[test]
    fn turns_as_the_standard_says() {
        // stored rows: 0 1 / 2 3 / 4 5
        assert_eq!(turned(1), (2, 3, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(turned(2), (2, 3, vec![1, 0, 3, 2, 5, 4]));
        assert_eq!(turned(3), (2, 3, vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(turned(4), (2, 3, vec![4, 5, 2, 3, 0, 1]));
        assert_eq!(turned(5), (3, 2, vec![0, 2, 4, 1, 3, 5]));
        assert_eq!(turned(6), (3, 2, vec![4, 2, 0, 5, 3, 1]));
        assert_eq!(turned(7), (3, 2, vec![5, 3, 1, 4, 2, 0]));
        assert_eq!(turned(8), (3, 2, vec![1, 3, 5, 0, 2, 4]));
    }

    #[test]
    fn broken_segments_state_nothing() {
        for bytes in
            [&b""[..], b"\xff\xd8", b"\xff\xd8\xff\xe1\x00", b"\xff\xd8\xff\xe1\x00\x00", b"\xff\xd8\xff\xe1\xff\xff"]
        {
            assert_eq!(jpeg_orientation(bytes), 1);
        }
        assert_eq!(orientation(b"Exif\0\0MM"), 1);
    }
}
