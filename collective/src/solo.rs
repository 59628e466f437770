//! The world of one rank.

use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;

use crate::{Collective, CollectiveError, Operation, Result, sum};

/// A world of one rank, on any device: every operation is a copy.
#[derive(Debug, Default)]
pub struct Solo {
    aborted: AtomicBool,
}

impl Solo {
    /// The world of one.
    pub fn new() -> Solo {
        Solo::default()
    }

    fn check(&self, operation: Operation) -> Result<()> {
        match self.aborted.load(Ordering::Acquire) {
            true => Err(CollectiveError::Aborted { operation }),
            false => Ok(()),
        }
    }

    /// The single part of an operation that takes one per rank.
    fn only<'a>(&self, operation: Operation, parts: &'a [Tensor]) -> Result<&'a Tensor> {
        sum::check_parts(operation, parts, 1)?;
        Ok(&parts[0])
    }
}

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, local: &Tensor) -> Result<Vec<Tensor>> {
        self.check(Operation::AllGather)?;
        sum::check_ragged(Operation::AllGather, local)?;
        Ok(vec![sum::copy(local)])
    }

    fn all_reduce_sum(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        self.check(Operation::AllReduce)?;
        tensors.iter().try_for_each(|tensor| sum::check_summable(Operation::AllReduce, tensor))?;
        Ok(tensors.iter().map(sum::copy).collect())
    }

    fn reduce_scatter_sum(&self, parts: &[Tensor]) -> Result<Tensor> {
        self.check(Operation::ReduceScatter)?;
        let part = self.only(Operation::ReduceScatter, parts)?;
        sum::check_summable(Operation::ReduceScatter, part)?;
        Ok(sum::copy(part))
    }

    fn broadcast(&self, tensors: &[Tensor], root: usize) -> Result<Vec<Tensor>> {
        self.check(Operation::Broadcast)?;
        sum::check_root(root, 1)?;
        Ok(tensors.iter().map(sum::copy).collect())
    }

    fn all_to_all(&self, parts: &[Tensor]) -> Result<Vec<Tensor>> {
        self.check(Operation::AllToAll)?;
        let part = self.only(Operation::AllToAll, parts)?;
        sum::check_ragged(Operation::AllToAll, part)?;
        Ok(vec![sum::copy(part)])
    }

    fn barrier(&self) -> Result<()> {
        self.check(Operation::Barrier)
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
    }
}
