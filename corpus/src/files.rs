//! What the files of a data set are: parquet files or WebDataset's tar files.

use std::collections::HashSet;

use quern_recipes::Format;

const PARQUET: &str = ".parquet";
pub(crate) const TAR: &str = ".tar";

/// Why it isn't clear which files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilesError {
    /// There is none.
    None,
    /// There are two kinds, and the recipe doesn't say which is meant.
    TwoFormats,
}

/// Names and sizes of the files.
pub(crate) type Files = Vec<(String, u64)>;

/// The listed files that are of the format that is said, or else of the only one that is there.
///
/// img2dataset lays a parquet file with the samples' metadata beside each tar file: those are tar files alone.
pub(crate) fn of_one_format(listed: Files, said: Option<Format>) -> Result<(Format, Files), FilesError> {
    let all_of = |ending: &str| listed.iter().filter(|(name, _)| name.ends_with(ending)).cloned().collect::<Files>();
    let (parquet, tars) = (all_of(PARQUET), all_of(TAR));
    let found = match (said, parquet.is_empty(), tars.is_empty()) {
        (Some(Format::Parquet), ..) | (None, false, true) => (Format::Parquet, parquet),
        (Some(Format::WebDataset), ..) | (None, true, false) => (Format::WebDataset, tars),
        (None, true, true) => return Err(FilesError::None),
        (None, false, false) if lie_beside(&parquet, &tars) => (Format::WebDataset, tars),
        (None, false, false) => return Err(FilesError::TwoFormats),
    };
    if found.1.is_empty() { Err(FilesError::None) } else { Ok(found) }
}

/// Whether each parquet file has a tar file of its name beside it.
fn lie_beside(parquet: &Files, tars: &Files) -> bool {
    let stems: HashSet<&str> = tars.iter().filter_map(|(name, _)| name.strip_suffix(TAR)).collect();
    parquet.iter().all(|(name, _)| name.strip_suffix(PARQUET).is_some_and(|stem| stems.contains(stem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_format_is_taken_and_two_are_asked_about() {
        use Format::{Parquet, WebDataset};
        let chosen = |names: &[&str], said| {
            let listed = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
            of_one_format(listed, said).map(|(format, files)| (format, files.len()))
        };
        assert_eq!(chosen(&["a.parquet", "b/c.parquet", "README"], None), Ok((Parquet, 2)));
        assert_eq!(chosen(&["a.tar", "a_stats.json"], None), Ok((WebDataset, 1)));
        let img2dataset = ["0.parquet", "0.tar", "0_stats.json", "1.parquet", "1.tar", "2.tar"];
        assert_eq!(chosen(&img2dataset, None), Ok((WebDataset, 3)));
        assert_eq!(chosen(&img2dataset, Some(Parquet)), Ok((Parquet, 2)));
        let mixed = ["0.parquet", "0.tar", "1.parquet"];
        assert_eq!(chosen(&mixed, None), Err(FilesError::TwoFormats));
        assert_eq!(chosen(&mixed, Some(WebDataset)), Ok((WebDataset, 1)));
        assert_eq!(chosen(&["a.parquet"], Some(WebDataset)), Err(FilesError::None));
        assert_eq!(chosen(&["a.tar.gz"], None), Err(FilesError::None));
    }
}
