//! Forward and backward through a stack of layers by graph cuts.
//!
//! Libtorch's Rust bindings know no custom autograd function, so activation checkpointing is made of what they have: a
//! graph begins at a leaf ([`cut`]), and a derivative enters it through the product with its output ([`pull_back`]).
//! Kept whole, the stack is one segment whose graph lives until the way back; with `recompute`, each layer is a segment
//! whose graph is built only when its turn comes on the way back, and freed before the next.

use std::ops::Range;

use tch::Tensor;

/// One layer of a stack: its index, its input, and the memory that all layers read, if they do -> its output.
pub(crate) type Layer<'a> = dyn Fn(usize, &Tensor, Option<&Tensor>) -> Tensor + 'a;

/// A stack on the way back: what must be remembered of the way forward.
pub(crate) struct Walk<'a> {
    layer: &'a Layer<'a>,
    segments: Vec<Segment>,
    output: Tensor,
}

/// Layers between two cuts.
struct Segment {
    layers: Range<usize>,
    /// A leaf.
    input: Tensor,
    /// The memory, a leaf for each layer: so its derivatives are summed in one order, however layers are cut.
    memories: Vec<Tensor>,
    /// The end of the segment's graph, where it is kept.
    output: Option<Tensor>,
}

/// The derivative by what went into a stack.
pub(crate) struct Derivative {
    pub input: Tensor,
    pub memory: Option<Tensor>,
}

impl<'a> Walk<'a> {
    /// Takes `input` through `depth` layers, which all read `memory`.
    pub fn forward(
        depth: usize,
        input: &Tensor,
        memory: Option<&Tensor>,
        layer: &'a Layer<'a>,
        recompute: bool,
    ) -> Self {
        let each = if recompute { 1 } else { depth.max(1) };
        let mut output = input.detach();
        let mut segments = Vec::new();
        for first in (0..depth).step_by(each) {
            let layers = first..(first + each).min(depth);
            let memories = memory.map_or_else(Vec::new, |memory| layers.clone().map(|_| cut(memory)).collect());
            let mut segment = Segment { layers, input: cut(&output), memories, output: None };
            if recompute {
                output = tch::no_grad(|| segment.run(layer));
            } else {
                let end = tch::with_grad(|| segment.run(layer));
                output = end.detach();
                segment.output = Some(end);
            }
            segments.push(segment);
        }
        Walk { layer, segments, output }
    }

    /// What came out, cut off from the graph.
    pub fn output(&self) -> &Tensor {
        &self.output
    }

    /// From the derivative by the output to the derivative by input and memory.
    pub fn backward(self, by_output: Tensor) -> Derivative {
        let mut derivative = Derivative { input: by_output, memory: None };
        for segment in self.segments.into_iter().rev() {
            let output = segment.output.as_ref().map(Tensor::shallow_clone);
            let output = output.unwrap_or_else(|| tch::with_grad(|| segment.run(self.layer)));
            let leaves: Vec<&Tensor> = [&segment.input].into_iter().chain(&segment.memories).collect();
            let mut by_leaves = pull_back(&output, &derivative.input, &leaves);
            let by_memories = by_leaves.split_off(1);
            derivative.input = by_leaves.swap_remove(0);
            let sum = by_memories.into_iter().rev().reduce(|sum, more| sum + more);
            derivative.memory = match (derivative.memory, sum) {
                (Some(sum), Some(more)) => Some(sum + more),
                (sum, more) => sum.or(more),
            };
        }
        derivative
    }
}

impl Segment {
    fn run(&self, layer: &Layer) -> Tensor {
        let places = self.layers.clone().enumerate();
        places.fold(self.input.shallow_clone(), |x, (place, index)| layer(index, &x, self.memories.get(place)))
    }
}

/// A leaf of `x`'s value, at which a graph begins.
pub(crate) fn cut(x: &Tensor) -> Tensor {
    x.detach().set_requires_grad(true)
}

/// The derivative by `leaves`, from which `output`'s graph came, given the derivative by `output`; the graph is freed.
pub(crate) fn pull_back(output: &Tensor, by_output: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
    let product = tch::with_grad(|| (output * by_output.detach()).sum(output.kind()));
    Tensor::run_backward(&[product], leaves, false, false)
}
