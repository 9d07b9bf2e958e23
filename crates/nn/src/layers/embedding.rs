//! `Embedding` and `EmbeddingBag`: tables of vectors, looked up by index, one by one or in bags.

use kiln_derive::located;
use kiln_tensor::{BagMode, BagOptions, Error, Result, Tensor, TensorOptions, no_grad};

use crate::{
    init,
    module::{Hooks, Module},
    parameter::Parameter,
    saved_choice,
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
        let weight = table("Embedding", [num_embeddings, embedding_dim], padding_idx, tensor.into())?;
        Ok(Embedding { weight, padding_idx, hooks: Hooks::default() })
    }

    fn describe(&self) -> String {
        let (rows, width) = self.weight.dims2().unwrap_or((0, 0));
        format!("{rows}, {width}{}", padding_text(self.padding_idx))
    }
}

/// A table drawn from the standard normal distribution, with a row of zeros for padding.
fn table(
    layer: &'static str,
    shape: [usize; 2],
    padding_idx: Option<usize>,
    tensor: TensorOptions,
) -> Result<Parameter> {
    let weight = Tensor::empty(shape, tensor)?;
    init::normal_(&weight, 0.0, 1.0)?;
    if let Some(row) = padding_idx {
        if row >= shape[0] {
            return Err(Error::index(layer, row as i64, shape[0], "the rows"));
        }
        no_grad(|| weight.narrow(0, row, 1)?.zero_())?;
    }
    Parameter::new(weight)
}

fn padding_text(padding_idx: Option<usize>) -> String {
    padding_idx.map(|row| format!(", padding_idx={row}")).unwrap_or_default()
}

#[located(module)]
impl Module for Embedding {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.embedding(x, self.padding_idx)
    }
}

/// Sums, averages or takes the maxima of the rows of a table for each bag of indices, without looking up all rows at once
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.EmbeddingBag.html>).
///
/// `weight` is `[num_embeddings, embedding_dim]`, drawn from the standard normal distribution; row `padding_idx` is zero, does not
/// count, and gets no gradient. The module's `forward` takes bags of equal size, `[bags, size]`.
///
/// ```
/// use kiln_nn::{BagMode, EmbeddingBag, EmbeddingBagOptions};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let bag = EmbeddingBag::with_options(10, 3, EmbeddingBagOptions::default().mode(BagMode::Sum), Device::Cpu)?;
/// let (indices, offsets) = (Tensor::new(&[1i64, 2, 4, 5, 4], Device::Cpu)?, Tensor::new(&[0i64, 2], Device::Cpu)?);
/// assert_eq!(bag.forward_bags(&indices, Some(&offsets), None)?.dims(), [2, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct EmbeddingBag {
    /// `[num_embeddings, embedding_dim]`
    pub weight: Parameter,
    mode: BagMode,
    include_last_offset: bool,
    padding_idx: Option<usize>,
    hooks: Hooks,
}

/// The arguments of [`EmbeddingBag`] that have defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddingBagOptions {
    mode: BagMode,
    include_last_offset: bool,
    padding_idx: Option<usize>,
}

impl EmbeddingBagOptions {
    /// How the rows of a bag are combined: by default their mean.
    #[must_use]
    pub fn mode(self, mode: BagMode) -> EmbeddingBagOptions {
        EmbeddingBagOptions { mode, ..self }
    }

    /// Whether the last of the offsets is the end of the last bag, rather than the beginning of another.
    #[must_use]
    pub fn include_last_offset(self, include_last_offset: bool) -> EmbeddingBagOptions {
        EmbeddingBagOptions { include_last_offset, ..self }
    }

    /// A row that does not count.
    #[must_use]
    pub fn padding_idx(self, padding_idx: usize) -> EmbeddingBagOptions {
        EmbeddingBagOptions { padding_idx: Some(padding_idx), ..self }
    }
}

saved_choice!(BagMode { Sum "sum", Mean "mean", Max "max" });

#[located(site)]
impl EmbeddingBag {
    /// A table of `f32` on the CPU, for means.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(num_embeddings: usize, embedding_dim: usize) -> Result<EmbeddingBag> {
        EmbeddingBag::with_options(num_embeddings, embedding_dim, EmbeddingBagOptions::default(), TensorOptions::new())
    }

    /// A table with options.
    ///
    /// # Errors
    /// If the padding row is not in the table, the dtype is not floating-point, the device is not available, or memory
    /// runs out.
    pub fn with_options(
        num_embeddings: usize,
        embedding_dim: usize,
        options: EmbeddingBagOptions,
        tensor: impl Into<TensorOptions>,
    ) -> Result<EmbeddingBag> {
        let EmbeddingBagOptions { mode, include_last_offset, padding_idx } = options;
        let weight = table("EmbeddingBag", [num_embeddings, embedding_dim], padding_idx, tensor.into())?;
        Ok(EmbeddingBag { weight, mode, include_last_offset, padding_idx, hooks: Hooks::default() })
    }

    /// The result `[bags, embedding_dim]` for indices (integers) in bags of equal size `[bags, size]`, or in a vector with the
    /// offset at which each bag begins; with a factor for each index, if the mode is [`BagMode::Sum`].
    ///
    /// # Errors
    /// Those of [`Tensor::embedding_bag`].
    pub fn forward_bags(
        &self,
        indices: &Tensor,
        offsets: Option<&Tensor>,
        per_sample_weights: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.hooks.run(self, indices, |indices| self.look_up(indices, offsets, per_sample_weights))
    }

    fn look_up(&self, indices: &Tensor, offsets: Option<&Tensor>, weights: Option<&Tensor>) -> Result<Tensor> {
        let EmbeddingBag { mode, padding_idx, include_last_offset, .. } = *self;
        let options = BagOptions { mode, padding_idx, per_sample_weights: weights, include_last_offset };
        self.weight.embedding_bag(indices, offsets, &options)
    }

    fn describe(&self) -> String {
        let (rows, width) = self.weight.dims2().unwrap_or((0, 0));
        let mode = match self.mode {
            BagMode::Sum => "sum",
            BagMode::Mean => "mean",
            BagMode::Max => "max",
        };
        format!("{rows}, {width}, mode='{mode}'{}", padding_text(self.padding_idx))
    }
}

#[located(module)]
impl Module for EmbeddingBag {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.look_up(x, None, None)
    }
}
