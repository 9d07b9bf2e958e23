//! Softmax and its logarithm.

use crate::{Result, View, ViewMut};

/// Softmax and log-softmax.
pub trait SoftmaxBackend {
    /// Softmax along `dim`, or its logarithm.
    fn softmax(&self, x: View, dim: usize, log: bool, out: ViewMut) -> Result<()>;
    /// The gradient of [`softmax`](SoftmaxBackend::softmax) from its output `y`.
    fn softmax_grad(&self, grad: View, y: View, dim: usize, log: bool, out: ViewMut) -> Result<()>;
}
