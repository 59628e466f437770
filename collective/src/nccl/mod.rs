//! The NCCL back end: CUDA tensors, one device per rank.
//!
//! It goes through cudarc's `sys`: cudarc's safe `Comm` blocks in init, hides its handle and panics in drop.
//! Ranks find each other and agree on kinds and sizes over a [`TcpCollective`], which is also what notices a dead
//! peer first and names it; only the data goes over NCCL. Each operation returns when the null stream (libtorch's
//! current one) has done it, so its deadline covers the work that was queued before it.

mod communicator;
mod probe;

use std::ffi::c_void;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cudarc::nccl::sys::{self, ncclDataType_t, ncclRedOp_t};
use tch::{Device, Kind, Tensor};

use self::communicator::{Communicator, Limit, check};
pub use self::probe::{NcclProbe, probe};
use crate::{Collective, CollectiveError, Operation, Result, TcpCollective, TcpOptions, sum};

/// A world over NCCL.
#[derive(Debug)]
pub struct NcclCollective {
    control: TcpCollective,
    device: Device,
    deadline: Duration,
    /// None after a failure.
    communicator: Mutex<Option<Communicator>>,
    aborted: AtomicBool,
}

impl NcclCollective {
    /// Joins the world with CUDA device `ordinal`: over TCP first (see [`TcpCollective::connect`]), then over NCCL.
    ///
    /// # Errors
    /// [`NcclMissing`](CollectiveError::NcclMissing) without NCCL or a GPU driver; else as the TCP world's.
    pub fn connect(listener: TcpListener, options: TcpOptions, ordinal: usize) -> Result<NcclCollective> {
        communicator::require_libraries()?;
        let deadline = options.deadline;
        let control = TcpCollective::connect(listener, options)?;
        let id = match control.rank() {
            0 => communicator::unique_id()?,
            _ => [0; 128],
        };
        let shared = control.broadcast(&[Tensor::from_slice(&id)], 0)?;
        let mut id = [0; 128];
        shared[0].copy_data(&mut id, 128);
        let aborted = AtomicBool::new(false);
        let (rank, size) = (control.rank(), control.size());
        let communicator = Communicator::join(ordinal, id, rank, size, Limit::new(deadline), &aborted)?;
        let device = Device::Cuda(ordinal);
        Ok(NcclCollective { control, device, deadline, communicator: Mutex::new(Some(communicator)), aborted })
    }

    /// Runs the NCCL calls of an operation as one group; a failure ends the world.
    fn group(&self, operation: Operation, body: impl FnOnce(Calls) -> Result<()>) -> Result<()> {
        let mut guard = self.communicator.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let communicator = match &*guard {
            Some(communicator) if !self.aborted.load(Ordering::Acquire) => communicator,
            _ => return Err(CollectiveError::Aborted { operation }),
        };
        let limit = Limit::new(self.deadline);
        let result = communicator.group(operation, limit, &self.aborted, |raw| body(Calls { raw, operation }));
        if result.is_err() {
            self.abort();
            // Dropped, it is aborted inside NCCL, which ends its kernels here and on the peers.
            *guard = None;
        }
        result
    }

    /// The tensor as NCCL can move it: on this rank's device, without a graph, contiguous.
    fn prepare(&self, operation: Operation, tensor: &Tensor) -> Result<Tensor> {
        if tensor.device() != self.device {
            let detail =
                format!("this rank's NCCL moves tensors on {:?}, this one is on {:?}", self.device, tensor.device());
            return Err(CollectiveError::Usage { operation, detail });
        }
        if data_type(tensor.kind()).is_none() {
            let detail = format!("tensors of kind {:?} can't be sent", tensor.kind());
            return Err(CollectiveError::Usage { operation, detail });
        }
        Ok(tensor.detach().contiguous())
    }

    /// All ranks' `facts` over the control connection; all must be equally many.
    fn share(&self, operation: Operation, facts: &[i64]) -> Result<Vec<Vec<i64>>> {
        let all = self.control.gather(operation, &Tensor::from_slice(facts))?;
        let all: Vec<Vec<i64>> = all
            .iter()
            .map(|tensor| {
                let mut facts = vec![0; tensor.numel()];
                tensor.copy_data(&mut facts, tensor.numel());
                facts
            })
            .collect();
        for (rank, theirs) in all.iter().enumerate() {
            if theirs.len() != facts.len() || theirs[0] != facts[0] {
                self.abort();
                return Err(CollectiveError::Mismatch {
                    rank,
                    operation,
                    expected: "tensors of this rank's kinds and shapes".into(),
                    found: "others".into(),
                });
            }
        }
        Ok(all)
    }

    /// An uninitialised tensor on this rank's device.
    fn empty(&self, operation: Operation, shape: &[i64], kind: Kind) -> Result<Tensor> {
        Tensor::f_empty(shape, (kind, self.device)).map_err(sum::torch(operation))
    }

    /// An uninitialised tensor like `own` with another number of rows.
    fn rows_like(&self, operation: Operation, own: &Tensor, rows: i64) -> Result<Tensor> {
        let mut shape = own.size();
        shape[0] = rows;
        self.empty(operation, &shape, own.kind())
    }
}

/// A fingerprint of everything but dimension 0.
fn row_signature(tensor: &Tensor) -> i64 {
    let mut shape = tensor.size();
    shape[0] = 0;
    sum::signature([&Tensor::empty(&shape, (tensor.kind(), Device::Cpu))]) as i64
}

impl Collective for NcclCollective {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn size(&self) -> usize {
        self.control.size()
    }

    fn all_gather(&self, local: &Tensor) -> Result<Vec<Tensor>> {
        let operation = Operation::AllGather;
        sum::check_ragged(operation, local)?;
        let mine = self.prepare(operation, local)?;
        let facts = self.share(operation, &[row_signature(&mine), mine.size()[0]])?;
        let gathered: Vec<Tensor> =
            facts.iter().map(|facts| self.rows_like(operation, &mine, facts[1])).collect::<Result<_>>()?;
        self.group(operation, |calls| {
            gathered.iter().enumerate().try_for_each(|(root, out)| calls.broadcast(&mine, out, root))
        })?;
        Ok(gathered)
    }

    fn all_reduce_sum(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let operation = Operation::AllReduce;
        tensors.iter().try_for_each(|tensor| sum::check_summable(operation, tensor))?;
        let tensors = tensors.iter().map(|tensor| self.prepare(operation, tensor)).collect::<Result<Vec<_>>>()?;
        let tensors = &tensors[..];
        self.share(operation, &[sum::signature(tensors) as i64])?;
        let mut out: Vec<Option<Tensor>> = tensors.iter().map(|_| None).collect();
        for (kind, members) in sum::by_kind(tensors) {
            let flat = sum::pack(tensors, &members)?;
            let total = self.empty(operation, &flat.size(), kind)?;
            self.group(operation, |calls| calls.all_reduce(&flat, &total))?;
            sum::unpack(&total, tensors, &members, &mut out);
        }
        Ok(out.into_iter().map(|tensor| tensor.expect("every tensor is in one group")).collect())
    }

    fn reduce_scatter_sum(&self, parts: &[Tensor]) -> Result<Tensor> {
        let operation = Operation::ReduceScatter;
        sum::check_parts(operation, parts, self.size())?;
        parts.iter().try_for_each(|part| sum::check_summable(operation, part))?;
        let parts = parts.iter().map(|part| self.prepare(operation, part)).collect::<Result<Vec<_>>>()?;
        self.share(operation, &[sum::signature(&parts) as i64])?;
        let own = &parts[self.rank()];
        let total = self.empty(operation, &own.size(), own.kind())?;
        self.group(operation, |calls| {
            parts.iter().enumerate().try_for_each(|(root, part)| calls.reduce(part, &total, root))
        })?;
        Ok(total)
    }

    fn broadcast(&self, tensors: &[Tensor], root: usize) -> Result<Vec<Tensor>> {
        let operation = Operation::Broadcast;
        sum::check_root(root, self.size())?;
        let mine = tensors.iter().map(|tensor| self.prepare(operation, tensor)).collect::<Result<Vec<_>>>()?;
        self.share(operation, &[sum::signature(tensors) as i64])?;
        let received: Vec<Tensor> =
            mine.iter().map(|tensor| self.empty(operation, &tensor.size(), tensor.kind())).collect::<Result<_>>()?;
        self.group(operation, |calls| {
            mine.iter().zip(&received).try_for_each(|(tensor, out)| calls.broadcast(tensor, out, root))
        })?;
        Ok(received)
    }

    fn all_to_all(&self, parts: &[Tensor]) -> Result<Vec<Tensor>> {
        let operation = Operation::AllToAll;
        sum::check_exchange_parts(operation, parts, self.size())?;
        let parts = parts.iter().map(|part| self.prepare(operation, part)).collect::<Result<Vec<_>>>()?;
        let mut facts = vec![row_signature(&parts[0])];
        facts.extend(parts.iter().map(|part| part.size()[0]));
        let all = self.share(operation, &facts)?;
        let me = self.rank();
        let received: Vec<Tensor> =
            all.iter().map(|facts| self.rows_like(operation, &parts[me], facts[1 + me])).collect::<Result<_>>()?;
        self.group(operation, |calls| {
            for (peer, (part, out)) in parts.iter().zip(&received).enumerate() {
                calls.send(part, peer)?;
                calls.receive(out, peer)?;
            }
            Ok(())
        })?;
        Ok(received)
    }

    fn barrier(&self) -> Result<()> {
        // No calls: the group only waits for this rank's stream.
        self.group(Operation::Barrier, |_| Ok(()))?;
        self.control.barrier()
    }

    fn abort(&self) {
        // A waiting operation sees the flag and aborts NCCL itself, on the thread that uses it.
        self.aborted.store(true, Ordering::Release);
        self.control.abort();
    }
}

impl Drop for NcclCollective {
    /// Finishes in good order when the world is in good order; else NCCL is aborted.
    fn drop(&mut self) {
        let communicator = self.communicator.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(communicator) = communicator
            && !self.aborted.load(Ordering::Acquire)
            && let Err(error) = communicator.finish(Limit::new(self.deadline), &self.aborted)
        {
            tracing::warn!(%error, "NCCL did not finish in good order");
        }
    }
}

/// The calls that one group can make. All tensors are contiguous and on the communicator's device, and outlive
/// the group, which returns only when the stream is done with them.
struct Calls {
    raw: sys::ncclComm_t,
    operation: Operation,
}

impl Calls {
    fn broadcast(&self, send: &Tensor, receive: &Tensor, root: usize) -> Result<()> {
        let (count, kind) = extent(receive);
        // SAFETY: see `Calls`; only the root's send buffer is read, and the root's has `count` elements.
        check(self.operation, "ncclBroadcast", unsafe {
            sys::ncclBroadcast(pointer(send), pointer(receive), count, kind, root as i32, self.raw, STREAM)
        })
    }

    fn all_reduce(&self, send: &Tensor, receive: &Tensor) -> Result<()> {
        let (count, kind) = extent(send);
        // SAFETY: see `Calls`; both tensors have `count` elements.
        check(self.operation, "ncclAllReduce", unsafe {
            sys::ncclAllReduce(pointer(send), pointer(receive), count, kind, ncclRedOp_t::ncclSum, self.raw, STREAM)
        })
    }

    fn reduce(&self, send: &Tensor, receive: &Tensor, root: usize) -> Result<()> {
        let (count, kind) = extent(send);
        // SAFETY: see `Calls`; `receive` is written at the root only, where it has `count` elements.
        check(self.operation, "ncclReduce", unsafe {
            let sum = ncclRedOp_t::ncclSum;
            sys::ncclReduce(pointer(send), pointer(receive), count, kind, sum, root as i32, self.raw, STREAM)
        })
    }

    fn send(&self, tensor: &Tensor, peer: usize) -> Result<()> {
        let (count, kind) = extent(tensor);
        // SAFETY: see `Calls`.
        check(self.operation, "ncclSend", unsafe {
            sys::ncclSend(pointer(tensor), count, kind, peer as i32, self.raw, STREAM)
        })
    }

    fn receive(&self, tensor: &Tensor, peer: usize) -> Result<()> {
        let (count, kind) = extent(tensor);
        // SAFETY: see `Calls`.
        check(self.operation, "ncclRecv", unsafe {
            sys::ncclRecv(pointer(tensor), count, kind, peer as i32, self.raw, STREAM)
        })
    }
}

/// libtorch's current stream: the null stream.
const STREAM: sys::cudaStream_t = std::ptr::null_mut();

fn pointer(tensor: &Tensor) -> *mut c_void {
    tensor.data_ptr()
}

fn extent(tensor: &Tensor) -> (usize, ncclDataType_t) {
    (tensor.numel(), data_type(tensor.kind()).expect("the kind was checked"))
}

/// NCCL's type of a kind; `Bool` travels as bytes.
fn data_type(kind: Kind) -> Option<ncclDataType_t> {
    Some(match kind {
        Kind::Float => ncclDataType_t::ncclFloat32,
        Kind::Double => ncclDataType_t::ncclFloat64,
        Kind::Half => ncclDataType_t::ncclFloat16,
        Kind::BFloat16 => ncclDataType_t::ncclBfloat16,
        Kind::Int64 => ncclDataType_t::ncclInt64,
        Kind::Int => ncclDataType_t::ncclInt32,
        Kind::Int8 => ncclDataType_t::ncclInt8,
        Kind::Uint8 | Kind::Bool => ncclDataType_t::ncclUint8,
        _ => return None,
    })
}
