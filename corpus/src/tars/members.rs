//! The regular files in a tar file, from its headers (POSIX ustar and pax, GNU tar's manual, "Basic Tar Format").

use tar::{EntryType, Header, PaxExtensions};

use super::window::Window;
use crate::store::StoreError;

const BLOCK: u64 = 512;
/// A name or a pax header is never longer.
const MAX_NAME_BYTES: u64 = 1 << 20;
/// Where the checksum stands in a header; it counts as spaces.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Where a block of a sparse file's map says whether another follows.
const GOES_ON: usize = 504;

/// Why a tar file can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is no tar file, or not all of one.
    #[error("not a readable tar file: {0}")]
    Damaged(String),
}

fn damaged(what: impl Into<String>) -> TarError {
    TarError::Damaged(what.into())
}

/// A regular file in a tar file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub name: String,
    /// Where its content begins.
    pub start: u64,
    pub bytes: u64,
}

/// The files of a tar file, one after the other.
#[derive(Debug)]
pub(super) struct Files {
    pub window: Window,
    at: u64,
}

/// What the headers before a file's own said about it.
#[derive(Debug, Default)]
struct Ahead {
    name: Option<Vec<u8>>,
    pax_name: Option<Vec<u8>>,
    bytes: Option<u64>,
    is_sparse: bool,
}

impl Files {
    pub fn new(window: Window) -> Self {
        Files { window, at: 0 }
    }

    /// The next file; none at the end mark.
    pub async fn next(&mut self) -> Result<Option<File>, TarError> {
        let mut ahead = Ahead::default();
        loop {
            let at = self.at;
            let Some(block) = self.block(at).await? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            check(header, at)?;
            let (start, bytes) = self.content(header, &ahead).await?;
            let name = || ahead.name_of(header);
            self.at = self.end(start, bytes, name)?;
            match header.entry_type() {
                EntryType::GNULongName => ahead.name = Some(self.long_name(start, bytes).await?),
                EntryType::XHeader => ahead.read(&self.small(start, bytes).await?, at)?,
                EntryType::GNULongLink | EntryType::XGlobalHeader => {}
                EntryType::Regular | EntryType::Continuous if !ahead.is_sparse => {
                    let name = name();
                    if !name.ends_with('/') {
                        return Ok(Some(File { name, start, bytes }));
                    }
                    ahead = Ahead::default();
                }
                _ => ahead = Ahead::default(),
            }
        }
    }

    /// The header at `at`; none for the end mark.
    async fn block(&mut self, at: u64) -> Result<Option<bytes::Bytes>, TarError> {
        let file_bytes = self.window.file_bytes();
        if at == file_bytes {
            return Err(damaged(format!(
                "it ends at byte {at} without an end mark, so its writer was stopped; write it again, or append 1024 zero \
                 bytes if it is whole"
            )));
        }
        if at + BLOCK > file_bytes {
            return Err(cut_off(file_bytes, "a header", at + BLOCK));
        }
        let block = self.window.read(at, BLOCK).await?;
        Ok(block.iter().any(|&byte| byte != 0).then_some(block))
    }

    /// Where a header's content begins, and how long it is.
    async fn content(&mut self, header: &Header, ahead: &Ahead) -> Result<(u64, u64), TarError> {
        let mut start = self.at + BLOCK;
        let kind = header.entry_type();
        if kind.is_hard_link()
            || kind.is_symlink()
            || kind.is_character_special()
            || kind.is_block_special()
            || kind.is_dir()
            || kind.is_fifo()
        {
            return Ok((start, 0));
        }
        let stated =
            header.entry_size().map_err(|error| damaged(format!("the header at byte {}: {error}", self.at)))?;
        if kind.is_gnu_sparse() {
            // The map of a sparse file goes on in blocks of its own.
            let mut goes_on = header.as_gnu().is_some_and(|header| header.is_extended());
            while goes_on {
                let end = start + BLOCK;
                if end > self.window.file_bytes() {
                    return Err(cut_off(self.window.file_bytes(), "a sparse file's map", end));
                }
                goes_on = self.window.read(start, BLOCK).await?[GOES_ON] != 0;
                start = end;
            }
        }
        Ok((start, ahead.bytes.unwrap_or(stated)))
    }

    /// Where the header after this content is.
    fn end(&self, start: u64, bytes: u64, name: impl Fn() -> String) -> Result<u64, TarError> {
        let end = bytes.checked_next_multiple_of(BLOCK).and_then(|padded| start.checked_add(padded));
        match end {
            Some(end) if end <= self.window.file_bytes() => Ok(end),
            end => Err(cut_off(self.window.file_bytes(), &format!("`{}`", name()), end.unwrap_or(u64::MAX))),
        }
    }

    async fn small(&mut self, start: u64, bytes: u64) -> Result<bytes::Bytes, TarError> {
        if bytes > MAX_NAME_BYTES {
            return Err(damaged(format!("a name of {bytes} bytes at byte {start}")));
        }
        Ok(self.window.read(start, bytes).await?)
    }

    async fn long_name(&mut self, start: u64, bytes: u64) -> Result<Vec<u8>, TarError> {
        let name = self.small(start, bytes).await?;
        Ok(name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec())
    }
}

impl Ahead {
    /// A pax header: lines of `LENGTH KEY=VALUE`.
    fn read(&mut self, pax: &[u8], at: u64) -> Result<(), TarError> {
        for line in PaxExtensions::new(pax) {
            let line = line.map_err(|error| damaged(format!("the pax header at byte {at}: {error}")))?;
            match line.key_bytes() {
                b"path" => self.pax_name = Some(line.value_bytes().to_vec()),
                b"size" => {
                    let size = line.value().ok().and_then(|size| size.parse().ok());
                    let no_number = || damaged(format!("the pax header at byte {at}: a size that is no number"));
                    self.bytes = Some(size.ok_or_else(no_number)?);
                }
                key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn name_of(&self, header: &Header) -> String {
        match self.pax_name.as_ref().or(self.name.as_ref()) {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => String::from_utf8_lossy(&header.path_bytes()).into_owned(),
        }
    }
}

fn check(header: &Header, at: u64) -> Result<(), TarError> {
    let bytes = header.as_bytes();
    let sum = |range: std::ops::Range<usize>| bytes[range].iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let found = sum(0..CHECKSUM.start) + CHECKSUM.len() as u32 * u32::from(b' ') + sum(CHECKSUM.end..bytes.len());
    match header.cksum() {
        Ok(stated) if stated == found => Ok(()),
        _ if at == 0 && bytes.starts_with(&[0x1f, 0x8b]) => Err(damaged("it is compressed (gzip); unpack it")),
        _ => Err(damaged(format!("no header at byte {at}"))),
    }
}

fn cut_off(file_bytes: u64, what: &str, end: u64) -> TarError {
    damaged(format!("it is cut off: {what} should end at byte {end}, but the file has {file_bytes}; write it again"))
}
