//! Whether NCCL can be loaded here, and which one. cudarc panics when it can't; nothing of ours calls NCCL
//! before this has said yes.

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::PathBuf;

use crate::{CollectiveError, Result};

/// The NCCL that would be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NcclProbe {
    /// Where the library lies.
    pub path: PathBuf,
    /// Its version, such as `2.28.9`.
    pub version: String,
}

/// Looks for NCCL where cudarc will: `libnccl.so` and its kin on the binary's rpath and the system's paths.
///
/// # Errors
/// [`NcclMissing`](CollectiveError::NcclMissing) when no library of these names can be loaded.
pub fn probe() -> Result<NcclProbe> {
    let names = cudarc::get_lib_name_candidates("nccl");
    for name in &names {
        let Ok(library) = CString::new(name.as_str()) else { continue };
        // SAFETY: the name is a C string. The handle is never closed: cudarc opens the same library later.
        let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            return describe(handle).ok_or_else(|| missing(format!("{name} is there but has no ncclGetVersion")));
        }
    }
    Err(missing(format!("no library named {} can be opened", names[0])))
}

pub(super) fn missing(detail: String) -> CollectiveError {
    CollectiveError::NcclMissing { detail }
}

/// Version and path of an open library.
fn describe(handle: *mut c_void) -> Option<NcclProbe> {
    // SAFETY: the handle is open and the name a C string.
    let symbol = unsafe { libc::dlsym(handle, c"ncclGetVersion".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: NCCL has declared this symbol so since version 1: ncclResult_t ncclGetVersion(int*).
    let get_version: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { std::mem::transmute(symbol) };
    let mut code = 0;
    // SAFETY: the pointer is valid for the write; the function touches no device.
    if unsafe { get_version(&mut code) } != 0 {
        return None;
    }
    // SAFETY: an all-zero Dl_info is a valid one to be filled in.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the symbol lies in a loaded library, the struct is writable.
    let found = unsafe { libc::dladdr(symbol, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr filled in a C string that lives as long as the library.
    let path = PathBuf::from(unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned());
    let path = path.canonicalize().unwrap_or(path);
    Some(NcclProbe { path, version: version_text(code) })
}

/// NCCL_VERSION_CODE as people write it: 22809 is 2.28.9, and before 2.9 one digit less: 2804 is 2.8.4.
fn version_text(code: c_int) -> String {
    let (major, rest) = if code < 10_000 { (code / 1000, code % 1000) } else { (code / 10_000, code % 10_000) };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

#[cfg(test)]
mod tests {
    use super::version_text;

    #[test]
    fn version_codes_are_read_as_nccl_writes_them() {
        assert_eq!([22809, 21403, 20900, 2804].map(version_text), ["2.28.9", "2.14.3", "2.9.0", "2.8.4"]);
    }
}
