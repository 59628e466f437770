//! The GPUs of this machine as NVIDIA's driver names them. (cudarc lives in this crate alone.)

use cudarc::driver::result::{self as driver, DriverError};
use cudarc::driver::sys;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// Its product name.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
}

/// Why the GPUs can't be listed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// The driver's library is not installed.
    #[error("this machine has no NVIDIA driver (libcuda can't be opened)")]
    NoDriver,
    /// The driver reported an error.
    #[error("NVIDIA's driver: {call}: {code}")]
    Driver {
        /// The failing call.
        call: &'static str,
        /// Its result.
        code: String,
    },
}

/// All GPUs, in the order of their ordinals.
///
/// # Errors
/// [`CudaError::NoDriver`] on a machine without GPUs.
pub fn devices() -> Result<Vec<CudaDevice>, CudaError> {
    // SAFETY: only tries to open libraries.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let failed = |call| move |error: DriverError| CudaError::Driver { call, code: format!("{:?}", error.0) };
    driver::init().map_err(failed("cuInit"))?;
    let count = driver::device::get_count().map_err(failed("cuDeviceGetCount"))?;
    let describe = |ordinal| {
        let device = driver::device::get(ordinal).map_err(failed("cuDeviceGet"))?;
        let name = driver::device::get_name(device).map_err(failed("cuDeviceGetName"))?;
        // SAFETY: the device comes from `device::get`.
        let memory_bytes = unsafe { driver::device::total_mem(device) }.map_err(failed("cuDeviceTotalMem"))? as u64;
        Ok(CudaDevice { name, memory_bytes })
    };
    (0..count).map(describe).collect()
}
