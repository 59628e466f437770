//! What the system allows a process.

use std::io;

/// Raises the number of files and connections that this process may have open to what it may be raised to.
///
/// # Errors
/// When the system doesn't say, or refuses.
pub fn allow_many_connections() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the calls, which touch nothing else.
    let refused = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 || {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0
        }
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}
