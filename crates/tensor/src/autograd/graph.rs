//! Inspecting and printing the autograd graph.

use kiln_derive::located;
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::Arc,
};

use super::node::Edge;
use crate::tensor::Tensor;

/// A recorded operation, or a leaf's `AccumulateGrad`: what PyTorch's `grad_fn` shows.
#[derive(Clone)]
pub struct GradFn(Edge);

impl GradFn {
    /// The name, e.g. `AddBackward0`.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Edge::Leaf(_) => "AccumulateGrad",
            Edge::Node { node, .. } => node.name(),
        }
    }

    /// The operations that made its inputs; `None` for inputs that require no gradients.
    #[must_use]
    pub fn next_functions(&self) -> Vec<Option<GradFn>> {
        match &self.0 {
            Edge::Leaf(_) => Vec::new(),
            Edge::Node { node, .. } => node.edges.iter().map(|edge| edge.clone().map(GradFn)).collect(),
        }
    }

    /// The leaf in which an `AccumulateGrad` stores gradients.
    #[must_use]
    pub fn variable(&self) -> Option<Tensor> {
        match &self.0 {
            Edge::Leaf(tensor) => Some(tensor.clone()),
            Edge::Node { .. } => None,
        }
    }

    /// Identifies the operation: the same for the same operation, however it was reached. The id may be reused once the
    /// operation is gone.
    #[must_use]
    pub fn id(&self) -> usize {
        match &self.0 {
            Edge::Leaf(tensor) => Arc::as_ptr(&tensor.0) as usize,
            Edge::Node { node, .. } => Arc::as_ptr(node) as usize,
        }
    }

    fn label(&self) -> String {
        match &self.0 {
            Edge::Leaf(tensor) => format!("AccumulateGrad {}", tensor.shape()),
            Edge::Node { node, .. } => node.name().into(),
        }
    }
}

impl std::fmt::Debug for GradFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{}>", self.name())
    }
}

#[located(site)]
impl Tensor {
    /// The operation that made this tensor; `None` for a leaf.
    #[must_use]
    pub fn grad_fn(&self) -> Option<GradFn> {
        match self.edge() {
            Some(edge @ Edge::Node { .. }) => Some(GradFn(edge)),
            _ => None,
        }
    }
}

/// The graph of a tensor as an indented tree, newest first. Operations that were already printed are marked `(above)`
/// and not expanded again.
#[must_use]
pub fn graph_text(tensor: &Tensor) -> String {
    let mut out = String::new();
    let mut seen = HashSet::new();
    let mut stack: Vec<(usize, GradFn)> = tensor.edge().map(|edge| (0, GradFn(edge))).into_iter().collect();
    while let Some((depth, at)) = stack.pop() {
        let new = seen.insert(at.id());
        let above = if new { "" } else { " (above)" };
        // Deep chains stay readable (and the text small): the indentation stops growing.
        let _ = writeln!(out, "{:indent$}{}{above}", "", at.label(), indent = 2 * depth.min(40));
        if new {
            stack.extend(at.next_functions().into_iter().rev().flatten().map(|next| (depth + 1, next)));
        }
    }
    out
}

/// The graph of a tensor in Graphviz' DOT language: `dot -Tsvg graph.dot`.
#[must_use]
pub fn graph_dot(tensor: &Tensor) -> String {
    let mut out = String::from("digraph autograd {\n  rankdir=BT;\n  node [shape=box, fontname=monospace];\n");
    let mut ids: HashMap<usize, usize> = HashMap::new();
    let mut stack: Vec<GradFn> = tensor.edge().map(GradFn).into_iter().collect();
    let mut arrows = String::new();
    while let Some(at) = stack.pop() {
        let next_id = ids.len();
        let id = *ids.entry(at.id()).or_insert(next_id);
        if id == next_id {
            let style = if at.variable().is_some() { ", style=filled, fillcolor=lightblue" } else { "" };
            let _ =
                writeln!(out, "  n{id} [label=\"{}\"{style}];", at.label().replace('\\', "\\\\").replace('"', "\\\""));
        }
        for next in at.next_functions().into_iter().flatten() {
            let next_id = ids.len();
            let new = !ids.contains_key(&next.id());
            let to = *ids.entry(next.id()).or_insert(next_id);
            let _ = writeln!(arrows, "  n{to} -> n{id};");
            if new {
                let style = if next.variable().is_some() { ", style=filled, fillcolor=lightblue" } else { "" };
                let label = next.label().replace('\\', "\\\\").replace('"', "\\\"");
                let _ = writeln!(out, "  n{to} [label=\"{label}\"{style}];");
                stack.push(next);
            }
        }
    }
    out + &arrows + "}\n"
}
