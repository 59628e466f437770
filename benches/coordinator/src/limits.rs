//! What the system allows a process, and what a process has taken.

use std::io;
use std::time::Duration;

use anyhow::Context;

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

/// The processor time that a process (`self`: this one) has taken.
///
/// # Errors
/// When there is no such process.
pub fn cpu(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, which is in brackets, may hold spaces; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("/proc/…/stat has a name in brackets")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: the call takes a constant and touches nothing.
    let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_s as f64))
}
