//! libtorch at run time: CUDA is opened when it is there, and what was found is reported.

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::Path;

use tch::Device;

/// Opens libtorch_cuda for the whole process when this machine has an NVIDIA driver. Must be called
/// before any tensor exists: libtorch looks for its CUDA half only once. Without a driver nothing is opened,
/// and every tensor stays on the CPU.
pub fn open_cuda() {
    if open("libcuda.so.1", libc::RTLD_LAZY).is_ok()
        && let Err(reason) = open("libtorch_cuda.so", libc::RTLD_LAZY | libc::RTLD_GLOBAL)
    {
        let text = format!("this machine has a GPU, but libtorch's CUDA half does not open: {reason}");
        quern_telemetry::say_failure("quern-worker", &text);
    }
}

fn open(library: &str, flags: c_int) -> Result<*mut c_void, String> {
    let name = CString::new(library).expect("library names hold no NUL");
    // SAFETY: the name is a C string; the handle is never closed, so what it maps stays.
    let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: dlerror returns a C string or null, valid until the next call on this thread.
    let reason = unsafe { libc::dlerror() };
    match reason.is_null() {
        true => Err("unknown reason".to_owned()),
        // SAFETY: not null, see above.
        false => Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned()),
    }
}

/// The file of the libtorch that this process runs with.
pub fn path() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mapped = |line: &str| line.split_whitespace().nth(5).map(str::to_owned);
    maps.lines().filter_map(mapped).find(|path| path.contains("libtorch_cpu.so"))
}

/// The version of the libtorch that this process runs with, from `version.py` of the wheel that it was loaded from; a
/// libtorch without one is the version that this binary was built against.
pub fn version() -> String {
    let file = path().and_then(|path| Some(Path::new(&path).parent()?.parent()?.join("version.py")));
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    line.map_or_else(|| BUILT_AGAINST.to_owned(), |quoted| quoted.trim_matches(['\'', '"']).to_owned())
}

/// The PyTorch version that tch 0.24 binds, pinned in requirements.txt.
const BUILT_AGAINST: &str = "2.11.0";

/// The device of `auto`, `cpu` or `cuda:N`, or one sentence why there is none.
pub fn device(name: &str) -> Result<Device, String> {
    let available = tch::Cuda::device_count();
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" if available > 0 => Ok(Device::Cuda(0)),
        "auto" => Ok(Device::Cpu),
        _ => match name.strip_prefix("cuda:").map(str::parse::<usize>) {
            Some(Ok(index)) if (index as i64) < available => Ok(Device::Cuda(index)),
            Some(Ok(_)) => Err(format!("device {name} is not there: this machine has {available} CUDA device(s)")),
            _ => Err(format!("“{name}” is no device: say auto, cpu or cuda:N")),
        },
    }
}

/// A device as the protocol and people name it.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// The memory of a device in bytes: a GPU's own, or the machine's; 0 where it can't be told.
pub fn memory_bytes(device: Device) -> u64 {
    match device {
        Device::Cuda(index) => {
            let devices = quern_collective::cuda::devices().unwrap_or_default();
            devices.get(index).map_or(0, |device| device.memory_bytes)
        }
        _ => machine_memory_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
    }
}

/// The machine's memory, as Linux tells it.
fn machine_memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_memory_is_read_in_bytes() {
        assert_eq!(machine_memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16 << 20);
        assert_eq!(machine_memory_bytes(""), 0);
    }

    #[test]
    fn devices_are_named() {
        assert_eq!(device("cpu"), Ok(Device::Cpu));
        assert!(device("cuda:99").unwrap_err().contains("99"));
        assert!(device("tpu").unwrap_err().contains("cuda:N"));
        assert_eq!(device_name(Device::Cuda(1)), "cuda:1");
    }
}
