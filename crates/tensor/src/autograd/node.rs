//! A node of the tape: one recorded operation.

use std::{
    borrow::Cow,
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use kiln_backend::{Error, Result, Shape, call_sites};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    fused_relu::{FusedReluBackward, ReluEpilogue},
    hook::OutputHook,
    options::BackwardOptions,
    rule::{Arrived, Ctx, Grads, Rule},
    saved::SavedTensor,
};
use crate::tensor::Tensor;

/// Where an input came from, and so where its gradient flows to.
#[derive(Clone)]
pub(crate) enum Edge {
    /// A tensor that the user made: its gradient is accumulated in it.
    Leaf(Tensor),
    /// Output number `output` of another operation.
    Node { node: Arc<Node>, output: usize },
}

/// One recorded operation: its rule, the tensors that it saved, and the edges to its inputs.
pub(crate) struct Node {
    name: Cow<'static, str>,
    /// Nodes are numbered in order of creation, so an operation's number is above those of its inputs: visiting nodes
    /// in descending order reaches every node after all of its consumers.
    pub sequence: u64,
    pub edges: SmallVec<[Option<Edge>; 3]>,
    /// The shape of each output.
    pub outputs: SmallVec<[Shape; 1]>,
    saved: Mutex<Saved>,
    rule: Rule,
    pub hooks: Mutex<Vec<OutputHook>>,
    /// How many edges lead to this node.
    pub consumers: AtomicU32,
    /// Set if the operation ends in a ReLU whose gradient the consumer can compute. Freed together with `saved`.
    relu: Mutex<Option<ReluEpilogue>>,
    /// Set if the operation has computed the gradient of its input along with its output, for a gradient of 1. Its rule
    /// then takes [`Arrived::is_unit`] for the gradient.
    pub knows_unit_grad: AtomicBool,
    /// The line that called the operation, in anomaly mode.
    pub site: Option<&'static Location<'static>>,
}

/// What a node saved for its rule.
enum Saved {
    /// The rule reads no tensors: it can run any number of times.
    Nothing,
    /// Shared, so that passes in several threads can run the rule at once, and none of them holds the lock while user
    /// code runs.
    Kept(Arc<[SavedTensor]>),
    /// Freed by a backward pass without `retain_graph`.
    Freed,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Node {
    pub fn new(
        name: Cow<'static, str>,
        edges: SmallVec<[Option<Edge>; 3]>,
        outputs: SmallVec<[Shape; 1]>,
        saved: SmallVec<[SavedTensor; 2]>,
        relu: Option<ReluEpilogue>,
        rule: Rule,
    ) -> Arc<Node> {
        for edge in edges.iter().flatten() {
            if let Edge::Node { node, .. } = edge {
                node.consumers.fetch_add(1, Ordering::Relaxed);
            }
        }
        let sequence = NEXT.fetch_add(1, Ordering::Relaxed);
        let saved = if saved.is_empty() { Saved::Nothing } else { Saved::Kept(saved.into_iter().collect()) };
        let (saved, relu, hooks) = (Mutex::new(saved), Mutex::new(relu), Mutex::default());
        let consumers = AtomicU32::new(0);
        let knows_unit_grad = AtomicBool::new(false);
        let site = call_sites::current_location();
        Arc::new(Node { name, sequence, edges, outputs, saved, rule, hooks, consumers, relu, knows_unit_grad, site })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The saved tensors, if there are any that are not freed.
    pub fn kept(&self) -> Option<Arc<[SavedTensor]>> {
        if let Saved::Kept(saved) = &*self.saved.lock() { Some(saved.clone()) } else { None }
    }

    /// Whether the operation ends in a ReLU whose gradient the next one may compute.
    pub fn ends_in_relu(&self) -> bool {
        self.relu.lock().is_some()
    }

    /// The ReLU of the node that the gradient of the first input goes to, if that node ends in one and nothing else
    /// uses the gradient between the two. `awaited` tells for an edge whether a gradient has already arrived there, or
    /// is requested.
    pub fn fused_relu_below(&self, awaited: impl Fn(&Edge, &Node) -> bool) -> Option<FusedReluBackward> {
        let Some(Some(edge @ Edge::Node { node: below, output: 0 })) = self.edges.first() else { return None };
        let epilogue = below.relu.lock().clone()?;
        let alone = below.consumers.load(Ordering::Relaxed) == 1;
        if !alone || !below.hooks.lock().is_empty() || awaited(edge, below) {
            return None;
        }
        // If the output is freed or was changed, the node's own rule reports it.
        let output = below.kept()?.get(epilogue.output)?.unchanged()?;
        Some(FusedReluBackward::new(epilogue, output))
    }

    /// Whether a pass that begins at this node's only output with a gradient of 1 needs no tensor of that 1: only the rule
    /// would read it, and the operation has already computed the gradient that follows. False if the graph is kept, since
    /// that gradient is handed on rather than copied.
    pub fn takes_unit_grad(&self, options: BackwardOptions, is_target: impl FnOnce() -> bool) -> bool {
        self.knows_unit_grad.load(Ordering::Relaxed)
            && !options.retains_graph()
            && self.hooks.lock().is_empty()
            && !is_target()
    }

    /// Runs the rule. Unless the graph is retained, saved tensors are freed: a second run is then an error, except for
    /// nodes that save nothing.
    pub fn run(
        self: &Arc<Self>,
        arrived: &Arrived,
        needs: &[bool],
        fused_relu: Option<&FusedReluBackward>,
        options: BackwardOptions,
    ) -> Result<Grads> {
        let kept = match &*self.saved.lock() {
            Saved::Nothing => None,
            Saved::Kept(saved) => Some(saved.clone()),
            Saved::Freed => {
                return Err(Error::autograd(
                    self.name(),
                    "backward through this graph a second time: what it saved was freed by the first; call the first \
                     with `retain_graph`, or compute the loss again",
                ));
            }
        };
        let saved = kept.as_deref().unwrap_or_default();
        let BackwardOptions { create_graph, .. } = options;
        let result = (self.rule)(&Ctx { node: self, arrived, saved, needs, create_graph, fused_relu })?;
        if !options.retains_graph() && kept.is_some() {
            *self.saved.lock() = Saved::Freed;
            *self.relu.lock() = None;
        }
        if result.len() != self.edges.len() {
            let (got, want) = (result.len(), self.edges.len());
            return Err(Error::autograd(self.name(), format!("its rule gave {got} gradients for {want} inputs")));
        }
        Ok(result)
    }
}

/// Iterative, since a graph can be a chain of a hundred thousand nodes and the compiler's own drop recurses.
impl Drop for Node {
    fn drop(&mut self) {
        let mut stack: Vec<Arc<Node>> = Vec::new();
        let take = |edges: &mut SmallVec<[Option<Edge>; 3]>, stack: &mut Vec<Arc<Node>>| {
            stack.extend(edges.drain(..).filter_map(|edge| match edge {
                Some(Edge::Node { node, .. }) => {
                    node.consumers.fetch_sub(1, Ordering::Relaxed);
                    Some(node)
                }
                _ => None,
            }));
        };
        take(&mut self.edges, &mut stack);
        while let Some(node) = stack.pop() {
            if let Some(mut last) = Arc::into_inner(node) {
                take(&mut last.edges, &mut stack);
            }
        }
    }
}
