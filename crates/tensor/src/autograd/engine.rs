//! The backward pass: walks the tape from the newest node to the oldest, and runs the gradient rules.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use kiln_backend::{Error, Result};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{
    accumulation::{accumulate, add_to},
    anomaly::{ResultsUnseen, check_gradient},
    fused_relu::{FusedReluBackward, ReluBackwardDone},
    mode::GradModeGuard,
    node::{Edge, Node},
    options::BackwardOptions,
    post_accumulate::BackwardPass,
    rule::Arrived,
    run_hooks::{run_hooks, run_output_hooks},
};
use crate::{autocast::autocast_off_guard, tensor::Tensor};

#[located(site)]
impl Tensor {
    /// Computes the gradients of this one-element tensor with respect to all leaves that it was made from, adds them to
    /// their [`grad`](Tensor::grad), and frees the tensors that the graph saved.
    ///
    /// # Errors
    /// If the tensor has more than one element (see [`backward_with`](Tensor::backward_with)) or requires no gradients,
    /// the graph was walked before, or a saved tensor was changed in place.
    pub fn backward(&self) -> Result<()> {
        backward(&[(self.clone(), None)], BackwardOptions::default())
    }

    /// [`backward`](Tensor::backward) that can be repeated on the same graph.
    ///
    /// # Errors
    /// Those of [`backward`](Tensor::backward).
    pub fn backward_retain_graph(&self) -> Result<()> {
        backward(&[(self.clone(), None)], BackwardOptions::retain_graph())
    }

    /// The vector-Jacobian product: starts with the gradient `cotangent`, of this tensor's shape, as PyTorch's
    /// `backward(gradient, retain_graph)`.
    ///
    /// # Errors
    /// Those of [`backward`](Tensor::backward); or if the cotangent has another shape, dtype or device.
    pub fn backward_with(&self, cotangent: &Tensor, options: BackwardOptions) -> Result<()> {
        backward(&[(self.clone(), Some(cotangent.clone()))], options)
    }
}

/// A backward pass from several tensors at once, each with a gradient to start with (`None`: 1, for a tensor with one
/// element).
///
/// # Errors
/// Those of [`Tensor::backward`].
#[located(site)]
pub fn backward(roots: &[(Tensor, Option<Tensor>)], options: BackwardOptions) -> Result<()> {
    Pass::new("backward", roots, options, None)?.run(None).map(drop)
}

/// The sum of the gradients of `outputs` (one element each) with respect to each of `inputs`, without
/// touching any tensor's [`grad`](Tensor::grad); PyTorch's `torch.autograd.grad`.
///
/// # Errors
/// Those of [`Tensor::backward`]; or if an input requires no gradient or is not part of the graph.
#[located(site)]
pub fn grad(outputs: &[&Tensor], inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let roots: Vec<_> = outputs.iter().map(|&t| (t.clone(), None)).collect();
    let found = grad_with(&roots, inputs, BackwardOptions::default())?;
    let unused = || Error::autograd("grad", "an input is not part of the graph; `grad_with` gives `None` for it");
    found.into_iter().map(|grad| grad.ok_or_else(unused)).collect()
}

/// [`grad`] with cotangents and options; `None` for inputs that the outputs do not depend on.
///
/// # Errors
/// Those of [`grad`].
#[located(site)]
pub fn grad_with(
    roots: &[(Tensor, Option<Tensor>)],
    inputs: &[&Tensor],
    options: BackwardOptions,
) -> Result<Vec<Option<Tensor>>> {
    let targets: Vec<Target> = inputs
        .iter()
        .map(|t| {
            t.edge().map(|e| Target::of(&e)).ok_or_else(|| Error::autograd("grad", "an input requires no gradients"))
        })
        .collect::<Result<_>>()?;
    Pass::new("grad", roots, options, Some(&targets))?.run(Some(&targets))
}

/// What an edge points to, for comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Leaf(usize),
    Output(usize, usize),
}

impl Target {
    fn of(edge: &Edge) -> Target {
        match edge {
            Edge::Leaf(tensor) => Target::Leaf(Arc::as_ptr(&tensor.0) as usize),
            Edge::Node { node, output } => Target::Output(Arc::as_ptr(node) as usize, *output),
        }
    }
}

/// A node that is ready to run; ordered newest first.
struct Ready(Arc<Node>);

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.sequence.cmp(&other.0.sequence)
    }
}
impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        self.0.sequence == other.0.sequence
    }
}
impl Eq for Ready {}

/// One walk over the graph.
struct Pass {
    queue: BinaryHeap<Ready>,
    /// The gradients that have arrived for nodes in the queue, by the node's number.
    pending: HashMap<u64, Arrived>,
    /// Sums for leaves whose gradient is needed whole at the end: targets, and those with hooks.
    leaves: Vec<(Tensor, Tensor)>,
    /// Where it begins, and with which gradient: `None` for 1, where no tensor of it is needed.
    roots: Vec<(Edge, Option<Tensor>)>,
    /// Set if leaves have hooks that wait for whole gradients.
    hooked: Option<BackwardPass>,
    options: BackwardOptions,
}

impl Pass {
    fn new(
        op: &'static str,
        roots: &[(Tensor, Option<Tensor>)],
        options: BackwardOptions,
        targets: Option<&[Target]>,
    ) -> Result<Pass> {
        let is_target = |edge: &Edge| targets.is_some_and(|targets| targets.contains(&Target::of(edge)));
        let takes_unit_grad = |edge: &Edge| match edge {
            // Another root could lead to this one.
            Edge::Node { node, .. } => roots.len() == 1 && node.takes_unit_grad(options, || is_target(edge)),
            Edge::Leaf(_) => false,
        };
        let start = |(root, cotangent): &(Tensor, Option<Tensor>)| {
            let Some(edge) = root.edge() else {
                return Err(Error::autograd(
                    op,
                    "the tensor requires no gradients, nor does anything it was made from (gradients themselves require \
                     none, unless the pass that computed them had `create_graph`)",
                ));
            };
            let grad = match cotangent {
                None if root.numel() == 1 && takes_unit_grad(&edge) => return Ok((edge, None)),
                None if root.numel() == 1 => root.ones_like()?,
                None => {
                    let expected = "a tensor with one element, or a cotangent (`backward_with`)";
                    return Err(Error::shape(op, expected, root.shape()));
                }
                Some(grad) if grad.shape() != root.shape() => {
                    let expected = "the cotangent must have the shape of the tensor";
                    return Err(Error::shapes(op, root.shape(), grad.shape(), expected));
                }
                Some(grad) if grad.dtype() != root.dtype() => {
                    return Err(Error::dtypes(op, root.dtype(), grad.dtype()));
                }
                Some(grad) if grad.device() != root.device() => {
                    return Err(Error::devices(op, root.device(), grad.device()));
                }
                Some(grad) if options.create_graph => grad.clone(),
                Some(grad) => grad.detach(),
            };
            Ok((edge, Some(grad)))
        };
        let _guard = GradModeGuard::new(options.create_graph);
        let roots = roots.iter().map(start).collect::<Result<_>>()?;
        let (pending, leaves) = (HashMap::new(), Vec::new());
        Ok(Pass { queue: BinaryHeap::new(), pending, leaves, roots, hooked: None, options })
    }

    /// With `targets`, gradients are collected for them and nothing is added to leaves.
    fn run(mut self, targets: Option<&[Target]>) -> Result<Vec<Option<Tensor>>> {
        let options = self.options;
        let _guard = GradModeGuard::new(options.create_graph);
        // Rules compute in the dtypes that the forward pass had.
        let _off = autocast_off_guard();
        let _unseen = ResultsUnseen::new();
        let useful = targets.map(|targets| nodes_leading_to(targets, &self.roots));
        let mut found = vec![None; targets.map_or(0, <[Target]>::len)];
        if targets.is_none() {
            self.hooked = BackwardPass::begin(self.roots.iter().map(|(edge, _)| edge));
        }
        for (edge, grad) in std::mem::take(&mut self.roots) {
            match (grad, edge) {
                (Some(grad), edge) => self.deliver(&edge, grad, None, targets)?,
                (None, Edge::Node { node, .. }) => {
                    let arrived =
                        Arrived { grads: smallvec![None; node.outputs.len()], relu_done: None, is_unit: true };
                    self.pending.insert(node.sequence, arrived);
                    self.queue.push(Ready(node));
                }
                (None, Edge::Leaf(_)) => {}
            }
        }
        while let Some(Ready(node)) = self.queue.pop() {
            let Some(mut arrived) = self.pending.remove(&node.sequence) else { continue };
            // A gradient that has already gone through ReLU is not that of an output, and nobody has asked for it.
            let outputs = if arrived.relu_done.is_some() { &mut [] } else { &mut arrived.grads[..] };
            for (output, slot) in outputs.iter_mut().enumerate() {
                if let Some(grad) = slot.take() {
                    let grad = run_output_hooks(&node.hooks, output, grad)?;
                    let this = Target::Output(Arc::as_ptr(&node) as usize, output);
                    for (target, found) in targets.unwrap_or_default().iter().zip(&mut found) {
                        if *target == this {
                            *found = Some(grad.clone());
                        }
                    }
                    *slot = Some(grad);
                }
            }
            let is_useful = |edge: &Edge| match (&useful, edge) {
                (None, _) => true,
                (Some(_), Edge::Leaf(_)) => targets.unwrap_or_default().contains(&Target::of(edge)),
                (Some(useful), Edge::Node { node, .. }) => useful.contains(&node.sequence),
            };
            let needs: SmallVec<[bool; 3]> = node.edges.iter().map(|e| e.as_ref().is_some_and(is_useful)).collect();
            if !needs.contains(&true) {
                continue;
            }
            let asked = |edge: &Edge| targets.unwrap_or_default().contains(&Target::of(edge));
            // The fused kernels are not recorded on the tape.
            let fused_relu = if options.create_graph {
                None
            } else {
                node.fused_relu_below(|edge, below| self.pending.contains_key(&below.sequence) || asked(edge))
            };
            let results = node.run(&arrived, &needs, fused_relu.as_ref(), options)?;
            for (i, grad) in results.iter().enumerate().filter(|(i, _)| needs[*i]) {
                if let Some(grad) = grad {
                    check_gradient(node.name(), node.site, &arrived.grads, i, grad)?;
                }
            }
            drop(arrived);
            let mut done = fused_relu.and_then(FusedReluBackward::into_done);
            for (i, grad) in results.into_iter().enumerate() {
                // It belongs to the first input.
                let done = done.take();
                if let (true, Some(grad), Some(edge)) = (needs[i], grad, &node.edges[i]) {
                    check_kind(&node, i, edge, &grad)?;
                    self.deliver(edge, grad, done, targets)?;
                }
            }
        }
        for (leaf, sum) in self.leaves {
            let hooks = leaf.0.meta.lock().hooks.clone();
            let grad = run_hooks(&hooks, sum)?;
            match targets {
                None => {
                    accumulate(&leaf, grad)?;
                    self.hooked.iter().try_for_each(|pass| pass.accumulated_whole(&leaf))?;
                }
                Some(targets) => {
                    let this = Target::Leaf(Arc::as_ptr(&leaf.0) as usize);
                    for (_, found) in targets.iter().zip(&mut found).filter(|(target, _)| **target == this) {
                        *found = Some(grad.clone());
                    }
                }
            }
        }
        if let Some(pass) = self.hooked {
            pass.finish()?;
        }
        Ok(found)
    }

    /// Delivers a gradient to the end of an edge; it may already have gone through that node's ReLU.
    fn deliver(
        &mut self,
        edge: &Edge,
        grad: Tensor,
        relu_done: Option<ReluBackwardDone>,
        targets: Option<&[Target]>,
    ) -> Result<()> {
        // A view keeps its base alive. Gradients need none, and without it they may turn out to own their memory.
        let has_history = self.options.create_graph && grad.requires_grad();
        let grad = if grad.0.view_of.is_some() && !has_history { grad.detach() } else { grad };
        match edge {
            Edge::Leaf(leaf) => {
                let wanted = match targets {
                    Some(targets) if !targets.contains(&Target::of(edge)) => return Ok(()),
                    Some(_) => true,
                    None => !leaf.0.meta.lock().hooks.is_empty(),
                };
                if !wanted {
                    accumulate(leaf, grad)?;
                    return self.hooked.iter().try_for_each(|pass| pass.accumulated(leaf));
                }
                // Hooks and callers see gradients in the dtype of the leaf.
                let grad = grad.to_dtype(leaf.dtype())?;
                match self.leaves.iter_mut().find(|(seen, _)| seen.is_same(leaf)) {
                    Some((_, sum)) => add_to(sum, &grad)?,
                    None => self.leaves.push((leaf.clone(), grad)),
                }
                Ok(())
            }
            Edge::Node { node, output } => {
                let arrived = self.pending.entry(node.sequence).or_insert_with(|| {
                    self.queue.push(Ready(node.clone()));
                    Arrived { grads: smallvec![None; node.outputs.len()], relu_done, is_unit: false }
                });
                match &mut arrived.grads[*output] {
                    Some(sum) => add_to(sum, &grad)?,
                    empty => *empty = Some(grad),
                }
                Ok(())
            }
        }
    }
}

/// Checks that a rule's gradient has the dtype, device and shape of its input; a leaf in `f32` takes it in half precision, too.
fn check_kind(node: &Node, input: usize, edge: &Edge, grad: &Tensor) -> Result<()> {
    if let Edge::Leaf(tensor) = edge
        && (grad.device() != tensor.device()
            || (grad.dtype() != tensor.dtype() && !tensor.defers_conversion_of(grad.dtype())))
    {
        let (got, want) = ((grad.dtype(), grad.device()), (tensor.dtype(), tensor.device()));
        let message =
            format!("the gradient for input {input} is {} on {}, the input is {} on {}", got.0, got.1, want.0, want.1);
        return Err(Error::autograd(node.name(), message));
    }
    let want = match edge {
        Edge::Leaf(tensor) => tensor.shape(),
        Edge::Node { node, output } => &node.outputs[*output],
    };
    if grad.shape() == want {
        return Ok(());
    }
    let got = grad.shape();
    Err(Error::autograd(node.name(), format!("the gradient for input {input} has shape {got}, the input has {want}")))
}

/// The numbers of the nodes from which a path leads to one of the targets.
fn nodes_leading_to(targets: &[Target], roots: &[(Edge, Option<Tensor>)]) -> HashSet<u64> {
    let mut reachable: HashMap<u64, Arc<Node>> = HashMap::new();
    let mut stack: Vec<Arc<Node>> = Vec::new();
    let visit = |edge: &Edge, stack: &mut Vec<Arc<Node>>| {
        if let Edge::Node { node, .. } = edge {
            stack.push(node.clone());
        }
    };
    roots.iter().for_each(|(edge, _)| visit(edge, &mut stack));
    while let Some(node) = stack.pop() {
        if reachable.insert(node.sequence, node.clone()).is_none() {
            node.edges.iter().flatten().for_each(|edge| visit(edge, &mut stack));
        }
    }
    let mut oldest_first: Vec<_> = reachable.into_values().collect();
    oldest_first.sort_unstable_by_key(|node| node.sequence);
    let mut useful = HashSet::new();
    for node in oldest_first {
        let is_target =
            (0..node.outputs.len()).any(|o| targets.contains(&Target::Output(Arc::as_ptr(&node) as usize, o)));
        let leads = node.edges.iter().flatten().any(|edge| match edge {
            Edge::Leaf(_) => targets.contains(&Target::of(edge)),
            Edge::Node { node, .. } => useful.contains(&node.sequence),
        });
        if is_target || leads {
            useful.insert(node.sequence);
        }
    }
    useful
}
