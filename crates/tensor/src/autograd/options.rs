//! Options of a backward pass.

/// Options of a backward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackwardOptions {
    /// Keep the tensors that the graph saved, so that it can be walked again.
    pub retain_graph: bool,
    /// Record the backward pass itself, so that gradients of the gradients can be computed; the graph is kept as well.
    ///
    /// A leaf's [`grad`](crate::Tensor::grad) then has a history that leads back to the leaf, and the two keep each other alive
    /// until [`zero_grad`](crate::Tensor::zero_grad). [`grad_with`](super::grad_with) creates no such cycle.
    pub create_graph: bool,
}

impl BackwardOptions {
    /// With [`retain_graph`](BackwardOptions::retain_graph).
    #[must_use]
    pub const fn retain_graph() -> BackwardOptions {
        BackwardOptions { retain_graph: true, create_graph: false }
    }

    /// With [`create_graph`](BackwardOptions::create_graph).
    #[must_use]
    pub const fn create_graph() -> BackwardOptions {
        BackwardOptions { retain_graph: true, create_graph: true }
    }

    pub(crate) fn retains_graph(self) -> bool {
        self.retain_graph || self.create_graph
    }
}
