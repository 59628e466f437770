//! Collectives with deadlines: NCCL for GPUs, TCP for CPUs, [`Solo`] for a world of one.
//!
//! A *world* is a gang of ranks that call the same operations in the same order. Three promises hold on
//! every back end, and `tests/conformance.rs` runs them all through one suite:
//!
//! - **A dead peer is an error, never a hang.** Every operation, connecting included, has a deadline; the
//!   error names the ranks that were waited for.
//! - **A world fails as one.** After an error or an [`abort`](Collective::abort) every later operation of
//!   this rank fails at once, and the peers that wait for it are woken.
//! - **Sums are bitwise equal on all ranks.** TCP adds in rank order, so the result does not even depend on
//!   timing; NCCL reduces each element in one place and hands the result out.
//!
//! No operation records gradients: results are leaves (see DESIGN 3.4, the graph is cut at the features).

pub mod cuda;
mod error;
mod nccl;
mod solo;
mod sum;
mod tcp;

use tch::Tensor;

pub use error::{CollectiveError, Operation};
pub use nccl::{NcclCollective, NcclProbe, probe};
pub use solo::Solo;
pub use tcp::{TcpCollective, TcpOptions, local_world};

/// What every operation returns.
pub type Result<T> = std::result::Result<T, CollectiveError>;

/// The operations of a world. Every rank calls the same ones in the same order, from one thread at a time;
/// only [`abort`](Collective::abort) may come from another thread.
pub trait Collective: Send + Sync {
    /// This process's place in the world, from 0.
    fn rank(&self) -> usize;

    /// How many ranks the world has.
    fn size(&self) -> usize;

    /// Every rank's `local` `[n_r, ...]`, in rank order. Ragged: `n_r` may differ, also be 0; the kind and
    /// the trailing shape must agree. The own entry is a copy.
    fn all_gather(&self, local: &Tensor) -> Result<Vec<Tensor>>;

    /// The element-wise sums over all ranks, bitwise the same on each. Count, kinds and shapes must agree.
    /// Half kinds are added up in 32 bits where the back end can.
    fn all_reduce_sum(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>>;

    /// `parts[r]` is this rank's addend for rank `r`; returns the sum of what all ranks hold for this one.
    /// Ragged: parts may differ in shape between destinations, and must agree between sources.
    fn reduce_scatter_sum(&self, parts: &[Tensor]) -> Result<Tensor>;

    /// Rank `root`'s tensors on every rank. All ranks pass tensors of the same count, kinds and shapes; the
    /// values of those that are not `root`'s don't matter.
    fn broadcast(&self, tensors: &[Tensor], root: usize) -> Result<Vec<Tensor>>;

    /// Sends `parts[r]` to rank `r`; returns what each rank sent here, in rank order. Ragged in dimension 0;
    /// the kind and the trailing shape must agree. The own entry is a copy.
    fn all_to_all(&self, parts: &[Tensor]) -> Result<Vec<Tensor>>;

    /// Returns when every rank has called it.
    fn barrier(&self) -> Result<()>;

    /// Ends this world for this rank and wakes everybody who waits in it. Safe from any thread; permanent.
    fn abort(&self);
}
