//! Parts of an output: data and quarantine.

use bytes::Bytes;
use quern_capfilt::{read_captions, read_data, read_provenance, read_quarantine, web_image_kind};
use quern_fuzz::Target;

#[test]
fn parts() {
    Target::new("parts").cases(3000).run(|bytes| {
        let part = Bytes::copy_from_slice(bytes);
        let captions = read_captions(part.clone());
        let data = read_data(part.clone());
        if let (Ok(captions), Ok(data)) = (captions, data) {
            assert_eq!(captions.len(), data.len(), "two ways to read one part");
        }
        let _ = read_quarantine(part.clone());
        let _ = read_provenance(part);
        let _ = web_image_kind(bytes);
    });
}
