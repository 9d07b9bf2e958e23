//! `Embedding`: a table of vectors, looked up by index.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor, TensorOptions, no_grad};

use crate::{
    init,
    module::{Hooks, Module},
    parameter::Parameter,
};

/// Looks up the row of a table for each index: indices (`i64`) of any shape give `[…, embedding_dim]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html>).
///
/// `weight` is `[num_embeddings, embedding_dim]`, drawn from the standard normal distribution; row `padding_idx` is zero
/// and gets no gradient.
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Embedding {
    /// `[num_embeddings, embedding_dim]`
    pub weight: Parameter,
    padding_idx: Option<usize>,
    hooks: Hooks,
}

#[located(site)]
impl Embedding {
    /// A table of `f32` on the CPU, without a padding row.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(num_embeddings: usize, embedding_dim: usize) -> Result<Embedding> {
        Embedding::with_options(num_embeddings, embedding_dim, None, TensorOptions::new())
    }

    /// A table with options.
    ///
    /// # Errors
    /// If the padding row is not in the table, the dtype is not floating-point, the device is not available, or memory
    /// runs out.
    pub fn with_options(
        num_embeddings: usize,
        embedding_dim: usize,
        padding_idx: Option<usize>,
        tensor: impl Into<TensorOptions>,
    ) -> Result<Embedding> {
        let weight = Tensor::empty([num_embeddings, embedding_dim], tensor)?;
        init::normal_(&weight, 0.0, 1.0)?;
        if let Some(row) = padding_idx {
            if row >= num_embeddings {
                return Err(Error::index("Embedding", row as i64, num_embeddings, "the rows"));
            }
            no_grad(|| weight.narrow(0, row, 1)?.zero_())?;
        }
        Ok(Embedding { weight: Parameter::new(weight)?, padding_idx, hooks: Hooks::default() })
    }

    fn describe(&self) -> String {
        let (rows, width) = self.weight.dims2().unwrap_or((0, 0));
        let padding = self.padding_idx.map(|row| format!(", padding_idx={row}")).unwrap_or_default();
        format!("{rows}, {width}{padding}")
    }
}

#[located(module)]
impl Module for Embedding {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.embedding(x, self.padding_idx)
    }
}
