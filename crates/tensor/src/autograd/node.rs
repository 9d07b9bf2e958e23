//! One recorded operation.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kiln_backend::{Error, Result, Shape};
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use super::{
    hooks::OutputHook,
    saved::{Ctx, Rule, SavedTensor},
};
use crate::Tensor;

/// Gradients of a node's inputs, in their order; `None` where there is none.
pub(crate) type Grads = SmallVec<[Option<Tensor>; 3]>;

/// The gradient of an operation's only input.
pub(crate) fn one(grad: Tensor) -> Grads {
    smallvec![Some(grad)]
}

/// Where an input came from: what its gradient flows to.
#[derive(Clone)]
pub(crate) enum Edge {
    /// A tensor that the user made: its gradient is kept in it.
    Leaf(Tensor),
    /// Output number `output` of another operation.
    Node { node: Arc<Node>, output: usize },
}

/// One recorded operation: a rule, what it saved, and the edges to where its inputs came from.
pub(crate) struct Node {
    name: Cow<'static, str>,
    /// Nodes are numbered as they are made, so an operation's number is above those of its inputs: walking
    /// in falling order visits every node after all of its consumers.
    pub sequence: u64,
    pub edges: SmallVec<[Option<Edge>; 3]>,
    /// The shape of each output.
    pub outputs: SmallVec<[Shape; 1]>,
    saved: Mutex<Saved>,
    rule: Rule,
    pub hooks: Mutex<Vec<OutputHook>>,
}

/// What a node keeps for its rule.
enum Saved {
    /// The rule reads no tensors: it can run any number of times.
    Nothing,
    /// Shared, so that passes in several threads can run the rule at once, and none of them holds the lock
    /// while user code runs.
    Kept(Arc<[SavedTensor]>),
    /// Given up by a backward pass that was not told to retain it.
    Freed,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Node {
    pub fn new(
        name: Cow<'static, str>,
        edges: SmallVec<[Option<Edge>; 3]>,
        outputs: SmallVec<[Shape; 1]>,
        saved: SmallVec<[SavedTensor; 2]>,
        rule: Rule,
    ) -> Arc<Node> {
        let sequence = NEXT.fetch_add(1, Ordering::Relaxed);
        let saved = if saved.is_empty() { Saved::Nothing } else { Saved::Kept(saved.into_iter().collect()) };
        Arc::new(Node { name, sequence, edges, outputs, saved: Mutex::new(saved), rule, hooks: Mutex::default() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the rule. Unless the graph is `retain`ed, what was saved is freed: a second run is then an
    /// error, except for nodes that save nothing.
    pub fn run(&self, grads: &[Option<Tensor>], needs: &[bool], retain: bool) -> Result<Grads> {
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
        let result = (self.rule)(&Ctx { node: self, grads, saved: kept.as_deref().unwrap_or_default(), needs })?;
        if !retain && kept.is_some() {
            *self.saved.lock() = Saved::Freed;
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
                Some(Edge::Node { node, .. }) => Some(node),
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
