//! Scaled dot-product attention: by the device's kernel, or composed of operations on one block of the score matrix at a time.

mod block;
mod blocks;
mod extents;
mod kernel;
mod mask;

use extents::Extents;
use kiln_backend::{AttentionCall, DType, Error, MAX_RANK, Result};
use kiln_derive::located;
use smallvec::SmallVec;

use super::check;
use crate::{autocast::cast_operands, autograd::is_tracing, device::Device, tensor::Tensor};

/// The largest block of scores that is held at a time, in elements: about what the processor's caches hold; on a GPU,
/// enough for all its multiprocessors.
fn block_elements(device: Device) -> usize {
    if device == Device::Cpu { 1 << 20 } else { 1 << 24 }
}

/// Options of [`Tensor::scaled_dot_product_attention`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct AttentionOptions<'a> {
    mask: Option<&'a Tensor>,
    is_causal: bool,
    dropout: f64,
    scale: Option<f64>,
    enable_gqa: bool,
}

impl<'a> AttentionOptions<'a> {
    /// A mask that broadcasts to `[…, L, S]`: bool, `true` where a key takes part, or numbers that are added to the
    /// scores.
    pub fn mask(self, mask: impl Into<Option<&'a Tensor>>) -> Self {
        AttentionOptions { mask: mask.into(), ..self }
    }

    /// Whether query `i` only attends to keys up to `i`.
    pub fn is_causal(self, is_causal: bool) -> Self {
        AttentionOptions { is_causal, ..self }
    }

    /// The dropout probability of the weights; the caller passes 0 in evaluation.
    pub fn dropout(self, dropout: f64) -> Self {
        AttentionOptions { dropout, ..self }
    }

    /// The factor of the scores; `1 / sqrt(E)` by default.
    pub fn scale(self, scale: impl Into<Option<f64>>) -> Self {
        AttentionOptions { scale: scale.into(), ..self }
    }

    /// Whether keys and values have fewer heads (dimension -3), each of which serves a group of query heads (Ainslie et
    /// al., 2023).
    pub fn enable_gqa(self, enable_gqa: bool) -> Self {
        AttentionOptions { enable_gqa, ..self }
    }
}

#[located]
impl Tensor {
    /// `softmax(scale * self · keyᵀ + mask) · value` (Vaswani et al., 2017), for queries `[…, L, E]`, keys `[…, S, E]`
    /// and values `[…, S, V]`, whose leading dimensions broadcast. A query for which no key takes part gives 0.
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html>)
    ///
    /// The whole score matrix is never held: the forward and backward passes process it in blocks, and the
    /// backward pass recomputes them (as in Dao, 2023). If the mask requires gradients, or a trace is made for
    /// an exporter, the plain operations are used instead. On the CPU, half precision is computed in `f32` and rounded
    /// once. On CUDA devices, half precision without a mask, other than `is_causal`, and without dropout is computed by cuDNN
    /// where it can.
    ///
    /// # Errors
    /// If the operands are not of one floating-point dtype on one device, their shapes do not fit, both a mask and
    /// `is_causal` are given, or the dropout is not a probability.
    pub fn scaled_dot_product_attention(
        &self,
        key: &Tensor,
        value: &Tensor,
        options: AttentionOptions<'_>,
    ) -> Result<Tensor> {
        const OP: &str = "scaled_dot_product_attention";
        cast_operands(OP, [self, key, value], [options.mask], |[query, key, value], [mask]| {
            query.attention_no_autocast(key, value, AttentionOptions { mask, ..options })
        })
    }

    fn attention_no_autocast(&self, key: &Tensor, value: &Tensor, options: AttentionOptions<'_>) -> Result<Tensor> {
        const OP: &str = "scaled_dot_product_attention";
        check::floats(OP, self)?;
        check::same_kind(OP, self, &[key, value])?;
        let AttentionOptions { mask, is_causal, dropout, scale, enable_gqa } = options;
        if !(0.0..=1.0).contains(&dropout) {
            return Err(Error::argument(OP, format!("the probability {dropout} is outside [0, 1]")));
        }
        if is_causal && mask.is_some() {
            return Err(Error::argument(OP, "a mask and `is_causal` exclude each other; add the triangle to the mask"));
        }
        let wants_mask = mask.is_some_and(Tensor::requires_grad);
        let plain = wants_mask || is_tracing();
        let extent = |t: &Tensor, from_end: usize| t.dims().iter().rev().nth(from_end).copied().unwrap_or(0);
        let call = AttentionCall {
            dtype: self.dtype(),
            queries: extent(self, 1),
            keys: extent(key, 1),
            features: [extent(self, 0), extent(value, 0)],
            is_masked: mask.is_some(),
            has_dropout: dropout > 0.0,
        };
        let fused = !plain && dropout < 1.0 && self.device().backend()?.has_attention(&call);
        // The kernel reads a head of keys for all its heads of queries.
        let groups = if enable_gqa { Some((self.key_heads(key)?, self.key_heads(value)?)) } else { None };
        let shared = groups.filter(|(keys, values)| fused && keys == values).map(|(keys, _)| keys);
        let repeated;
        let (key, value) = match groups {
            Some((keys, values)) if shared.is_none() => {
                repeated = (self.repeat_heads(key, keys)?, self.repeat_heads(value, values)?);
                (&repeated.0, &repeated.1)
            }
            _ => (key, value),
        };
        let shapes = Extents::new(OP, self, key, value, shared)?;
        let mask = mask.map(|mask| shapes.mask(OP, self, mask)).transpose()?;
        let scale = scale.unwrap_or_else(|| 1.0 / (shapes.features as f64).sqrt());
        let heads = shared.unwrap_or(shapes.heads);
        let q = shapes.four(self, shapes.heads, shapes.queries)?;
        let (k, v) = (shapes.four(key, heads, shapes.keys)?, shapes.four(value, heads, shapes.keys)?);
        let plan = Plan { extents: shapes, is_causal, dropout, scale };
        let by_kernel = if fused { plan.fused(&q, &k, &v, mask.clone())? } else { None };
        let out = match by_kernel {
            Some(out) => out,
            None if plain => plan.plain(&q, &k, &v, mask.as_ref())?,
            None => {
                let (k, v) = (plan.with_all_heads(&k)?, plan.with_all_heads(&v)?);
                plan.blocked(&q, &k, &v, mask, plan.blocks(block_elements(self.device())))?
            }
        };
        let mut dims: SmallVec<[usize; MAX_RANK]> = SmallVec::from_slice(&plan.extents.batch);
        dims.extend([plan.extents.queries, plan.extents.values]);
        out.reshape(&dims[..])
    }

    /// The number of heads of keys or values, each of which serves as many heads of queries.
    fn key_heads(&self, key: &Tensor) -> Result<usize> {
        const OP: &str = "scaled_dot_product_attention";
        if self.rank() < 3 || key.rank() < 3 {
            return Err(Error::shape(OP, "[…, heads, L, E] for groups of heads", key.shape()));
        }
        let (heads, groups) = (self.dims()[self.rank() - 3], key.dims()[key.rank() - 3]);
        if groups == 0 || !heads.is_multiple_of(groups) {
            return Err(Error::shape(OP, format!("a number of heads that divides {heads}"), key.shape()));
        }
        Ok(groups)
    }

    /// Repeats heads of keys or values to match the heads of the queries.
    fn repeat_heads(&self, key: &Tensor, groups: usize) -> Result<Tensor> {
        key.repeat_interleave(self.dims()[self.rank() - 3] / groups, -3)
    }
}

/// Attention of checked operands: what it computes, whichever way.
#[derive(Clone, Debug)]
struct Plan {
    extents: Extents,
    is_causal: bool,
    dropout: f64,
    scale: f64,
}

impl Plan {
    /// Keys or values with a head for each of the queries'.
    fn with_all_heads(&self, t: &Tensor) -> Result<Tensor> {
        let (heads, groups) = (self.extents.heads, t.dims()[1]);
        if groups == heads { Ok(t.clone()) } else { t.repeat_interleave(heads / groups, 1) }
    }

    /// Computes attention by operations on whole tensors.
    fn plain(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let Extents { queries, keys, .. } = self.extents;
        let dtype = q.dtype();
        let (q, k, v) = (&q.computed()?, &k.computed()?, &v.computed()?);
        let mut scores = q.mul(self.scale)?.matmul(&k.transpose(-2, -1)?)?;
        let lower;
        let mask = if self.is_causal {
            lower = Tensor::ones([queries, keys], (DType::Bool, q.device()))?.tril(0)?;
            Some(&lower)
        } else {
            mask
        };
        let mut dead = None;
        if let Some(mask) = mask {
            let blocked = if mask.dtype() == DType::Bool {
                scores = scores.masked_fill(&mask.logical_not()?, f64::NEG_INFINITY)?;
                mask.logical_not()?
            } else {
                scores = scores.add(&mask.to_dtype(scores.dtype())?)?;
                mask.eq(f64::NEG_INFINITY)?
            };
            let none = blocked.all_keepdim(-1)?;
            if !is_tracing() {
                // Where no key is visible, softmax has no gradient that is a number.
                scores = scores.masked_fill(&none, 0)?;
            }
            dead = Some(none);
        }
        let mut weights = scores.softmax(-1)?;
        if let Some(dead) = dead {
            weights = weights.masked_fill(&dead, 0)?;
        }
        weights.dropout(self.dropout, true)?.matmul(v)?.to_dtype(dtype)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
