//! What tensors are written into: memory that the C library keeps, and tensors filled where they lie.

use tch::{Device, Kind, Tensor};

/// Largest block that is kept for the next of its size, instead of being handed back to the system and, when it is wanted
/// again, handed out page by page.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 1 << 30;

/// Pools from which threads allocate. What is freed in one is kept for that one: with a pool for every thread, as is usual, a
/// CapFilt worker of the zoo's models took three times the memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const POOLS: libc::c_int = 2;

/// Has the C library keep freed memory for later, in this process. Batches of pixels and activations are tens of megabytes
/// each and come and go with every step; by default every such block is mapped anew, which took a fifth of a loader's time.
/// To be called once, before there are threads. A C library that isn't glibc stays as it is.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt changes settings of the allocator; it takes any values.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, POOLS);
    }
}

/// A tensor of this size in single precision, on the processor, that `fill` writes, whole, into memory that holds anything;
/// and what `fill` says.
pub fn filled<T>(size: &[i64], fill: impl FnOnce(&mut [f32]) -> T) -> (Tensor, T) {
    let tensor = Tensor::empty(size, (Kind::Float, Device::Cpu));
    // SAFETY: a new contiguous tensor of so many floats, which nobody else knows; any bits are a float.
    let numbers = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) };
    let said = fill(numbers);
    (tensor, said)
}
