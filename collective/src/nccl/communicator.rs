//! One NCCL communicator, driven without ever blocking inside NCCL: calls return at once, their outcome is
//! polled, and at the deadline the communicator is aborted.

use std::ffi::CStr;
use std::mem::offset_of;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::result as cuda;
use cudarc::driver::sys as cuda_sys;
use cudarc::nccl::sys;

use super::probe::{missing, probe};
use crate::{CollectiveError, Operation, Result};

/// Pause between two looks at an unfinished operation.
const POLL_PAUSE: Duration = Duration::from_micros(20);
/// NCCL's value for "not set" in `ncclConfig_t`.
const UNDEFINED: i32 = i32::MIN;

/// How long an operation may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub until: Instant,
    pub deadline: Duration,
}

impl Limit {
    pub fn new(deadline: Duration) -> Self {
        Limit { until: Instant::now() + deadline, deadline }
    }
}

/// A communicator on one device's primary context and its null stream, which is libtorch's current stream.
#[derive(Debug)]
pub(super) struct Communicator {
    raw: sys::ncclComm_t,
    context: cuda_sys::CUcontext,
    device: cuda_sys::CUdevice,
    size: usize,
}

// SAFETY: NCCL communicators and CUDA contexts may be used from any thread, one at a time; the owner keeps
// this one behind a mutex and every use makes the context current first.
unsafe impl Send for Communicator {}

/// A fresh id for a world, to be given to all ranks.
pub(super) fn unique_id() -> Result<[u8; 128]> {
    let mut id = sys::ncclUniqueId { internal: [0; 128] };
    // SAFETY: the pointer is valid for the write; the caller has probed the library.
    check(Operation::Connect, "ncclGetUniqueId", unsafe { sys::ncclGetUniqueId(&mut id) })?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// Makes sure that neither NCCL nor the driver's library is missing, since cudarc would panic.
pub(super) fn require_libraries() -> Result<()> {
    probe()?;
    // SAFETY: only tries to open libraries.
    if !unsafe { cuda_sys::is_culib_present() } {
        return Err(missing("the NVIDIA driver's libcuda can't be opened: this machine has no GPU driver".into()));
    }
    Ok(())
}

/// The device's primary context, current on this thread.
pub(super) fn primary_context(ordinal: usize) -> Result<(cuda_sys::CUdevice, cuda_sys::CUcontext)> {
    let failed = |call| move |error: cuda::DriverError| driver_error(Operation::Connect, call, error);
    cuda::init().map_err(failed("cuInit"))?;
    let device = cuda::device::get(ordinal as i32).map_err(failed("cuDeviceGet"))?;
    // SAFETY: the device comes from `device::get`; released in `Communicator::drop`.
    let context = unsafe { cuda::primary_ctx::retain(device) }.map_err(failed("cuDevicePrimaryCtxRetain"))?;
    // SAFETY: the context was just retained.
    unsafe { cuda::ctx::set_current(context) }.map_err(failed("cuCtxSetCurrent"))?;
    Ok((device, context))
}

impl Communicator {
    /// Joins the communicator `id` on device `ordinal`. Returns when all ranks have joined.
    pub fn join(
        ordinal: usize,
        id: [u8; 128],
        rank: usize,
        size: usize,
        limit: Limit,
        aborted: &AtomicBool,
    ) -> Result<Self> {
        let (device, context) = primary_context(ordinal)?;
        let mut this = Communicator { raw: null_mut(), context, device, size };
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) };
        let mut config = non_blocking_config();
        // SAFETY: all pointers are valid; NCCL copies the config.
        let joined = unsafe { sys::ncclCommInitRankConfig(&mut this.raw, size as i32, id, rank as i32, &mut config) };
        check(Operation::Connect, "ncclCommInitRankConfig", joined)?;
        this.settle(Operation::Connect, limit, aborted)?;
        Ok(this)
    }

    /// Runs the calls that `body` makes as one group, and waits until the stream has done them.
    pub fn group(
        &self,
        operation: Operation,
        limit: Limit,
        aborted: &AtomicBool,
        body: impl FnOnce(sys::ncclComm_t) -> Result<()>,
    ) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { cuda::ctx::set_current(self.context) }
            .map_err(|error| driver_error(operation, "cuCtxSetCurrent", error))?;
        // SAFETY: a plain call; the library is loaded.
        check(operation, "ncclGroupStart", unsafe { sys::ncclGroupStart() })?;
        let made = body(self.raw);
        // SAFETY: ends the group that was started above.
        let ended = check(operation, "ncclGroupEnd", unsafe { sys::ncclGroupEnd() });
        made?;
        ended?;
        self.settle(operation, limit, aborted)?;
        self.drain(operation, limit, aborted)
    }

    /// Waits until NCCL has taken in what was asked of it.
    fn settle(&self, operation: Operation, limit: Limit, aborted: &AtomicBool) -> Result<()> {
        self.poll(operation, limit, aborted, || Ok(!self.in_progress(operation)?))
    }

    /// Waits until the stream has done it, watching the communicator meanwhile.
    fn drain(&self, operation: Operation, limit: Limit, aborted: &AtomicBool) -> Result<()> {
        self.poll(operation, limit, aborted, || {
            self.in_progress(operation)?;
            // SAFETY: null is the current context's default stream.
            match unsafe { cuda_sys::cuStreamQuery(null_mut()) } {
                cuda_sys::CUresult::CUDA_SUCCESS => Ok(true),
                cuda_sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
                error => Err(driver_error(operation, "cuStreamQuery", cuda::DriverError(error))),
            }
        })
    }

    fn poll(
        &self,
        operation: Operation,
        limit: Limit,
        aborted: &AtomicBool,
        done: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        while !done()? {
            if aborted.load(Ordering::Acquire) {
                return Err(CollectiveError::Aborted { operation });
            }
            if Instant::now() >= limit.until {
                // NCCL does not tell whom it waits for.
                let ranks = (0..self.size).collect();
                return Err(CollectiveError::Deadline { ranks, operation, waited: limit.deadline });
            }
            std::thread::sleep(POLL_PAUSE);
        }
        Ok(())
    }

    /// The communicator's asynchronous state.
    fn in_progress(&self, operation: Operation) -> Result<bool> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive, the pointer valid for the write.
        check(operation, "ncclCommGetAsyncError", unsafe { sys::ncclCommGetAsyncError(self.raw, &mut state) })?;
        check(operation, "NCCL, in the background", state)?;
        Ok(state == sys::ncclResult_t::ncclInProgress)
    }

    /// Leaves in good order: waits for the peers' last reads of this rank's memory, then frees it.
    pub fn finish(&mut self, limit: Limit, aborted: &AtomicBool) -> Result<()> {
        // SAFETY: the communicator is alive; nothing is under way on it.
        check(Operation::Barrier, "ncclCommFinalize", unsafe { sys::ncclCommFinalize(self.raw) })?;
        self.settle(Operation::Barrier, limit, aborted)?;
        let raw = std::mem::replace(&mut self.raw, null_mut());
        // SAFETY: finalised, and from here on forgotten.
        check(Operation::Barrier, "ncclCommDestroy", unsafe { sys::ncclCommDestroy(raw) })
    }
}

impl Drop for Communicator {
    /// Aborts what was not finished in good order.
    fn drop(&mut self) {
        // SAFETY: the context is retained until the end of this function, the communicator (if any) alive.
        // Errors are of no use any more: the communicator is gone either way.
        unsafe {
            let _ = cuda::ctx::set_current(self.context);
            if !self.raw.is_null() {
                let _ = sys::ncclCommAbort(self.raw);
            }
            let _ = cuda::primary_ctx::release(self.device);
        }
    }
}

/// `NCCL_CONFIG_INITIALIZER` of NCCL 2.18 with `blocking = 0`: what that version did not have yet is left out
/// by size, so that this serves every NCCL from 2.18 on, whatever version cudarc was generated from.
fn non_blocking_config() -> sys::ncclConfig_t {
    // SAFETY: an all-zero config is a valid value of this plain struct.
    let mut config: sys::ncclConfig_t = unsafe { std::mem::zeroed() };
    config.size = offset_of!(sys::ncclConfig_t, trafficClass);
    config.magic = 0xcafe_beef;
    config.version = 21_800;
    config.blocking = 0;
    config.cgaClusterSize = UNDEFINED;
    config.minCTAs = UNDEFINED;
    config.maxCTAs = UNDEFINED;
    config.splitShare = UNDEFINED;
    config
}

/// Turns NCCL's result into ours; "in progress" is no error.
pub(super) fn check(operation: Operation, call: &'static str, result: sys::ncclResult_t) -> Result<()> {
    match result {
        sys::ncclResult_t::ncclSuccess | sys::ncclResult_t::ncclInProgress => Ok(()),
        error => {
            // SAFETY: NCCL returns a static C string for every code.
            let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(error)) };
            Err(CollectiveError::Nccl { operation, call, detail: text.to_string_lossy().into_owned() })
        }
    }
}

fn driver_error(operation: Operation, call: &'static str, error: cuda::DriverError) -> CollectiveError {
    CollectiveError::Nccl { operation, call, detail: format!("{:?}", error.0) }
}
