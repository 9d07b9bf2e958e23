//! Dropout.

use kiln_tensor::{Error, Result, Tensor};

use crate::{Module, Training};

/// While training, sets elements to 0 with probability `p` and divides the others by `1 - p`
/// (Srivastava et al., 2014); in evaluation mode its input.
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Dropout {
    p: f64,
    inplace: bool,
    training: Training,
}

impl Dropout {
    /// The layer; PyTorch's default is `p = 0.5`.
    ///
    /// # Errors
    /// `p` is outside `[0, 1]`.
    pub fn new(p: f64) -> Result<Dropout> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::argument("Dropout", format!("the probability {p} is outside [0, 1]")));
        }
        Ok(Dropout { p, inplace: false, training: Training::default() })
    }

    /// Prints `inplace=True`. It computes the same: the input is not overwritten.
    #[must_use]
    pub fn inplace(self) -> Dropout {
        Dropout { inplace: true, ..self }
    }

    fn describe(&self) -> String {
        // `{:?}` keeps the `.0` of whole numbers, as Python does.
        format!("p={:?}, inplace={}", self.p, if self.inplace { "True" } else { "False" })
    }
}

impl Module for Dropout {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.dropout(self.p, self.training.is_on())
    }
}
