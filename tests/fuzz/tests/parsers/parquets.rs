//! Parquet files of a data set: footers, columns, pages, rows.

use quern_fuzz::Target;
use quern_recipes::Images;

use crate::shards::mill;

#[test]
fn parquets() {
    Target::new("parquets").seeds_of("corpus/tests/broken/files", ".parquet").cases(3000).run(|bytes| {
        mill(bytes, "parquet", Images::Bytes);
        mill(bytes, "parquet", Images::Urls);
    });
}
