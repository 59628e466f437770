//! Images against Pillow: every layout's pixels (`images/cases.safetensors`, written by `images/make.py`) and the
//! evaluation transforms (`tests/golden/cases/preprocess`).

#![cfg(feature = "images")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quern_corpus::images::{
    CropRounding, Evaluation, Geometry, ImageError, Orientation, RgbImage, decode, decode_oriented, resize_bicubic,
};
use quern_recipes::ImageLimits;
use safetensors::SafeTensors;

#[derive(Debug, Clone, PartialEq)]
struct Stored {
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Stored {
    fn image(&self) -> RgbImage {
        let [height, width, 3] = self.shape[..] else { panic!("an image is [H, W, 3], not {:?}", self.shape) };
        RgbImage { width: width as u32, height: height as u32, pixels: self.data.clone() }
    }

    fn floats(&self) -> Vec<f32> {
        self.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }
}

fn tensors(path: &Path) -> BTreeMap<String, Stored> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored =
        |view: safetensors::tensor::TensorView<'_>| Stored { shape: view.shape().to_vec(), data: view.data().to_vec() };
    file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

fn cases() -> BTreeMap<String, Stored> {
    tensors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/cases.safetensors"))
}

fn case(name: &str) -> Vec<u8> {
    cases().remove(name).unwrap_or_else(|| panic!("no case {name}")).data
}

/// Largest and mean difference.
fn difference(found: &RgbImage, wanted: &RgbImage) -> (u8, f64) {
    assert_eq!((found.width, found.height), (wanted.width, wanted.height));
    let differences: Vec<u8> = found.pixels.iter().zip(&wanted.pixels).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().map(|&difference| f64::from(difference)).sum();
    (*differences.iter().max().unwrap(), sum / differences.len() as f64)
}

#[test]
fn every_layout_decodes_to_pillows_pixels() {
    let cases = cases();
    let mut failures = Vec::new();
    let names: Vec<_> = cases.keys().filter(|name| !name.contains('.')).collect();
    assert!(names.len() >= 35, "{names:?}");
    for name in names {
        let bytes = &cases[name].data;
        let found = decode(bytes, &ImageLimits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (largest, mean) = difference(&found, &cases[&format!("{name}.rgb")].image());
        if largest > 0 {
            failures.push(format!("{name}: max {largest}, mean {mean:.4}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn orientation_is_applied_as_pillow_does() {
    let cases = cases();
    let mut seen = 0;
    for (name, wanted) in cases.iter().filter_map(|(name, stored)| Some((name.strip_suffix(".upright")?, stored))) {
        let bytes = &cases[name].data;
        let found = decode_oriented(bytes, &ImageLimits::default(), Orientation::Apply).unwrap();
        assert_eq!(found, wanted.image(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[test]
fn resizes_are_pillows_up_and_down() {
    let cases = cases();
    let image = cases["png_rgb.rgb"].image();
    let wanted: Vec<_> = cases.iter().filter(|(name, _)| name.starts_with("png_rgb.to_")).collect();
    assert_eq!(wanted.len(), 8);
    for (name, wanted) in wanted {
        let wanted = wanted.image();
        let found = resize_bicubic(&image, wanted.width, wanted.height);
        assert_eq!(difference(&found, &wanted).0, 0, "{name}");
    }
}

#[test]
fn truncated_images_are_errors() {
    for name in ["jpeg_420", "jpeg_progressive", "png_rgb", "png_palette", "webp_lossy", "webp_lossless", "gif", "bmp"]
    {
        let bytes = case(name);
        for keep in [bytes.len() * 2 / 3, bytes.len() / 2, 40, 12, 4] {
            let error = decode(&bytes[..keep], &ImageLimits::default())
                .err()
                .unwrap_or_else(|| panic!("{name}: {keep} of {} bytes were taken", bytes.len()));
            assert!(matches!(error, ImageError::Corrupt { .. } | ImageError::Unsupported { .. }), "{name}: {error}");
        }
    }
}

#[test]
fn damaged_bytes_never_panic() {
    for (name, stored) in cases().iter().filter(|(name, _)| !name.contains('.')) {
        for position in (0..stored.data.len()).step_by(stored.data.len() / 40 + 1) {
            let mut bytes = stored.data.clone();
            bytes[position] ^= 0xff;
            if let Ok(image) = decode_oriented(&bytes, &ImageLimits::default(), Orientation::Apply) {
                let area = image.width as usize * image.height as usize;
                assert_eq!(image.pixels.len(), area * 3, "{name} at {position}");
            }
        }
    }
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    for bytes in [&b""[..], b"<html>not found</html>", b"\x00\x01\x02"] {
        let error = decode(bytes, &ImageLimits::default()).unwrap_err();
        assert_eq!(error.reason(), "image_unsupported", "{error}");
    }
}

#[test]
fn limits_are_checked_on_the_header() {
    for name in ["jpeg_444", "png_rgb", "webp_lossy", "webp_lossless", "gif", "bmp", "tiff"] {
        let bytes = case(name); // 37x23
        let allowed = ImageLimits { max_bytes: bytes.len() as u64, max_pixels: 37 * 23, max_side: 37, max_frames: 1 };
        decode(&bytes, &allowed).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (limits, reason) in [
            (ImageLimits { max_bytes: bytes.len() as u64 - 1, ..allowed }, "image_bytes_limit"),
            (ImageLimits { max_pixels: 37 * 23 - 1, ..allowed }, "image_size_limit"),
            (ImageLimits { max_side: 36, ..allowed }, "image_size_limit"),
        ] {
            assert_eq!(decode(&bytes, &limits).unwrap_err().reason(), reason, "{name}");
        }
    }
}

/// A header that announces gigapixels in a few bytes is refused by its size, not by running out of data or memory.
#[test]
fn bombs_are_refused_by_their_header() {
    let mut jpeg = case("jpeg_444");
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]); // 65500 x 65500
    let mut png = case("png_rgb");
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]); // 65536 x 65536
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    for bytes in [jpeg, png] {
        assert_eq!(decode(&bytes, &ImageLimits::default()).unwrap_err().reason(), "image_size_limit");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}

struct Golden {
    name: String,
    encoded: Vec<u8>,
    expected: BTreeMap<String, Stored>,
    clip_size: u32,
    blip_size: u32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Golden {
    fn read(folder: &Path) -> Self {
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let three = |name: &str| [0, 1, 2].map(|channel| config[name][channel].as_f64().unwrap() as f32);
        let size = |name: &str| config[name].as_u64().unwrap() as u32;
        Golden {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            encoded: tensors(&folder.join("inputs.safetensors")).remove("encoded_bytes").unwrap().data,
            expected: tensors(&folder.join("expected.safetensors")),
            clip_size: size("clip_size"),
            blip_size: size("blip_size"),
            mean: three("mean"),
            std: three("std"),
        }
    }

    fn clip(&self, image: &RgbImage, rounding: CropRounding) -> (RgbImage, Vec<f32>) {
        let geometry = Geometry::ShortestSide { size: self.clip_size, crop: self.clip_size, rounding };
        Evaluation { geometry, mean: self.mean, std: self.std }.apply(image)
    }

    fn blip(&self, image: &RgbImage) -> (RgbImage, Vec<f32>) {
        let geometry = Geometry::Squash { width: self.blip_size, height: self.blip_size };
        Evaluation { geometry, mean: self.mean, std: self.std }.apply(image)
    }
}

fn goldens() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases/preprocess");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.iter().map(|folder| Golden::read(folder)).collect()
}

fn strided(pixels: &[f32], size: usize, stride: usize) -> Vec<f32> {
    let row = |plane: usize, y: usize| (0..size).step_by(stride).map(move |x| (plane * size + y) * size + x);
    (0..3).flat_map(|plane| (0..size).step_by(stride).flat_map(move |y| row(plane, y))).map(|at| pixels[at]).collect()
}

/// Bit-exact from the encoded bytes on, for every tensor of every golden.
#[test]
fn evaluation_transforms_are_those_of_pillow() {
    let goldens = goldens();
    assert!(goldens.len() >= 7);
    for golden in &goldens {
        for (orientation, prefix) in [(Orientation::Ignore, ""), (Orientation::Apply, "exif_")] {
            let decoded = decode_oriented(&golden.encoded, &ImageLimits::default(), orientation).unwrap();
            let (clip, clip_pixels) = golden.clip(&decoded, CropRounding::Torchvision);
            let (clip_hf, _) = golden.clip(&decoded, CropRounding::HuggingFace);
            let (blip, blip_pixels) = golden.blip(&decoded);
            let of_variant = golden.expected.iter().filter(|(name, _)| name.starts_with("exif_") != prefix.is_empty());
            for (name, wanted) in of_variant {
                let image = match &name[prefix.len()..] {
                    "decoded_rgb" => &decoded,
                    "clip_u8" => &clip,
                    "clip_u8_hf" => &clip_hf,
                    "blip_u8" => &blip,
                    "clip_sample" => {
                        close(&strided(&clip_pixels, golden.clip_size as usize, 16), &wanted.floats());
                        continue;
                    }
                    "blip_sample" => {
                        close(&strided(&blip_pixels, golden.blip_size as usize, 24), &wanted.floats());
                        continue;
                    }
                    other => panic!("{}: unknown tensor {other}", golden.name),
                };
                let (largest, mean) = difference(image, &wanted.image());
                assert_eq!(largest, 0, "{}/{name}: max {largest}, mean {mean}", golden.name);
            }
        }
    }
}

/// The transforms on their own, from Pillow's decoded pixels.
#[test]
fn transforms_are_exact_from_decoded_pixels() {
    let mut seen = 0;
    for golden in goldens() {
        let Some(decoded) = golden.expected.get("decoded_rgb") else { continue };
        let decoded = decoded.image();
        let (clip, _) = golden.clip(&decoded, CropRounding::Torchvision);
        assert_eq!(clip, golden.expected["clip_u8"].image(), "{}", golden.name);
        assert_eq!(golden.blip(&decoded).0, golden.expected["blip_u8"].image(), "{}", golden.name);
        seen += 1;
    }
    assert!(seen >= 6);
}

fn close(found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= 1e-5, "{found} is not {wanted}");
    }
}
