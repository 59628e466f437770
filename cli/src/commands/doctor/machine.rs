//! Cores, memory, disk.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Finding, gib};

/// What the demo's output and its corpus take at most.
const DEMO_DISK_BYTES: u64 = 1 << 30;

/// What two workers of the demo take at most.
const DEMO_MEMORY_BYTES: u64 = 4 << 30;

/// Looks at the machine, and at the disk of `folder`.
pub fn findings(folder: &Path) -> Vec<Finding> {
    vec![cores(), memory(), disk(folder)]
}

fn cores() -> Finding {
    match std::thread::available_parallelism() {
        Ok(cores) => Finding::good("cores", cores.to_string()),
        Err(error) => {
            Finding::absent("cores", format!("unknown: {error}"), "set `cluster.threads` in the recipe by hand")
        }
    }
}

fn memory() -> Finding {
    let Some(available) = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field_kib(&text, "MemAvailable:"))
    else {
        return Finding::absent("memory", "unknown: /proc/meminfo can't be read", "");
    };
    let machine = available * 1024;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let (usable, of) = match limit {
        Some(limit) if limit < machine => (limit, "the container's limit"),
        _ => (machine, "available"),
    };
    let found = format!("{} {of}", gib(usable));
    if usable >= DEMO_MEMORY_BYTES {
        Finding::good("memory", found)
    } else {
        Finding::absent("memory", found, format!("the demo's two workers want about {}", gib(DEMO_MEMORY_BYTES)))
    }
}

/// A field of /proc/meminfo.
fn field_kib(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

fn disk(folder: &Path) -> Finding {
    match free_bytes(folder) {
        Ok(free) if free >= DEMO_DISK_BYTES => {
            Finding::good("disk", format!("{} free at {}", gib(free), folder.display()))
        }
        Ok(free) => Finding::missing(
            "disk",
            format!("{} free at {}", gib(free), folder.display()),
            format!("make room, or name another folder with --folder: the demo writes up to {}", gib(DEMO_DISK_BYTES)),
        ),
        Err(error) => Finding::missing(
            "disk",
            format!("{}: {error}", folder.display()),
            "name a folder that exists with --folder",
        ),
    }
}

/// Bytes that this user may still write on the disk of `folder`.
fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statvfs is a valid value.
    let mut disk: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and the struct outlives the call.
    match unsafe { libc::statvfs(path.as_ptr(), &mut disk) } {
        0 => Ok(disk.f_bavail * disk.f_frsize),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Verdict;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       16384256 kB\nMemAvailable:    8192128 kB\n";
        assert_eq!(field_kib(text, "MemAvailable:"), Some(8_192_128));
        assert_eq!(field_kib(text, "SwapTotal:"), None);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let finding = disk(Path::new("/no/such/folder"));
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.found.starts_with("/no/such/folder: "), "{}", finding.found);
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
    }
}
