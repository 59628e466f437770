//! The zip archive of PyTorch 1.6 and later: `<name>/data.pkl`, and a stored entry `<name>/data/<key>` per storage.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::{Storages, state_dict, unpickle};
use crate::weights::WeightsError;
use crate::weights::error::format_error;
use crate::weights::layout::Named;
use crate::weights::stored::MappedFile;

/// The tensors of an archive's state dict.
pub fn zip_tensors(file: &Arc<MappedFile>) -> Result<Named, WeightsError> {
    let entries = entries(file)?;
    let bad = |reason: &str| format_error(&file.path, reason);
    let pickle = entries.keys().find(|name| name.matches('/').count() == 1 && name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or_else(|| bad("a zip archive without a plain data.pkl: torch.save did not write it"))?;
    let root = pickle.trim_end_matches("data.pkl");
    if entries.contains_key(&format!("{root}constants.pkl")) {
        return Err(bad("a TorchScript archive, which is a program; save the module's state_dict() instead"));
    }
    let bytes = |range: &Range<usize>| file.bytes().get(range.clone()).ok_or_else(|| bad("an entry ends behind it"));
    let big_endian = match entries.get(&format!("{root}byteorder")).map(bytes).transpose()? {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(other) => return Err(bad(&format!("byte order {:?}", String::from_utf8_lossy(other)))),
    };
    let data = format!("{root}data/");
    let storages: Storages =
        entries.iter().filter_map(|(name, range)| Some((name.strip_prefix(&data)?, range.clone()))).collect();
    state_dict(file, &unpickle(file, bytes(&entries[pickle])?)?, &storages, big_endian)
}

/// Where the content of each entry lies that is stored as it is.
fn entries(file: &MappedFile) -> Result<HashMap<String, Range<usize>>, WeightsError> {
    let broken = |error| {
        let reason = format!("not a whole zip archive ({error}); is it truncated or still being written?");
        format_error(&file.path, reason)
    };
    let mut archive = ZipArchive::new(Cursor::new(file.bytes())).map_err(broken)?;
    let mut entries = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(broken)?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            continue; // nothing that torch.save writes
        }
        let name = entry.name().map_err(broken)?.into_owned();
        let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
        let size = usize::try_from(entry.size()).ok();
        let range = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
        let range = range.ok_or_else(|| format_error(&file.path, format!("entry {name} lies nowhere")))?;
        entries.insert(name, range);
    }
    Ok(entries)
}
