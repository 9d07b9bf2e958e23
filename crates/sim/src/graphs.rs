//! Graphs and executable graphs: nodes with their dependencies.
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use crate::stream_id::StreamId;
use crate::work::Work;

/// What a node does.
#[derive(Clone)]
pub enum NodeWork {
    Queued(Work),
    /// A graph inside the graph.
    Child(Vec<Node>),
}

/// A node of a graph.
#[derive(Clone)]
pub struct Node {
    pub handle: usize,
    pub name: Rc<str>,
    pub work: NodeWork,
    /// Indices of the nodes that it depends on.
    pub needs: Vec<usize>,
}

pub struct Graph {
    pub device: usize,
    pub nodes: Vec<Node>,
}

/// A node of an executable graph.
pub struct Step {
    pub handle: usize,
    pub name: Rc<str>,
    pub work: Work,
    pub needs: Vec<usize>,
    /// Its branch, in which it follows one of the nodes that it depends on.
    pub lane: usize,
    /// The allocations that it uses: start address and size in bytes.
    pub uses: Vec<(u64, usize)>,
}

pub struct Exec {
    pub device: usize,
    pub steps: Vec<Step>,
    /// The streams of all branches but the first, which runs in the stream of the launch.
    pub lanes: Vec<StreamId>,
}

#[derive(Default)]
pub struct Graphs {
    pub graphs: HashMap<usize, Graph>,
    pub execs: HashMap<usize, Exec>,
}

impl Graphs {
    /// Removes the graphs of a device whose context ends.
    pub fn reset(&mut self, device: usize) {
        self.graphs.retain(|_, graph| graph.device != device);
        self.execs.retain(|_, exec| exec.device != device);
    }

    /// The number of graphs that have not been destroyed.
    pub fn held(&self) -> usize {
        self.graphs.len() + self.execs.len()
    }
}

/// Nodes with child graphs inlined: the first nodes of a child depend on what the child depends on, and nodes that
/// depend on the child depend on its last nodes.
pub fn flat(nodes: &[Node]) -> Vec<Node> {
    let mut out: Vec<Node> = Vec::new();
    // For each node, the indices in `out` of its last nodes.
    let mut ends: Vec<Vec<usize>> = Vec::new();
    for node in nodes {
        let mut needs: Vec<usize> = node.needs.iter().flat_map(|need| ends[*need].iter().copied()).collect();
        needs.sort_unstable();
        needs.dedup();
        match &node.work {
            NodeWork::Queued(_) => {
                ends.push(vec![out.len()]);
                out.push(Node { needs, ..node.clone() });
            }
            NodeWork::Child(inner) => {
                let inner = flat(inner);
                let begin = out.len();
                let needed: BTreeSet<usize> = inner.iter().flat_map(|node| node.needs.iter().copied()).collect();
                let last: Vec<usize> =
                    (0..inner.len()).filter(|at| !needed.contains(at)).map(|at| begin + at).collect();
                ends.push(if inner.is_empty() { needs.clone() } else { last });
                for node in inner {
                    let own = node.needs.iter().map(|need| begin + need).collect();
                    out.push(Node { needs: if node.needs.is_empty() { needs.clone() } else { own }, ..node });
                }
            }
        }
    }
    out
}
