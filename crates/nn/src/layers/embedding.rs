//! `Embedding` and `EmbeddingBag`: tables of vectors, looked up by index, one by one or in bags.

use kiln_derive::located;
use kiln_tensor::{BagMode, BagOptions, Error, Result, Tensor, TensorOptions, no_grad};

use super::sizes::python_float;
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
/// and gets no gradient. With `max_norm`, looking rows up changes `weight`: those that are longer are shortened first.
///
/// ```
/// use kiln_nn::{Embedding, EmbeddingOptions, Module};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let options = EmbeddingOptions::default().padding_idx(0).max_norm(1.0);
/// let words = Embedding::with_options(10, 3, options, Device::Cpu)?;
/// let vectors = words.forward(&Tensor::new(&[[1i64, 2, 0]], Device::Cpu)?)?;
/// assert_eq!(vectors.dims(), [1, 3, 3]);
/// assert!(vectors.norm(2, -1)?.max(())?.item::<f32>()? < 1.0001);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Embedding {
    /// `[num_embeddings, embedding_dim]`
    pub weight: Parameter,
    padding_idx: Option<usize>,
    max_norm: Option<f64>,
    norm_type: f64,
    scale_grad_by_freq: bool,
    hooks: Hooks,
}

/// The options of both layers that say how rows are looked up.
macro_rules! options_of_rows {
    ($options:ident) => {
        /// A row that does not count: it is zero, and gets no gradient.
        #[must_use]
        pub fn padding_idx(self, padding_idx: usize) -> $options {
            $options { padding_idx: Some(padding_idx), ..self }
        }

        /// The length to which rows that are longer are shortened, in the table, when they are looked up.
        #[must_use]
        pub fn max_norm(self, max_norm: f64) -> $options {
            $options { max_norm: Some(max_norm), ..self }
        }

        /// The order of the norm that `max_norm` is of: 2 by default.
        #[must_use]
        pub fn norm_type(self, norm_type: f64) -> $options {
            $options { norm_type, ..self }
        }

        /// Whether a row's gradient is divided by the number of times that it was looked up in the batch.
        #[must_use]
        pub fn scale_grad_by_freq(self, scale_grad_by_freq: bool) -> $options {
            $options { scale_grad_by_freq, ..self }
        }
    };
}

/// The arguments of [`Embedding`] that have defaults.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingOptions {
    padding_idx: Option<usize>,
    max_norm: Option<f64>,
    norm_type: f64,
    scale_grad_by_freq: bool,
}

impl Default for EmbeddingOptions {
    fn default() -> EmbeddingOptions {
        EmbeddingOptions { padding_idx: None, max_norm: None, norm_type: 2.0, scale_grad_by_freq: false }
    }
}

impl EmbeddingOptions {
    options_of_rows!(EmbeddingOptions);
}

#[located(site)]
impl Embedding {
    /// A table of `f32` on the CPU, without a padding row.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(num_embeddings: usize, embedding_dim: usize) -> Result<Embedding> {
        Embedding::with_options(num_embeddings, embedding_dim, EmbeddingOptions::default(), TensorOptions::new())
    }

    /// A table with options.
    ///
    /// # Errors
    /// If the padding row is not in the table, `max_norm` is negative or `norm_type` not positive, the dtype is not
    /// floating-point, the device is not available, or memory runs out.
    pub fn with_options(
        num_embeddings: usize,
        embedding_dim: usize,
        options: EmbeddingOptions,
        tensor: impl Into<TensorOptions>,
    ) -> Result<Embedding> {
        check_norm("Embedding", options.max_norm, options.norm_type)?;
        let shape = [num_embeddings, embedding_dim];
        Ok(Embedding::of(table("Embedding", shape, options.padding_idx, tensor.into())?, options))
    }

    /// A layer with this table `[num_embeddings, embedding_dim]`, whose memory it shares; if it is frozen, it is not trained.
    ///
    /// # Errors
    /// If it is not a floating-point matrix, the padding row is not in it, `max_norm` is negative or `norm_type` not
    /// positive.
    pub fn from_pretrained(embeddings: &Tensor, freeze: bool, options: EmbeddingOptions) -> Result<Embedding> {
        check_norm("Embedding", options.max_norm, options.norm_type)?;
        Ok(Embedding::of(given_table("Embedding", embeddings, freeze, options.padding_idx)?, options))
    }

    fn of(weight: Parameter, options: EmbeddingOptions) -> Embedding {
        let EmbeddingOptions { padding_idx, max_norm, norm_type, scale_grad_by_freq } = options;
        Embedding { weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, hooks: Hooks::default() }
    }

    fn describe(&self) -> String {
        let (rows, width) = self.weight.dims2().unwrap_or((0, 0));
        let norm = norm_text(self.max_norm, self.norm_type, self.scale_grad_by_freq);
        format!("{rows}, {width}{}{norm}", padding_text(self.padding_idx))
    }
}

fn check_norm(layer: &'static str, max_norm: Option<f64>, norm_type: f64) -> Result<()> {
    if max_norm.is_none_or(|max_norm| max_norm >= 0.0) && norm_type > 0.0 {
        return Ok(());
    }
    let max_norm = max_norm.map_or_else(|| "none".to_owned(), |max_norm| max_norm.to_string());
    let why = format!("max_norm is {max_norm} and may not be negative, norm_type {norm_type} and must be positive");
    Err(Error::argument(layer, why))
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

/// The parameter of a layer that is given its table.
fn given_table(
    layer: &'static str,
    embeddings: &Tensor,
    freeze: bool,
    padding_idx: Option<usize>,
) -> Result<Parameter> {
    let &[rows, _] = embeddings.dims() else {
        return Err(Error::shape(layer, "a table [num_embeddings, embedding_dim]", embeddings.shape()));
    };
    if let Some(row) = padding_idx.filter(|&row| row >= rows) {
        return Err(Error::index(layer, row as i64, rows, "the rows"));
    }
    let weight = Parameter::new(embeddings.detach())?;
    weight.set_requires_grad(!freeze)?;
    Ok(weight)
}

fn norm_text(max_norm: Option<f64>, norm_type: f64, scale_grad_by_freq: bool) -> String {
    let mut text = max_norm.map(|norm| format!(", max_norm={}", python_float(norm))).unwrap_or_default();
    if norm_type != 2.0 {
        text += &format!(", norm_type={}", python_float(norm_type));
    }
    text + if scale_grad_by_freq { ", scale_grad_by_freq=True" } else { "" }
}

fn padding_text(padding_idx: Option<usize>) -> String {
    padding_idx.map(|row| format!(", padding_idx={row}")).unwrap_or_default()
}

#[located(module)]
impl Module for Embedding {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(max_norm) = self.max_norm {
            self.weight.embedding_renorm_(x, max_norm, self.norm_type)?;
        }
        self.weight.embedding(x, self.padding_idx, self.scale_grad_by_freq)
    }
}

/// Sums, averages or takes the maxima of the rows of a table for each bag of indices, without looking up all rows at once
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.EmbeddingBag.html>).
///
/// `weight` is `[num_embeddings, embedding_dim]`, drawn from the standard normal distribution; row `padding_idx` is zero, does not
/// count, and gets no gradient. With `max_norm`, looking rows up changes `weight`: those that are longer are shortened first. The
/// module's `forward` takes bags of equal size, `[bags, size]`.
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
    max_norm: Option<f64>,
    norm_type: f64,
    scale_grad_by_freq: bool,
    hooks: Hooks,
}

/// The arguments of [`EmbeddingBag`] that have defaults.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBagOptions {
    mode: BagMode,
    include_last_offset: bool,
    padding_idx: Option<usize>,
    max_norm: Option<f64>,
    norm_type: f64,
    scale_grad_by_freq: bool,
}

impl Default for EmbeddingBagOptions {
    fn default() -> EmbeddingBagOptions {
        let (mode, include_last_offset, padding_idx) = (BagMode::default(), false, None);
        let (max_norm, norm_type, scale_grad_by_freq) = (None, 2.0, false);
        EmbeddingBagOptions { mode, include_last_offset, padding_idx, max_norm, norm_type, scale_grad_by_freq }
    }
}

impl EmbeddingBagOptions {
    options_of_rows!(EmbeddingBagOptions);

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
    /// If the padding row is not in the table, `max_norm` is negative or `norm_type` not positive, the dtype is not
    /// floating-point, the device is not available, or memory runs out.
    pub fn with_options(
        num_embeddings: usize,
        embedding_dim: usize,
        options: EmbeddingBagOptions,
        tensor: impl Into<TensorOptions>,
    ) -> Result<EmbeddingBag> {
        check_norm("EmbeddingBag", options.max_norm, options.norm_type)?;
        let shape = [num_embeddings, embedding_dim];
        Ok(EmbeddingBag::of(table("EmbeddingBag", shape, options.padding_idx, tensor.into())?, options))
    }

    /// A layer with this table `[num_embeddings, embedding_dim]`, whose memory it shares; if it is frozen, it is not trained.
    ///
    /// # Errors
    /// If it is not a floating-point matrix, the padding row is not in it, `max_norm` is negative or `norm_type` not
    /// positive.
    pub fn from_pretrained(embeddings: &Tensor, freeze: bool, options: EmbeddingBagOptions) -> Result<EmbeddingBag> {
        check_norm("EmbeddingBag", options.max_norm, options.norm_type)?;
        Ok(EmbeddingBag::of(given_table("EmbeddingBag", embeddings, freeze, options.padding_idx)?, options))
    }

    fn of(weight: Parameter, options: EmbeddingBagOptions) -> EmbeddingBag {
        let EmbeddingBagOptions { mode, include_last_offset, padding_idx, max_norm, norm_type, scale_grad_by_freq } =
            options;
        let hooks = Hooks::default();
        EmbeddingBag { weight, mode, include_last_offset, padding_idx, max_norm, norm_type, scale_grad_by_freq, hooks }
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
        if let Some(max_norm) = self.max_norm {
            self.weight.embedding_renorm_(indices, max_norm, self.norm_type)?;
        }
        let EmbeddingBag { mode, padding_idx, include_last_offset, scale_grad_by_freq, .. } = *self;
        let per_sample_weights = weights;
        let options = BagOptions { mode, padding_idx, per_sample_weights, include_last_offset, scale_grad_by_freq };
        self.weight.embedding_bag(indices, offsets, &options)
    }

    fn describe(&self) -> String {
        let (rows, width) = self.weight.dims2().unwrap_or((0, 0));
        let mode = match self.mode {
            BagMode::Sum => "sum",
            BagMode::Mean => "mean",
            BagMode::Max => "max",
        };
        let norm = norm_text(self.max_norm, self.norm_type, self.scale_grad_by_freq);
        format!("{rows}, {width}{norm}, mode='{mode}'{}", padding_text(self.padding_idx))
    }
}

#[located(module)]
impl Module for EmbeddingBag {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.look_up(x, None, None)
    }
}
