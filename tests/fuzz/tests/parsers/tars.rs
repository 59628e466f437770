//! WebDataset's tar files: headers, pax records, long names, samples.

use quern_fuzz::Target;
use quern_recipes::Images;

use crate::shards::mill;

#[test]
fn tars() {
    Target::new("tars").seeds_of("corpus/tests/broken/files", ".tar").cases(3000).run(|bytes| {
        mill(bytes, "tar", Images::Bytes);
    });
}
