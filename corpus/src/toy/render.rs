//! Draws a scene: a small software rasteriser (4 × 4 samples per pixel) and JPEG.

use std::f32::consts::PI;

use super::scene::{Background, Colour, Object, Scene, Shape, Texture};

/// An RGB colour, 0 to 255 each.
type Rgb = [f32; 3];

/// Samples per pixel and axis.
const SAMPLES: u32 = 4;

/// JPEG quality; no chroma subsampling, so that small objects keep their colour.
const JPEG_QUALITY: i32 = 90;

/// The scene as `side_px` × `side_px` RGB pixels, row by row.
pub fn render_rgb(scene: &Scene, side_px: u32) -> Vec<u8> {
    let background = background_rgb(scene.background);
    let pixel = background.map(|level| level as u8);
    let mut pixels: Vec<u8> = pixel.repeat((side_px * side_px) as usize);
    for object in &scene.objects {
        draw_object(object, background, side_px, &mut pixels);
    }
    pixels
}

/// The scene as the bytes of a JPEG file.
pub fn render_jpeg(scene: &Scene, side_px: u32) -> Result<Vec<u8>, turbojpeg::Error> {
    let pixels = render_rgb(scene, side_px);
    let side = side_px as usize;
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width: side,
        height: side,
        pitch: side * 3,
        format: turbojpeg::PixelFormat::RGB,
    };
    Ok(turbojpeg::compress(image, JPEG_QUALITY, turbojpeg::Subsamp::None)?.to_vec())
}

fn draw_object(object: &Object, background: Rgb, side_px: u32, pixels: &mut [u8]) {
    let side = side_px as f32;
    let radius = f32::from(object.size.radius_permille()) / 1000.0 * side;
    let centre_x = f32::from(object.x_permille) / 1000.0 * side;
    let centre_y = f32::from(object.y_permille) / 1000.0 * side;
    let span = |centre: f32| (centre - radius).floor().max(0.0) as u32..((centre + radius).ceil().min(side) as u32);
    for y in span(centre_y) {
        for x in span(centre_x) {
            let mut sum = [0.0; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let offset = |index: u32| (index as f32 + 0.5) / SAMPLES as f32;
                let u = (x as f32 + offset(sample % SAMPLES) - centre_x) / radius;
                let v = (y as f32 + offset(sample / SAMPLES) - centre_y) / radius;
                let rgb = sample_object(object, u, v).unwrap_or(background);
                for (total, level) in sum.iter_mut().zip(rgb) {
                    *total += level;
                }
            }
            let start = ((y * side_px + x) * 3) as usize;
            for (channel, total) in sum.into_iter().enumerate() {
                pixels[start + channel] = (total / (SAMPLES * SAMPLES) as f32).round() as u8;
            }
        }
    }
}

/// The object's colour at a point (in units of its radius from its centre), or `None` outside of it.
fn sample_object(object: &Object, u: f32, v: f32) -> Option<Rgb> {
    if !is_inside(object.shape, u, v) {
        return None;
    }
    let rgb = colour_rgb(object.colour);
    let dark = match object.texture {
        Texture::Plain => false,
        Texture::Striped => (v / STRIPE_PERIOD).rem_euclid(1.0) < 0.5,
        Texture::Dotted => {
            let cell = |t: f32| (t / DOT_PERIOD + 0.5).rem_euclid(1.0) - 0.5;
            cell(u).hypot(cell(v)) * DOT_PERIOD < DOT_RADIUS
        }
    };
    Some(if dark { rgb.map(|level| level * 0.3) } else { rgb })
}

const STRIPE_PERIOD: f32 = 0.55;
const DOT_PERIOD: f32 = 0.62;
const DOT_RADIUS: f32 = 0.2;

fn is_inside(shape: Shape, u: f32, v: f32) -> bool {
    match shape {
        Shape::Circle => u.hypot(v) <= 0.92,
        Shape::Square => u.abs() <= 0.76 && v.abs() <= 0.76,
        Shape::Triangle => v <= 0.75 && u.abs() <= (v + 0.97) * 0.56,
        Shape::Star => is_inside_star(u, v),
        Shape::Cross => u.abs().max(v.abs()) <= 0.95 && u.abs().min(v.abs()) <= 0.3,
    }
}

/// A five-pointed star with one point up: in each of ten mirrored sectors, the side of the line from tip to notch.
fn is_inside_star(u: f32, v: f32) -> bool {
    const TIP: f32 = 1.0;
    const NOTCH: f32 = 0.42;
    let sector = PI / 5.0;
    let angle = u.atan2(-v).rem_euclid(2.0 * sector);
    let folded = if angle > sector { 2.0 * sector - angle } else { angle };
    let distance = u.hypot(v);
    let (x, y) = (distance * folded.sin(), distance * folded.cos());
    let (notch_x, notch_y) = (NOTCH * sector.sin(), NOTCH * sector.cos());
    x * (notch_y - TIP) - notch_x * (y - TIP) >= 0.0
}

fn colour_rgb(colour: Colour) -> Rgb {
    match colour {
        Colour::Red => [220.0, 30.0, 30.0],
        Colour::Green => [30.0, 170.0, 50.0],
        Colour::Blue => [40.0, 80.0, 230.0],
        Colour::Yellow => [245.0, 225.0, 40.0],
        Colour::Purple => [150.0, 40.0, 190.0],
        Colour::Orange => [250.0, 135.0, 20.0],
    }
}

fn background_rgb(background: Background) -> Rgb {
    match background {
        Background::White => [250.0; 3],
        Background::Black => [10.0; 3],
        Background::Gray => [128.0; 3],
    }
}
