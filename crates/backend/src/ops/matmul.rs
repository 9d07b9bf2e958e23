//! Products of matrices, and of batches of them.

use crate::{Result, View, ViewMut};

/// Products of matrices.
pub trait MatmulBackend {
    /// `out = a · b` over the last two dimensions; the leading ones (as many in each, `a` and `b` broadcast
    /// by strides) are a batch. Floats accumulate in at least `f32`; integers wrap.
    fn matmul(&self, a: View, b: View, out: ViewMut) -> Result<()>;
}
