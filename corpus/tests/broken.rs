//! Whole and broken images (`broken/images`, written by `broken/images.py`): each file's name says what must happen to it.

#![cfg(feature = "images")]

use std::path::Path;

use quern_corpus::images::{Orientation, decode_oriented};
use quern_recipes::ImageLimits;

/// What happens to an image: the size to which it decodes, or the reason for which it is quarantined; and why.
fn outcome(bytes: &[u8]) -> (String, String) {
    match decode_oriented(bytes, &ImageLimits::default(), Orientation::Apply) {
        Ok(image) => {
            assert_eq!(image.pixels.len(), image.width as usize * image.height as usize * 3);
            (format!("{}x{}", image.width, image.height), String::new())
        }
        Err(error) => (error.reason().to_owned(), error.to_string()),
    }
}

#[test]
fn every_image_meets_the_end_that_its_name_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken/images");
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut wrong = Vec::new();
    for name in &names {
        let [_, verdict, _] = name.split('.').collect::<Vec<_>>()[..] else {
            panic!("{name} is not called WHAT.VERDICT.ENDING")
        };
        let (found, why) = outcome(&std::fs::read(folder.join(name)).unwrap());
        if found != verdict {
            wrong.push(format!("{name}: {found} {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for verdict in [".24x16.", ".image_corrupt.", ".image_size_limit.", ".image_frames_limit.", ".image_unsupported."] {
        assert!(names.iter().filter(|name| name.contains(verdict)).count() >= 3, "few {verdict}");
    }
}
