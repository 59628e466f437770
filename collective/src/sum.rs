//! What all back ends do with tensors alike: check arguments, copy, pack, add in rank order.

use tch::{Kind, Tensor};

use crate::{CollectiveError, Operation, Result};

/// A copy that shares neither memory nor graph with `tensor`.
pub(crate) fn copy(tensor: &Tensor) -> Tensor {
    tensor.detach().copy()
}

/// Wraps libtorch's refusal.
pub(crate) fn torch(operation: Operation) -> impl Fn(tch::TchError) -> CollectiveError {
    move |source| CollectiveError::Torch { operation, source }
}

fn usage(operation: Operation, detail: String) -> CollectiveError {
    CollectiveError::Usage { operation, detail }
}

/// Refuses a tensor without a dimension to be ragged in.
pub(crate) fn check_ragged(operation: Operation, tensor: &Tensor) -> Result<()> {
    match tensor.dim() {
        0 => Err(usage(operation, "a scalar has no dimension 0; pass shape [1]".into())),
        _ => Ok(()),
    }
}

/// Refuses a kind that has no sum.
pub(crate) fn check_summable(operation: Operation, tensor: &Tensor) -> Result<()> {
    match tensor.kind() {
        Kind::Bool => Err(usage(operation, "Bool tensors have no sum; convert to Int64 first".into())),
        _ => Ok(()),
    }
}

/// Refuses anything but one part per rank.
pub(crate) fn check_parts(operation: Operation, parts: &[Tensor], size: usize) -> Result<()> {
    if parts.len() != size {
        let found = parts.len();
        return Err(usage(operation, format!("one part per rank is needed: {size}, not {found}")));
    }
    Ok(())
}

/// Refuses parts for [`all_to_all`](crate::Collective::all_to_all) that don't fit each other.
pub(crate) fn check_exchange_parts(operation: Operation, parts: &[Tensor], size: usize) -> Result<()> {
    check_parts(operation, parts, size)?;
    for part in parts {
        check_ragged(operation, part)?;
        if part.kind() != parts[0].kind() || part.size()[1..] != parts[0].size()[1..] {
            return Err(usage(
                operation,
                format!("the parts must agree but for dimension 0: {} and {}", describe(&parts[0]), describe(part)),
            ));
        }
    }
    Ok(())
}

/// Refuses a root outside the world.
pub(crate) fn check_root(root: usize, size: usize) -> Result<()> {
    match root < size {
        true => Ok(()),
        false => Err(usage(Operation::Broadcast, format!("root {root} is not in a world of {size}"))),
    }
}

/// Kind and shape, for messages.
pub(crate) fn describe(tensor: &Tensor) -> String {
    format!("{:?} {:?}", tensor.kind(), tensor.size())
}

/// A fingerprint of kinds and shapes, which ranks compare before they add (FNV-1a).
pub(crate) fn signature<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut feed = |value: u64| {
        for byte in value.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for tensor in tensors {
        feed(tensor.kind() as u64);
        feed(tensor.dim() as u64);
        tensor.size().iter().for_each(|&length| feed(length as u64));
    }
    hash
}

/// The indices of `tensors`, grouped by kind in order of first appearance: each group is packed and sent at once.
pub(crate) fn by_kind(tensors: &[Tensor]) -> Vec<(Kind, Vec<usize>)> {
    let mut groups: Vec<(Kind, Vec<usize>)> = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        match groups.iter_mut().find(|(kind, _)| *kind == tensor.kind()) {
            Some((_, members)) => members.push(index),
            None => groups.push((tensor.kind(), vec![index])),
        }
    }
    groups
}

/// The tensors of one group, one after the other: `[sum of their sizes]`.
pub(crate) fn pack(tensors: &[Tensor], members: &[usize]) -> Result<Tensor> {
    let flat: Vec<Tensor> = members.iter().map(|&index| tensors[index].detach().reshape([-1])).collect();
    Tensor::f_cat(&flat, 0).map_err(torch(Operation::AllReduce))
}

/// Takes [`pack`]'s result apart again, into the shapes of `like`.
pub(crate) fn unpack(flat: &Tensor, like: &[Tensor], members: &[usize], out: &mut [Option<Tensor>]) {
    let mut start = 0;
    for &index in members {
        let length = like[index].numel() as i64;
        out[index] = Some(flat.narrow(0, start, length).reshape(like[index].size()).copy());
        start += length;
    }
}

/// `parts[0] + parts[1] + …`, left to right; half kinds are added in 32 bits and rounded once.
pub(crate) fn in_rank_order(parts: &[Tensor]) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let kind = parts[0].kind();
    let wide = if matches!(kind, Kind::Half | Kind::BFloat16) { Kind::Float } else { kind };
    let mut total = parts[0].detach().to_kind(wide).copy();
    for part in &parts[1..] {
        let _ = total.g_add_(&part.detach().to_kind(wide));
    }
    total.to_kind(kind)
}
