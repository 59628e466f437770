//! Files written so that a reader sees all of one or nothing of it, whenever the writer is killed.
//!
//! The bytes go into a file without a name (`O_TMPFILE`), are synced, and only then get their name: a killed writer
//! leaves nothing behind. Where a file system has no nameless files, or the name is taken, a hidden staging name
//! is renamed over the target.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `bytes` as the file `path`, replacing what was there, durably. Missing folders are made.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("the file system's root is not a file"))?;
    create_folder(folder)?;
    match nameless(folder) {
        Some(mut file) => {
            fill(&mut file, bytes)?;
            publish(&file, path)?;
        }
        None => {
            let staging = staging_name(path);
            let written = File::create(&staging).and_then(|mut file| fill(&mut file, bytes));
            rename_or_remove(written, &staging, path)?;
        }
    }
    sync_folder(folder)
}

/// Creates the file `path` with `bytes`, durably; that there is one already is an error. A writer that is killed in
/// between leaves the file, with a part of the bytes.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("the file system's root is not a file"))?;
    create_folder(folder)?;
    fill(&mut File::create_new(path)?, bytes)?;
    sync_folder(folder)
}

/// Whether a file name is one of this module's staging names.
pub(crate) fn is_staging(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".part")
}

fn fill(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    // The new names are durable once the folders that hold them are synced.
    for ancestor in folder.ancestors().skip(1).take_while(|ancestor| !ancestor.as_os_str().is_empty()) {
        if sync_folder(ancestor).is_err() {
            break; // a folder above ours that we may not open; it existed before
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn staging_name(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn rename_or_remove(written: io::Result<()>, staging: &Path, path: &Path) -> io::Result<()> {
    let result = written.and_then(|()| fs::rename(staging, path));
    if result.is_err() {
        // The first error is the one to report; the staging name is hidden from every listing anyway.
        let _ = fs::remove_file(staging);
    }
    result
}

/// A file in `folder` that has no name yet; none where the file system offers no such thing.
#[cfg(target_os = "linux")]
fn nameless(folder: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).mode(0o644).custom_flags(libc::O_TMPFILE).open(folder).ok()
}

#[cfg(not(target_os = "linux"))]
fn nameless(_folder: &Path) -> Option<File> {
    None
}

/// Gives a nameless file its name.
#[cfg(target_os = "linux")]
fn publish(file: &File, path: &Path) -> io::Result<()> {
    match link(file, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let staging = staging_name(path);
            rename_or_remove(link(file, &staging), &staging, path)
        }
        result => result,
    }
}

#[cfg(not(target_os = "linux"))]
fn publish(_file: &File, _path: &Path) -> io::Result<()> {
    unreachable!("nameless files exist on Linux only")
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both are NUL-terminated strings that outlive the call.
    let status =
        unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_and_replaces_and_leaves_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/part.bin");
        for content in [&b"one"[..], b"two, longer", b""] {
            write(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(names(path.parent().unwrap()), ["part.bin"]);
        }
    }

    #[test]
    fn a_failed_rename_takes_its_staging_file_along() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("taken");
        fs::create_dir_all(target.join("by a folder")).unwrap();
        assert!(write(&target, b"x").is_err());
        assert_eq!(names(root.path()), ["taken"]);
    }

    #[test]
    fn staging_names_are_told_apart() {
        let staging = staging_name(Path::new("/x/data.parquet"));
        assert!(is_staging(staging.file_name().unwrap().to_str().unwrap()));
        assert!(!is_staging("data.parquet") && !is_staging(".hidden"));
    }
}
