//! Post-accumulate hooks, which run when a leaf's gradient is complete: PyTorch's `register_post_accumulate_grad_hook`.
//!
//! A leaf used by several operations receives a gradient from each. Before a pass begins, it counts the edges to leaves
//! with such hooks, so that a hook runs as soon as the last gradient is added, while the pass continues.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use kiln_backend::Result;

use super::node::Edge;
use crate::tensor::Tensor;

type PostHookFn = Arc<dyn Fn(&Tensor, &BackwardPass) -> Result<()> + Send + Sync>;

/// A hook that the user registered.
#[derive(Clone)]
pub(crate) struct PostHook {
    pub id: u64,
    pub run: PostHookFn,
}

/// Whether a hook was ever registered: without hooks, programs do not pay for the counting.
static IN_USE: AtomicBool = AtomicBool::new(false);
static NEXT_PASS: AtomicU64 = AtomicU64::new(0);

/// The backward pass that calls a hook of [`Tensor::register_post_accumulate_grad_hook`].
pub struct BackwardPass {
    id: u64,
    /// The leaves with hooks that the pass can reach, and how many more gradients each expects.
    leaves: RefCell<HashMap<usize, Expected>>,
    at_end: RefCell<Vec<AtEnd>>,
}

type AtEnd = Box<dyn FnOnce() -> Result<()>>;

struct Expected {
    leaf: Tensor,
    left: usize,
    /// The leaf's index in the order in which leaves were found.
    number: usize,
    /// Whether a gradient has arrived.
    begun: bool,
}

impl BackwardPass {
    /// A number that is unique among the passes of the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the pass can bring a gradient to this leaf: whether the graph leads to it and it has such a hook.
    #[must_use]
    pub fn reaches(&self, leaf: &Tensor) -> bool {
        self.leaves.borrow().contains_key(&leaf.id())
    }

    /// Calls `f` when all gradients of this pass are accumulated, before `backward` returns; not if the pass fails.
    /// `backward` returns an error of `f`.
    pub fn at_end(&self, f: impl FnOnce() -> Result<()> + 'static) {
        self.at_end.borrow_mut().push(Box::new(f));
    }

    /// Counts the gradients that leaves with hooks will receive; `None` if no leaf has hooks.
    pub(super) fn begin<'a>(roots: impl Iterator<Item = &'a Edge>) -> Option<BackwardPass> {
        if !IN_USE.load(Ordering::Relaxed) {
            return None;
        }
        let (mut leaves, mut seen, mut stack) = (HashMap::new(), HashSet::new(), Vec::new());
        let mut follow = |edge: &Edge, stack: &mut Vec<_>| match edge {
            Edge::Leaf(leaf) => {
                if !leaf.0.meta.lock().post_accumulate.is_empty() {
                    let number = leaves.len();
                    let new = || Expected { leaf: leaf.clone(), left: 0, number, begun: false };
                    leaves.entry(leaf.id()).or_insert_with(new).left += 1;
                }
            }
            Edge::Node { node, .. } => stack.push(node.clone()),
        };
        roots.for_each(|edge| follow(edge, &mut stack));
        while let Some(node) = stack.pop() {
            if seen.insert(node.sequence) {
                node.edges.iter().flatten().for_each(|edge| follow(edge, &mut stack));
            }
        }
        if leaves.is_empty() {
            return None;
        }
        let id = NEXT_PASS.fetch_add(1, Ordering::Relaxed);
        Some(BackwardPass { id, leaves: RefCell::new(leaves), at_end: RefCell::default() })
    }

    /// Must be called when a gradient was added to a leaf; calls the leaf's hooks if it was the last one.
    pub(super) fn accumulated(&self, leaf: &Tensor) -> Result<()> {
        {
            let mut leaves = self.leaves.borrow_mut();
            let Some(expected) = leaves.get_mut(&leaf.id()) else { return Ok(()) };
            expected.begun = true;
            expected.left = expected.left.saturating_sub(1);
            if expected.left > 0 {
                return Ok(());
            }
        }
        self.call_hooks(leaf)
    }

    /// Must be called when all gradients of a leaf have been added at once.
    pub(super) fn accumulated_whole(&self, leaf: &Tensor) -> Result<()> {
        if let Some(expected) = self.leaves.borrow_mut().get_mut(&leaf.id()) {
            (expected.begun, expected.left) = (true, 0);
        }
        self.call_hooks(leaf)
    }

    /// Ends the pass. Rules may return fewer gradients than there are edges: the hooks of leaves that miss some run
    /// now.
    pub(super) fn finish(self) -> Result<()> {
        let mut rest: Vec<_> = {
            let mut leaves = self.leaves.borrow_mut();
            let begun = leaves.values_mut().filter(|expected| expected.begun && expected.left > 0);
            begun.map(|expected| (expected.number, expected.leaf.clone())).collect()
        };
        rest.sort_unstable_by_key(|(number, _)| *number);
        rest.iter().try_for_each(|(_, leaf)| self.call_hooks(leaf))?;
        self.at_end.into_inner().into_iter().try_for_each(|f| f())
    }

    fn call_hooks(&self, leaf: &Tensor) -> Result<()> {
        let hooks = leaf.0.meta.lock().post_accumulate.clone();
        hooks.iter().try_for_each(|hook| (hook.run)(leaf, self))
    }
}

/// Registers a hook of a leaf.
pub(super) fn register(leaf: &Tensor, hook: PostHook) {
    leaf.0.meta.lock().post_accumulate.push(hook);
    IN_USE.store(true, Ordering::Relaxed);
}
