//! Scaled dot-product attention, as one primitive for devices that have a kernel for it.

use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, is_float},
    dtype::DType,
    error::{Error, Result},
    ops::random::RandomState,
    view::{View, ViewMut},
};

const OP: &str = "scaled_dot_product_attention";

/// How weights are computed from queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRule<'a> {
    /// The factor of the scores.
    pub scale: f64,
    /// Whether query `i` only attends to keys up to `i`.
    pub is_causal: bool,
    /// A mask `[N, H, L, S]`: bool, true where a key takes part, or numbers of the operands' dtype that are added to the scores.
    pub mask: Option<View<'a>>,
    /// Dropout of the weights.
    pub dropout: Option<AttentionDropout>,
}

/// Dropout of the weights of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDropout {
    /// The probability that a weight becomes 0, in `[0, 1)`; the others are multiplied by `1 / (1 - p)`.
    pub p: f64,
    /// Where the random numbers start in the stream. Weights are numbered in row-major order of `[N, H, L, S]`, where `S` is
    /// at most `L` if attention is causal: the keys that no query attends to are not counted.
    pub state: RandomState,
}

/// Arguments of [`attention`](AttentionBackend::attention), for `N` samples, `H` heads of queries and `G` heads of keys and
/// values, each of which serves `H / G` consecutive heads of queries.
#[derive(Debug)]
pub struct AttentionArgs<'a> {
    /// The queries, `[N, H, L, E]`.
    pub query: View<'a>,
    /// The keys, `[N, G, S, E]`.
    pub key: View<'a>,
    /// The values, `[N, G, S, V]`.
    pub value: View<'a>,
    /// How weights are computed.
    pub rule: AttentionRule<'a>,
    /// The result, `[N, H, L, V]`.
    pub out: ViewMut<'a>,
    /// Receives what the gradient needs, `[N, H, L]` of the accumulator type: the logarithm of the sum of the exponentials of
    /// the scores, or infinity for a query to which no key is visible.
    pub log_sum: ViewMut<'a>,
}

/// Arguments of [`attention_grad`](AttentionBackend::attention_grad); the shapes are those of [`AttentionArgs`].
#[derive(Debug)]
pub struct AttentionGradArgs<'a> {
    /// The gradient of `out`.
    pub grad: View<'a>,
    /// The queries.
    pub query: View<'a>,
    /// The keys.
    pub key: View<'a>,
    /// The values.
    pub value: View<'a>,
    /// How weights are computed.
    pub rule: AttentionRule<'a>,
    /// The result.
    pub out: View<'a>,
    /// The logarithms that were written along with the result.
    pub log_sum: View<'a>,
    /// Receives the gradient of the queries.
    pub query_grad: ViewMut<'a>,
    /// Receives the gradient of the keys.
    pub key_grad: ViewMut<'a>,
    /// Receives the gradient of the values.
    pub value_grad: ViewMut<'a>,
}

/// Checks the operands of both directions: `outs` are like the result.
fn check(
    [query, key, value]: [View; 3],
    rule: &AttentionRule,
    outs: &[View],
    log_sum: View,
    grads: &[(View, View)],
) -> Result<()> {
    let dtype = query.dtype();
    is_float(OP, dtype)?;
    let four = |view: View| match *view.layout.dims() {
        [n, heads, rows, columns] => Ok((n, heads, rows, columns)),
        _ => Err(Error::shape(OP, "an operand of four dimensions", view.layout.shape())),
    };
    let ((n, heads, queries, features), (_, groups, keys, _), (.., values)) = (four(query)?, four(key)?, four(value)?);
    if groups == 0 && heads > 0 || groups > 0 && !heads.is_multiple_of(groups) {
        return Err(Error::shape(OP, format!("a number of heads that divides {heads}"), key.layout.shape()));
    }
    has_shape(OP, "keys", key.layout, &[n, groups, keys, features])?;
    has_shape(OP, "values", value.layout, &[n, groups, keys, values])?;
    for &out in outs {
        has_shape(OP, "a result", out.layout, &[n, heads, queries, values])?;
    }
    for (grad, of) in grads {
        has_shape(OP, "a gradient", grad.layout, of.layout.dims())?;
    }
    for view in [key, value].iter().chain(outs).chain(grads.iter().map(|(grad, _)| grad)) {
        has_dtype(OP, dtype, view.dtype())?;
    }
    has_shape(OP, "a logarithm for each query", log_sum.layout, &[n, heads, queries])?;
    has_dtype(OP, dtype.accumulator(), log_sum.dtype())?;
    if let Some(mask) = rule.mask {
        has_shape(OP, "a mask", mask.layout, &[n, heads, queries, keys])?;
        if mask.dtype() != DType::Bool {
            has_dtype(OP, dtype, mask.dtype())?;
        }
        if rule.is_causal {
            return Err(Error::argument(OP, "a mask and `is_causal` exclude each other"));
        }
    }
    match rule.dropout {
        Some(AttentionDropout { p, .. }) if !(0.0..1.0).contains(&p) => {
            Err(Error::argument(OP, format!("the probability {p} is not in [0, 1)")))
        }
        _ => Ok(()),
    }
}

impl Arguments for AttentionArgs<'_> {
    fn check(&self) -> Result<()> {
        let AttentionArgs { query, key, value, rule, out, log_sum } = self;
        check([*query, *key, *value], rule, &[out.as_view()], log_sum.as_view(), &[])
    }
}

impl Arguments for AttentionGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let AttentionGradArgs { grad, query, key, value, rule, out, log_sum, query_grad, key_grad, value_grad } = self;
        let grads = [(query_grad.as_view(), *query), (key_grad.as_view(), *key), (value_grad.as_view(), *value)];
        check([*query, *key, *value], rule, &[*out, *grad], *log_sum, &grads)
    }
}

/// Attention that a device may have a kernel for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionCall {
    /// The dtype of the operands.
    pub dtype: DType,
    /// The number of queries, `L`.
    pub queries: usize,
    /// The number of keys, `S`.
    pub keys: usize,
    /// The extents of a query and of a value, `[E, V]`.
    pub features: [usize; 2],
    /// Whether there is a mask, other than the one of causal attention.
    pub is_masked: bool,
    /// Whether weights are dropped.
    pub has_dropout: bool,
}

impl AttentionCall {
    /// That of checked queries, keys and values.
    #[must_use]
    pub fn new([query, key, value]: [View; 3], rule: &AttentionRule) -> AttentionCall {
        let extent = |of: View, dim: usize| of.layout.dims().get(dim).copied().unwrap_or(0);
        AttentionCall {
            dtype: query.dtype(),
            queries: extent(query, 2),
            keys: extent(key, 2),
            features: [extent(query, 3), extent(value, 3)],
            is_masked: rule.mask.is_some(),
            has_dropout: rule.dropout.is_some(),
        }
    }
}

/// Attention. A device may have kernels for some calls only, and may find out when it is called that it has none: attention is
/// composed of products and softmax then.
pub trait AttentionBackend {
    /// Whether the device may have kernels for this.
    fn has_attention(&self, call: &AttentionCall) -> bool {
        let _ = call;
        false
    }

    /// `softmax(scale * query · keyᵀ + mask) · value`, without the matrix of scores in memory; 0 for queries to which no key is
    /// visible. Returns `false` if the device has no kernel for it; nothing was written then.
    fn attention(&self, args: Checked<AttentionArgs>) -> Result<bool> {
        let _ = args;
        Ok(false)
    }

    /// The gradients of [`attention`](AttentionBackend::attention), which computes the scores again. The mask is a constant.
    /// Returns `false` if the device has no kernel for them; nothing was written then.
    fn attention_grad(&self, args: Checked<AttentionGradArgs>) -> Result<bool> {
        let _ = args;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::Layout,
        testing::{Memory, layout},
    };

    const PLAIN: AttentionRule<'static> = AttentionRule { scale: 1.0, is_causal: false, mask: None, dropout: None };

    fn is_accepted(dtype: DType, shapes: [&[usize]; 5], rule: AttentionRule) -> bool {
        let layouts: Vec<Layout> = shapes.iter().map(|dims| layout(dims)).collect();
        let [q, k, v, o, l] = &layouts[..] else { panic!("five shapes") };
        let (memory, sums) = (Memory(dtype), Memory(dtype.accumulator()));
        let (mut out, mut log_sum, mut grads) = (memory, sums, [memory; 3]);
        let [query, key, value] = [q, k, v].map(|layout| memory.view(layout));
        let forward = AttentionArgs { query, key, value, rule, out: out.view_mut(o), log_sum: log_sum.view_mut(l) };
        let forward = forward.check().is_ok();
        let [query_grad, key_grad, value_grad] = &mut grads;
        let backward = AttentionGradArgs {
            grad: memory.view(o),
            query,
            key,
            value,
            rule,
            out: memory.view(o),
            log_sum: sums.view(l),
            query_grad: query_grad.view_mut(q),
            key_grad: key_grad.view_mut(k),
            value_grad: value_grad.view_mut(v),
        };
        assert_eq!(backward.check().is_ok(), forward, "both directions have one contract");
        forward
    }

    #[test]
    fn operands_are_checked() {
        let good: [&[usize]; 5] = [&[2, 4, 5, 3], &[2, 2, 6, 3], &[2, 2, 6, 7], &[2, 4, 5, 7], &[2, 4, 5]];
        for dtype in [DType::F16, DType::F32, DType::F64] {
            assert!(is_accepted(dtype, good, PLAIN));
        }
        assert!(!is_accepted(DType::I64, good, PLAIN));
        let other: [(usize, &[usize]); 8] = [
            (0, &[8, 5, 3]),
            (0, &[2, 3, 5, 3]),
            (1, &[2, 2, 6, 2]),
            (1, &[1, 2, 6, 3]),
            (2, &[2, 2, 5, 7]),
            (3, &[2, 4, 5, 3]),
            (4, &[2, 4, 6]),
            (4, &[2, 4, 5, 1]),
        ];
        for (operand, dims) in other {
            let mut shapes = good;
            shapes[operand] = dims;
            assert!(!is_accepted(DType::F32, shapes, PLAIN), "operand {operand} of shape {dims:?}");
        }
        let (numbers, truths, whole, part) =
            (Memory(DType::F32), Memory(DType::Bool), layout(&[2, 4, 5, 6]), layout(&[2, 4, 5, 5]));
        let masked =
            |mask, is_causal| is_accepted(DType::F32, good, AttentionRule { mask: Some(mask), is_causal, ..PLAIN });
        assert!(masked(numbers.view(&whole), false) && masked(truths.view(&whole), false));
        assert!(!masked(numbers.view(&part), false) && !masked(truths.view(&whole), true));
        assert!(!masked(Memory(DType::F64).view(&whole), false));
        for (p, valid) in [(0.0, true), (0.9, true), (1.0, false), (-0.1, false), (f64::NAN, false)] {
            let dropout = Some(AttentionDropout { p, state: RandomState { seed: 0, offset: 0 } });
            assert_eq!(is_accepted(DType::F32, good, AttentionRule { dropout, ..PLAIN }), valid, "{p}");
        }
    }
}
