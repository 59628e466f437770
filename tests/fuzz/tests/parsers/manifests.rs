//! `manifest.json` of an output, and the card that is made of it.

use quern_capfilt::{Manifest, card};
use quern_fuzz::Target;

#[test]
fn manifests() {
    Target::new("manifests").cases(3000).run(|bytes| {
        let Ok(manifest) = Manifest::from_json(bytes) else { return };
        let again = Manifest::from_json(manifest.to_json().as_bytes()).expect("what is written is read");
        assert_eq!(again.to_json(), manifest.to_json());
        assert_eq!(card(&again), card(&manifest));
    });
}
