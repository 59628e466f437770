//! What can go wrong in a world, and in which operation.

use std::fmt;
use std::time::Duration;

/// The operations, as errors and frames name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Finding the peers and shaking hands.
    Connect = 0,
    /// [`all_gather`](crate::Collective::all_gather).
    AllGather = 1,
    /// [`all_reduce_sum`](crate::Collective::all_reduce_sum).
    AllReduce = 2,
    /// [`reduce_scatter_sum`](crate::Collective::reduce_scatter_sum).
    ReduceScatter = 3,
    /// [`broadcast`](crate::Collective::broadcast).
    Broadcast = 4,
    /// [`all_to_all`](crate::Collective::all_to_all).
    AllToAll = 5,
    /// [`barrier`](crate::Collective::barrier).
    Barrier = 6,
}

impl Operation {
    /// The operation of a frame's code.
    pub(crate) fn from_code(code: u8) -> Option<Operation> {
        use Operation::*;
        [Connect, AllGather, AllReduce, ReduceScatter, Broadcast, AllToAll, Barrier]
            .into_iter()
            .find(|operation| *operation as u8 == code)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Connect => "connect",
            Operation::AllGather => "all_gather",
            Operation::AllReduce => "all_reduce_sum",
            Operation::ReduceScatter => "reduce_scatter_sum",
            Operation::Broadcast => "broadcast",
            Operation::AllToAll => "all_to_all",
            Operation::Barrier => "barrier",
        })
    }
}

/// Why an operation failed. All but [`Usage`](CollectiveError::Usage) end the world for this rank.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A peer's connection broke: it died, or left the world.
    #[error("{operation}: lost rank {rank}: {detail}")]
    PeerLost {
        /// The lost peer.
        rank: usize,
        /// What was going on.
        operation: Operation,
        /// What the connection said.
        detail: String,
    },
    /// The deadline passed before these peers had done their part.
    #[error("{operation}: rank(s) {} did not do their part within {waited:?}", list(.ranks))]
    Deadline {
        /// The peers that were still waited for.
        ranks: Vec<usize>,
        /// What was going on.
        operation: Operation,
        /// The deadline.
        waited: Duration,
    },
    /// The world formed with another generation than this rank's: this rank must not take part.
    #[error(
        "rank {rank} is in generation {theirs} of the world, this rank in {ours}: \
         ask the coordinator for the current generation and join that"
    )]
    StaleToken {
        /// The peer that knows better.
        rank: usize,
        /// This rank's generation.
        ours: u64,
        /// The peer's generation.
        theirs: u64,
    },
    /// A peer is in another operation, or passes tensors that don't fit.
    #[error("{operation}: rank {rank} does not fit: expected {expected}, found {found}")]
    Mismatch {
        /// The peer.
        rank: usize,
        /// What this rank is doing.
        operation: Operation,
        /// What would fit.
        expected: String,
        /// What came.
        found: String,
    },
    /// The world was aborted, or an earlier operation in it failed.
    #[error("{operation}: the world was aborted on this rank")]
    Aborted {
        /// What was asked for or going on.
        operation: Operation,
    },
    /// The caller's mistake; nothing was sent.
    #[error("{operation}: {detail}")]
    Usage {
        /// What was asked for.
        operation: Operation,
        /// What is wrong with it.
        detail: String,
    },
    /// The operating system refused something local.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// libtorch refused something, such as an allocation.
    #[error("{operation}: {source}")]
    Torch {
        /// What was going on.
        operation: Operation,
        /// What libtorch said.
        source: tch::TchError,
    },
    /// NCCL or the CUDA driver reported an error.
    #[error("{operation}: {call}: {detail}")]
    Nccl {
        /// What was going on.
        operation: Operation,
        /// The failing call.
        call: &'static str,
        /// Its result.
        detail: String,
    },
    /// NCCL or the CUDA driver can't be loaded.
    #[error("NCCL can't be used here: {detail}")]
    NcclMissing {
        /// What is missing and where it was looked for.
        detail: String,
    },
}

fn list(ranks: &[usize]) -> String {
    ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
