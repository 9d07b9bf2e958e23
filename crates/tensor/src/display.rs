//! Printing tensors as PyTorch does.

use std::fmt;

use crate::Tensor;

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {} {})", self.shape(), self.dtype(), self.device())
    }
}
