//! `MultiheadAttention`: multi-head attention.

use kiln_derive::located;
use kiln_tensor::{AttentionOptions, DType, Error, Result, Tensor, TensorOptions};

use crate::{
    init,
    layers::linear::{Linear, LinearOptions},
    module::{Module, hooked},
    parameter::{Parameter, Training},
};

/// Options of [`MultiheadAttention`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct MultiheadAttentionOptions {
    dropout: f64,
    bias: bool,
    add_bias_kv: bool,
    add_zero_attn: bool,
    kdim: Option<usize>,
    vdim: Option<usize>,
    batch_first: bool,
    tensor: TensorOptions,
}

impl Default for MultiheadAttentionOptions {
    fn default() -> Self {
        MultiheadAttentionOptions {
            dropout: 0.0,
            bias: true,
            add_bias_kv: false,
            add_zero_attn: false,
            kdim: None,
            vdim: None,
            batch_first: false,
            tensor: TensorOptions::new(),
        }
    }
}

impl MultiheadAttentionOptions {
    /// The dropout probability of the weights while training; 0 by default.
    pub fn dropout(self, dropout: f64) -> Self {
        MultiheadAttentionOptions { dropout, ..self }
    }

    /// Whether the projections have biases.
    pub fn bias(self, bias: bool) -> Self {
        MultiheadAttentionOptions { bias, ..self }
    }

    /// Whether a learned key and value are appended to each sequence.
    pub fn add_bias_kv(self, add: bool) -> Self {
        MultiheadAttentionOptions { add_bias_kv: add, ..self }
    }

    /// Whether a key and value of zeros are appended to each sequence.
    pub fn add_zero_attn(self, add: bool) -> Self {
        MultiheadAttentionOptions { add_zero_attn: add, ..self }
    }

    /// The number of features of the keys and of the values, if they differ from those of the queries.
    pub fn kdim_vdim(self, kdim: usize, vdim: usize) -> Self {
        MultiheadAttentionOptions { kdim: Some(kdim), vdim: Some(vdim), ..self }
    }

    /// Whether sequences are `[N, L, features]`; by default they are `[L, N, features]`.
    pub fn batch_first(self, batch_first: bool) -> Self {
        MultiheadAttentionOptions { batch_first, ..self }
    }

    /// Sets the dtype and device.
    pub fn tensor(self, options: impl Into<TensorOptions>) -> Self {
        MultiheadAttentionOptions { tensor: options.into(), ..self }
    }
}

/// Which keys a query must not attend to. Masks are bool, with `true` where a key is **excluded** (the opposite of
/// [`scaled_dot_product_attention`](Tensor::scaled_dot_product_attention), as in PyTorch), or numbers that are added to
/// the scores.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct AttentionMasks<'a> {
    key_padding: Option<&'a Tensor>,
    attention: Option<&'a Tensor>,
    is_causal: bool,
}

impl<'a> AttentionMasks<'a> {
    /// No masks: every query attends to all keys.
    pub fn none() -> Self {
        AttentionMasks::default()
    }

    /// A mask over the keys of each sample, `[N, S]`, or `[S]` without a batch: PyTorch's `key_padding_mask`.
    pub fn key_padding(self, mask: impl Into<Option<&'a Tensor>>) -> Self {
        AttentionMasks { key_padding: mask.into(), ..self }
    }

    /// A mask over each query and key, `[L, S]` or `[N * heads, L, S]`: PyTorch's `attn_mask`.
    pub fn attention(self, mask: impl Into<Option<&'a Tensor>>) -> Self {
        AttentionMasks { attention: mask.into(), ..self }
    }

    /// Whether query `i` only attends to keys up to `i`, in addition to the masks.
    pub fn is_causal(self, is_causal: bool) -> Self {
        AttentionMasks { is_causal, ..self }
    }
}

/// A linear layer that prints as PyTorch's of this name.
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
struct NonDynamicallyQuantizableLinear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl NonDynamicallyQuantizableLinear {
    fn describe(&self) -> String {
        let (outputs, inputs) = self.weight.dims2().unwrap_or((0, 0));
        let bias = super::sizes::python_bool(self.bias.is_some());
        format!("in_features={inputs}, out_features={outputs}, bias={bias}")
    }
}

/// Attention in several heads, each over its own projections of queries, keys and values (Vaswani et al., 2017).
///
/// Sequences are `[L, N, features]`, or `[N, L, features]` with [`MultiheadAttentionOptions::batch_first`], or `[L, features]`
/// without a batch. (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html>)
#[derive(Debug, Module)]
#[module(save)]
pub struct MultiheadAttention {
    in_proj_weight: Option<Parameter>,
    q_proj_weight: Option<Parameter>,
    k_proj_weight: Option<Parameter>,
    v_proj_weight: Option<Parameter>,
    in_proj_bias: Option<Parameter>,
    bias_k: Option<Parameter>,
    bias_v: Option<Parameter>,
    out_proj: NonDynamicallyQuantizableLinear,
    embed_dim: usize,
    num_heads: usize,
    dropout: f64,
    add_zero_attn: bool,
    batch_first: bool,
    training: Training,
}

#[located(site)]
impl MultiheadAttention {
    /// Attention with `num_heads` heads of `embed_dim / num_heads` features, with biases.
    ///
    /// # Errors
    /// If the heads do not divide the features, or memory runs out.
    pub fn new(embed_dim: usize, num_heads: usize) -> Result<MultiheadAttention> {
        MultiheadAttention::with_options(embed_dim, num_heads, MultiheadAttentionOptions::default())
    }

    /// A layer with options.
    ///
    /// # Errors
    /// Those of [`new`](MultiheadAttention::new); or if the dropout is not a probability, the dtype is not
    /// floating-point, or the device is not available.
    pub fn with_options(
        embed_dim: usize,
        num_heads: usize,
        options: MultiheadAttentionOptions,
    ) -> Result<MultiheadAttention> {
        const OP: &str = "MultiheadAttention";
        let MultiheadAttentionOptions { dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, tensor } =
            options;
        if embed_dim == 0 || num_heads == 0 || !embed_dim.is_multiple_of(num_heads) {
            let message = format!("{num_heads} heads do not divide {embed_dim} features");
            return Err(Error::argument(OP, message));
        }
        if !(0.0..=1.0).contains(&dropout) {
            return Err(Error::argument(OP, format!("the dropout {dropout} is outside [0, 1]")));
        }
        let xavier = |rows: usize, columns: usize| {
            let weight = Tensor::empty([rows, columns], tensor)?;
            init::xavier_uniform_(&weight, 1.0)?;
            Parameter::new(weight)
        };
        let zeros = |n: usize| Parameter::new(Tensor::zeros(n, tensor)?);
        let appended = || {
            let row = Tensor::empty([1, 1, embed_dim], tensor)?;
            init::xavier_normal_(&row, 1.0)?;
            Parameter::new(row)
        };
        let (kdim, vdim) = (kdim.unwrap_or(embed_dim), vdim.unwrap_or(embed_dim));
        let together = kdim == embed_dim && vdim == embed_dim;
        let apart = |columns: usize| (!together).then(|| xavier(embed_dim, columns)).transpose();
        let weight = Linear::with_options(embed_dim, embed_dim, LinearOptions::default().tensor(tensor))?.weight;
        Ok(MultiheadAttention {
            in_proj_weight: together.then(|| xavier(3 * embed_dim, embed_dim)).transpose()?,
            q_proj_weight: apart(embed_dim)?,
            k_proj_weight: apart(kdim)?,
            v_proj_weight: apart(vdim)?,
            in_proj_bias: bias.then(|| zeros(3 * embed_dim)).transpose()?,
            bias_k: add_bias_kv.then(appended).transpose()?,
            bias_v: add_bias_kv.then(appended).transpose()?,
            out_proj: NonDynamicallyQuantizableLinear { weight, bias: bias.then(|| zeros(embed_dim)).transpose()? },
            embed_dim,
            num_heads,
            dropout,
            add_zero_attn,
            batch_first,
            training: Training::default(),
        })
    }

    /// Attends with queries `[L, N, embed_dim]` to keys `[S, N, kdim]` and values `[S, N, vdim]`.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor, masks: AttentionMasks<'_>) -> Result<Tensor> {
        hooked(self, query, |query| self.without_weights(query, key, value, masks))
    }

    fn without_weights(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        masks: AttentionMasks<'_>,
    ) -> Result<Tensor> {
        let heads = self.heads(query, key, value)?;
        let (out, _) = self.attended(heads, masks, false)?;
        Ok(out)
    }

    /// [`attend`](MultiheadAttention::attend), also returning the attention weights: `[N, L, S]`, their mean over the
    /// heads, or `[N, heads, L, S]` if `average` is `false`. The whole weight matrix is held in memory.
    ///
    /// # Errors
    /// Those of [`attend`](MultiheadAttention::attend).
    pub fn attend_with_weights(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        masks: AttentionMasks<'_>,
        average: bool,
    ) -> Result<(Tensor, Tensor)> {
        hooked(self, query, |query| {
            let heads = self.heads(query, key, value)?;
            let single = heads.single;
            let (out, weights) = self.attended(heads, masks, true)?;
            let weights = weights.ok_or_else(|| Error::argument("MultiheadAttention", "there are no weights"))?;
            let weights = if average { weights.mean(1)? } else { weights };
            Ok((out, if single { weights.squeeze(0)? } else { weights }))
        })
    }

    /// The projections, divided into heads.
    fn heads(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Heads> {
        const OP: &str = "MultiheadAttention";
        let single = query.rank() == 2;
        for tensor in [query, key, value] {
            if tensor.rank() != query.rank() || !matches!(tensor.rank(), 2 | 3) {
                let batch = if self.batch_first { "[N, L, features]" } else { "[L, N, features]" };
                return Err(Error::shape(OP, format!("{batch} or [L, features], all alike"), tensor.shape()));
            }
        }
        // Moves the batch dimension first.
        let first = |t: &Tensor| match (single, self.batch_first) {
            (true, _) => t.unsqueeze(0),
            (false, true) => Ok(t.clone()),
            (false, false) => t.transpose(0, 1),
        };
        let (query, key, value) = (first(query)?, first(key)?, first(value)?);
        let e = self.embed_dim;
        let bias = |i: usize| self.in_proj_bias.as_ref().map(|bias| bias.narrow(0, i * e, e)).transpose();
        let project = |i: usize, x: &Tensor, apart: &Option<Parameter>| {
            let weight = match (&self.in_proj_weight, apart) {
                (Some(all), _) => all.narrow(0, i * e, e)?,
                (None, Some(weight)) => (**weight).clone(),
                (None, None) => return Err(Error::argument(OP, "it has no weights")),
            };
            x.linear(&weight, bias(i)?.as_ref())
        };
        let q = project(0, &query, &self.q_proj_weight)?;
        let mut k = project(1, &key, &self.k_proj_weight)?;
        let mut v = project(2, &value, &self.v_proj_weight)?;
        let n = k.dims()[0];
        if let (Some(bias_k), Some(bias_v)) = (&self.bias_k, &self.bias_v) {
            k = Tensor::cat(&[&k, &bias_k.expand([n as i64, 1, -1])?], 1)?;
            v = Tensor::cat(&[&v, &bias_v.expand([n as i64, 1, -1])?], 1)?;
        }
        if self.add_zero_attn {
            let zeros = Tensor::zeros([n, 1, e], k.options())?;
            (k, v) = (Tensor::cat(&[&k, &zeros], 1)?, Tensor::cat(&[&v, &zeros], 1)?);
        }
        let cut = |t: Tensor| {
            let [samples, rows, _] = [t.dims()[0], t.dims()[1], e];
            t.reshape([samples, rows, self.num_heads, e / self.num_heads])?.transpose(1, 2)
        };
        Ok(Heads { q: cut(q)?, k: cut(k)?, v: cut(v)?, keys: key.dims()[1], single })
    }

    /// The masks combined, as numbers to add to the scores, `[N or 1, heads or 1, L or 1, S]`.
    fn bias(&self, heads: &Heads, masks: AttentionMasks<'_>) -> Result<Option<Tensor>> {
        const OP: &str = "MultiheadAttention";
        let (n, l, s) = (heads.q.dims()[0], heads.q.dims()[2], heads.keys);
        let dtype = heads.q.dtype();
        let added = |mask: &Tensor| match mask.dtype() {
            DType::Bool => Tensor::zeros(mask.dims(), (dtype, mask.device()))?.masked_fill(mask, f64::NEG_INFINITY),
            _ => mask.to_dtype(dtype),
        };
        let mut total: Option<Tensor> = None;
        if let Some(mask) = masks.key_padding {
            let wanted: &[usize] = if heads.single { &[s] } else { &[n, s] };
            if mask.dims() != wanted {
                return Err(Error::shape(OP, format!("a mask of keys of shape {wanted:?}"), mask.shape()));
            }
            total = Some(added(mask)?.reshape([n, 1, 1, s])?);
        }
        if let Some(mask) = masks.attention {
            let shape = match mask.rank() {
                2 if *mask.shape() == [l, s] => [1, 1, l, s],
                3 if *mask.shape() == [n * self.num_heads, l, s] => [n, self.num_heads, l, s],
                _ => {
                    let all = n * self.num_heads;
                    return Err(Error::shape(
                        OP,
                        format!("a mask of shape [{l}, {s}] or [{all}, {l}, {s}]"),
                        mask.shape(),
                    ));
                }
            };
            let mask = added(mask)?.reshape(shape)?;
            total = Some(match total {
                Some(total) => total.add(&mask)?,
                None => mask,
            });
        }
        if masks.is_causal {
            let above = Tensor::ones([l, s], (DType::Bool, heads.q.device()))?.triu(1)?;
            let above = added(&above)?.reshape([1, 1, l, s])?;
            total = Some(match total {
                Some(total) => total.add(&above)?,
                None => above,
            });
        }
        // Appended keys are never masked.
        let appended = (heads.k.dims()[2] - s) as i64;
        total.map(|total| total.pad(&[0, appended], kiln_tensor::PadMode::Constant(0.0))).transpose()
    }

    /// The outputs, and the weights `[N, heads, L, S]` if requested.
    fn attended(
        &self,
        heads: Heads,
        masks: AttentionMasks<'_>,
        wants_weights: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let causal_alone = masks.is_causal && masks.key_padding.is_none() && masks.attention.is_none();
        let plainly_causal = causal_alone && heads.k.dims()[2] == heads.keys && !wants_weights;
        let bias = if plainly_causal { None } else { self.bias(&heads, masks)? };
        let Heads { q, k, v, single, .. } = heads;
        let dropout = if self.training.is_on() { self.dropout } else { 0.0 };
        let (out, weights) = if wants_weights {
            let scores = q.mul(1.0 / (k.dims()[3] as f64).sqrt())?.matmul(&k.transpose(-2, -1)?)?;
            let scores = bias.as_ref().map_or(Ok(scores.clone()), |bias| scores.add(bias))?;
            let weights = scores.softmax(-1)?.dropout(dropout, true)?;
            (weights.matmul(&v)?, Some(weights))
        } else {
            let options = AttentionOptions::default().mask(bias.as_ref()).is_causal(plainly_causal).dropout(dropout);
            (q.scaled_dot_product_attention(&k, &v, options)?, None)
        };
        let out = out.transpose(1, 2)?.flatten(2, -1)?.linear(&self.out_proj.weight, self.out_proj.bias.as_deref())?;
        let out = match (single, self.batch_first) {
            (true, _) => out.squeeze(0)?,
            (false, true) => out,
            (false, false) => out.transpose(0, 1)?,
        };
        Ok((out, weights))
    }
}

/// Queries, keys and values `[N, heads, rows, features]`.
struct Heads {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// The number of given keys, without the appended ones.
    keys: usize,
    /// Whether the input had no batch dimension.
    single: bool,
}

#[located(module)]
impl Module for MultiheadAttention {
    /// Self-attention without masks.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.without_weights(x, x, x, AttentionMasks::none())
    }
}
