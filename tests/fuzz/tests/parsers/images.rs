//! Images of any format, EXIF with them.

use quern_corpus::images::{Orientation, decode_oriented};
use quern_fuzz::Target;
use quern_recipes::ImageLimits;

const LIMITS: ImageLimits = ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 18, max_side: 4096, max_frames: 100 };
/// What the decoders may ask for: eight bytes per pixel that is allowed, and 64 MiB for tables.
const MOST_BYTES: usize = (8 << 18) + (64 << 20);

#[test]
fn images() {
    Target::new("images").seeds_of("corpus/tests/broken/images", "").cases(6000).most_bytes(MOST_BYTES).run(|bytes| {
        let [ignored, applied] =
            [Orientation::Ignore, Orientation::Apply].map(|orientation| decode_oriented(bytes, &LIMITS, orientation));
        match (ignored, applied) {
            (Ok(image), Ok(turned)) => {
                let (width, height) = (u64::from(image.width), u64::from(image.height));
                assert!(width * height <= LIMITS.max_pixels && width.max(height) <= u64::from(LIMITS.max_side));
                assert_eq!(image.pixels.len() as u64, width * height * 3);
                assert_eq!(turned.pixels.len(), image.pixels.len());
                let sides = (turned.width, turned.height);
                assert!(sides == (image.width, image.height) || sides == (image.height, image.width));
            }
            (ignored, applied) => assert_eq!(ignored.err(), applied.err(), "turning decides nothing"),
        }
    });
}
