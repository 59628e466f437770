//! What of libtorch, CUDA and NCCL this process finds, as one line of JSON for `quern doctor`.

use serde::Serialize;

use crate::torch;

#[derive(Serialize)]
struct Report {
    torch: Library,
    /// For tensor arithmetic, when no recipe says how many.
    threads: i32,
    cuda_devices: Vec<CudaDevice>,
    nccl: Option<Library>,
    error: Option<String>,
}

#[derive(Serialize)]
struct CudaDevice {
    name: String,
    memory_bytes: u64,
}

/// A library that was found. Where libtorch is not in a file of its own, its path is empty.
#[derive(Serialize)]
struct Library {
    path: String,
    version: String,
}

/// The report. It runs only where libtorch was found: the binary doesn't start without it.
pub fn report() -> String {
    let probed = quern_collective::probe();
    let (devices, error) = match quern_collective::cuda::devices() {
        Ok(devices) => (devices, None),
        Err(reason) => (Vec::new(), Some(reason.to_string())),
    };
    let report = Report {
        torch: Library { path: torch::path().unwrap_or_default(), version: torch::version() },
        threads: tch::get_num_threads(),
        cuda_devices: devices.into_iter().map(|d| CudaDevice { name: d.name, memory_bytes: d.memory_bytes }).collect(),
        nccl: probed.ok().map(|nccl| Library { path: nccl.path.display().to_string(), version: nccl.version }),
        error,
    };
    serde_json::to_string(&report).expect("a report has string keys only")
}
