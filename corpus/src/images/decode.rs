//! Encoded bytes to RGB, as Pillow's `Image.open(…).convert("RGB")` gives it.
//!
//! JPEG goes through libjpeg-turbo, everything else through the `image` crate. Alpha and palette transparency are
//! dropped, not blended. Limits are checked on the header, before a pixel is allocated. Where Pillow is lenient
//! (libjpeg's warnings about damaged data), this is not: a damaged image is an error.

use std::io::Cursor;

use image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};
use quern_recipes::ImageLimits;
use turbojpeg::{Colorspace, Decompressor, PixelFormat};

use super::RgbImage;
use super::exif::{self, Orientation};
use super::frames::frames_of;

/// Scans that a progressive JPEG may have; encoders write about ten, more is an attack on the decoder's time.
const MAX_JPEG_SCANS: u32 = 500;
/// Bytes that the other decoders may allocate: 16 bits RGBA per pixel, and their tables.
const BYTES_PER_PIXEL: u64 = 8;
const TABLE_BYTES: u64 = 64 << 20;

/// Why bytes are no image that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The encoded image is too large.
    #[error("{bytes} encoded bytes, {limit} are allowed (`limits.max_bytes`)")]
    TooManyBytes {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The header announces too large an image.
    #[error("{width}x{height} pixels, {allowed}")]
    TooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The limit that is exceeded, and its name.
        allowed: String,
    },
    /// Too many frames, of which only the first would be used.
    #[error("more than {limit} frames (`limits.max_frames`)")]
    TooManyFrames {
        /// The limit.
        limit: u64,
    },
    /// No format that is decoded here.
    #[error("no JPEG, PNG, WebP, GIF, BMP or TIFF: {found}")]
    Unsupported {
        /// What it looks like.
        found: String,
    },
    /// Truncated or damaged.
    #[error("{format}: {detail}")]
    Corrupt {
        /// The format that its first bytes claim.
        format: &'static str,
        /// The decoder's words.
        detail: String,
    },
}

impl ImageError {
    /// A short word for tables and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::TooManyBytes { .. } => "image_bytes_limit",
            ImageError::TooLarge { .. } => "image_size_limit",
            ImageError::TooManyFrames { .. } => "image_frames_limit",
            ImageError::Unsupported { .. } => "image_unsupported",
            ImageError::Corrupt { .. } => "image_corrupt",
        }
    }
}

/// Decodes an image; EXIF orientation is ignored, as plain Pillow and LAVIS do.
///
/// # Errors
/// When a limit is exceeded, the format is not known, or the data is truncated or damaged.
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    decode_oriented(bytes, limits, Orientation::Ignore)
}

/// As [`decode`], with a choice about EXIF orientation.
///
/// # Errors
/// As [`decode`].
pub fn decode_oriented(bytes: &[u8], limits: &ImageLimits, orientation: Orientation) -> Result<RgbImage, ImageError> {
    if bytes.len() as u64 > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len() as u64, limit: limits.max_bytes });
    }
    let (image, exif_orientation) = match format_of(bytes)? {
        Format::Jpeg => (decode_jpeg(bytes, limits)?, exif::jpeg_orientation(bytes)),
        Format::Other(format, name) => decode_other(bytes, limits, format, name)?,
    };
    Ok(match orientation {
        Orientation::Ignore => image,
        Orientation::Apply => exif::orient(image, exif_orientation),
    })
}

enum Format {
    Jpeg,
    Other(ImageFormat, &'static str),
}

fn format_of(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        return Ok(Format::Jpeg);
    }
    match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Png) => Ok(Format::Other(format, "PNG")),
        Ok(format @ ImageFormat::WebP) => Ok(Format::Other(format, "WebP")),
        Ok(format @ ImageFormat::Gif) => Ok(Format::Other(format, "GIF")),
        Ok(format @ ImageFormat::Bmp) => Ok(Format::Other(format, "BMP")),
        Ok(format @ ImageFormat::Tiff) => Ok(Format::Other(format, "TIFF")),
        _ => Err(ImageError::Unsupported { found: first_bytes(bytes) }),
    }
}

fn first_bytes(bytes: &[u8]) -> String {
    match bytes {
        [] => "no bytes at all".into(),
        bytes => format!("{} bytes that begin with \"{}\"", bytes.len(), bytes[..bytes.len().min(16)].escape_ascii()),
    }
}

fn check_size(width: u64, height: u64, limits: &ImageLimits) -> Result<(), ImageError> {
    let allowed = if width.max(height) > u64::from(limits.max_side) {
        format!("a side of {} is allowed (`limits.max_side`)", limits.max_side)
    } else if width.saturating_mul(height) > limits.max_pixels {
        format!("{} pixels are allowed (`limits.max_pixels`)", limits.max_pixels)
    } else if width == 0 || height == 0 {
        "an image has at least one".into()
    } else {
        return Ok(());
    };
    Err(ImageError::TooLarge { width, height, allowed })
}

/// Of an image that may move: the number of frames, their own size, and that the file is whole.
fn check_frames(bytes: &[u8], limits: &ImageLimits, format: ImageFormat, name: &'static str) -> Result<(), ImageError> {
    let most = u64::from(limits.max_frames);
    let frames = frames_of(bytes, format, most)
        .map_err(|missing| ImageError::Corrupt { format: name, detail: missing.into() })?;
    if frames.count > most {
        return Err(ImageError::TooManyFrames { limit: most });
    }
    match frames.size {
        (0, 0) => Ok(()),
        (width, height) => check_size(width, height, limits),
    }
}

fn decode_jpeg(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let corrupt = |error: turbojpeg::Error| ImageError::Corrupt { format: "JPEG", detail: error.to_string() };
    let mut decompressor = Decompressor::new().map_err(corrupt)?;
    decompressor.set_scan_limit(MAX_JPEG_SCANS).map_err(corrupt)?;
    let header = decompressor.read_header(bytes).map_err(corrupt)?;
    check_size(header.width as u64, header.height as u64, limits)?;

    // libjpeg converts YCCK to CMYK, but neither to RGB.
    let format = match header.colorspace {
        Colorspace::CMYK | Colorspace::YCCK => PixelFormat::CMYK,
        _ => PixelFormat::RGB,
    };
    let pitch = header.width * format.size();
    let mut pixels = vec![0; pitch * header.height];
    let output =
        turbojpeg::Image { pixels: pixels.as_mut_slice(), width: header.width, pitch, height: header.height, format };
    decompressor.decompress(bytes, output).map_err(corrupt)?;
    if format == PixelFormat::CMYK {
        pixels = pixels.chunks_exact(4).flat_map(inverted_cmyk_to_rgb).collect();
    }
    Ok(RgbImage { width: header.width as u32, height: header.height as u32, pixels })
}

/// Pillow's `cmyk2rgb`, on ink stored inverted as Adobe writes it (Pillow assumes so of every CMYK JPEG).
fn inverted_cmyk_to_rgb(pixel: &[u8]) -> [u8; 3] {
    let paper = u32::from(pixel[3]);
    [0, 1, 2].map(|channel| {
        let ink = 255 - u32::from(pixel[channel]);
        let product = ink * paper + 128;
        (paper - (((product >> 8) + product) >> 8)) as u8
    })
}

/// The image and its EXIF orientation.
fn decode_other(
    bytes: &[u8],
    limits: &ImageLimits,
    format: ImageFormat,
    name: &'static str,
) -> Result<(RgbImage, u8), ImageError> {
    let corrupt = |error: image::ImageError| ImageError::Corrupt { format: name, detail: error.to_string() };
    check_frames(bytes, limits, format, name)?;
    let mut allocations = Limits::no_limits();
    allocations.max_alloc = Some(limits.max_pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(TABLE_BYTES));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(allocations);
    let mut decoder = reader.into_decoder().map_err(corrupt)?;
    let (width, height) = decoder.dimensions();
    check_size(u64::from(width), u64::from(height), limits)?;

    let orientation = decoder.exif_metadata().ok().flatten().map_or(1, |exif| exif::orientation(&exif));
    let color = decoder.color_type();
    let mut raw = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut raw).map_err(corrupt)?;
    let pixels = to_rgb(raw, color)
        .ok_or_else(|| ImageError::Unsupported { found: format!("a {name} with pixels of {color:?}") })?;
    Ok((RgbImage { width, height, pixels }, orientation))
}

/// Pillow's `convert("RGB")` from each layout that a decoder gives. Of 16 bits Pillow takes the high byte, but for
/// plain grey, where it cuts off at 255.
fn to_rgb(raw: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
    let high = |sample: &[u8]| u16::from_ne_bytes([sample[0], sample[1]]).to_be_bytes()[0];
    let cut_off = |sample: &[u8]| u16::from_ne_bytes([sample[0], sample[1]]).min(255) as u8;
    Some(match color {
        ColorType::Rgb8 => raw,
        ColorType::Rgba8 => raw.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        ColorType::L8 => raw.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::La8 => raw.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        ColorType::Rgb16 => raw.chunks_exact(2).map(high).collect(),
        ColorType::Rgba16 => raw.chunks_exact(8).flat_map(|p| [high(p), high(&p[2..]), high(&p[4..])]).collect(),
        ColorType::L16 => raw.chunks_exact(2).flat_map(|p| [cut_off(p); 3]).collect(),
        ColorType::La16 => raw.chunks_exact(4).flat_map(|p| [high(p); 3]).collect(),
        _ => return None,
    })
}
