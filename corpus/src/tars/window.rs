//! A file in a store, read from front to back with skips: a stretch at a time.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::store::{Folder, StoreError};

/// Bytes that are fetched at a time where every fetch costs a round trip.
const FAR_BYTES: u64 = 2 << 20;
/// Bytes that are fetched at a time from a local file: a header and what small members follow.
const NEAR_BYTES: u64 = 16 << 10;

/// The stretch that was read last.
#[derive(Debug)]
pub(super) struct Window {
    store: Arc<dyn ObjectStore>,
    path: Path,
    url: String,
    file_bytes: u64,
    fetch_bytes: u64,
    start: u64,
    bytes: Bytes,
}

impl Window {
    /// A window on the file `name` of so many bytes; nothing is read yet.
    pub fn open(folder: &Folder, name: &str, file_bytes: u64) -> Result<Self, StoreError> {
        Ok(Window {
            store: Arc::clone(&folder.store),
            path: folder.path_of(name)?,
            url: folder.url_of(name),
            file_bytes,
            fetch_bytes: if folder.is_local() { NEAR_BYTES } else { FAR_BYTES },
            start: 0,
            bytes: Bytes::new(),
        })
    }

    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The bytes from `at` on, which must be in the file.
    pub async fn read(&mut self, at: u64, bytes: u64) -> Result<Bytes, StoreError> {
        let end = at + bytes;
        assert!(end <= self.file_bytes, "{at}..{end} of {}", self.file_bytes);
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let fetched = at..(at + bytes.max(self.fetch_bytes)).min(self.file_bytes);
            let read = self.store.get_range(&self.path, fetched).await;
            self.bytes = read.map_err(|error| StoreError::new("read", self.url.clone(), error))?;
            self.start = at;
            if (self.bytes.len() as u64) < bytes {
                let source =
                    object_store::Error::Generic { store: "store", source: "fewer bytes than asked for".into() };
                return Err(StoreError::new("read", self.url.clone(), source));
            }
        }
        let offset = (at - self.start) as usize;
        Ok(self.bytes.slice(offset..offset + bytes as usize))
    }
}
