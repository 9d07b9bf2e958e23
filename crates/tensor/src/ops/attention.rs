//! Scaled dot-product attention: by the device's kernel, or composed of operations on one block of the score matrix at a time.

use std::ops::Range;

use kiln_backend::{
    Arguments, AttentionArgs, AttentionDropout, AttentionGradArgs, AttentionRule, DType, Error, MAX_RANK, RandomState,
    Result, Shape,
};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{check, images::writing};
use crate::{
    autocast::cast_operands,
    autograd::{Ctx, is_tracing, no_grad, record},
    creation,
    device::Device,
    storage::{Reading, Writing},
    tensor::Tensor,
};

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
    /// once.
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
        let fused = !plain && dropout < 1.0 && self.device().backend()?.has_attention();
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
        let out = if plain {
            plan.plain(&q, &k, &v, mask.as_ref())?
        } else if fused {
            plan.fused(&q, &k, &v, mask)?
        } else {
            plan.blocked(&q, &k, &v, mask, plan.blocks(block_elements(self.device())))?
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

/// The extents, with all leading dimensions merged into a batch and heads.
#[derive(Clone, Debug)]
struct Extents {
    /// The leading dimensions of the result.
    batch: SmallVec<[usize; MAX_RANK]>,
    samples: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    features: usize,
    values: usize,
}

impl Extents {
    /// With `groups`, keys and values have that number of heads instead of the queries'.
    fn new(op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor, groups: Option<usize>) -> Result<Extents> {
        for tensor in [q, k, v] {
            if tensor.rank() < 2 {
                return Err(Error::shape(op, "[…, L, E]", tensor.shape()));
            }
        }
        let last = |t: &Tensor| (t.dims()[t.rank() - 2], t.dims()[t.rank() - 1]);
        let ((queries, features), (keys, key_features), (rows, values)) = (last(q), last(k), last(v));
        if features != key_features {
            return Err(Error::shape(op, format!("keys of {features} features, as the queries have"), k.shape()));
        }
        if keys != rows {
            return Err(Error::shape(op, format!("{keys} values, one for each key"), v.shape()));
        }
        let leading = |t: &Tensor, heads: Option<usize>| {
            let mut dims: SmallVec<[usize; MAX_RANK]> = SmallVec::from_slice(&t.dims()[..t.rank() - 2]);
            if let (Some(heads), Some(last)) = (heads, dims.last_mut()) {
                *last = heads;
            }
            Shape::new(&dims)
        };
        let heads = groups.and(q.dims().iter().rev().nth(2).copied());
        let shape = Shape::broadcast(op, &leading(q, None)?, &leading(k, heads)?)?;
        let batch: SmallVec<[usize; MAX_RANK]> =
            SmallVec::from_slice(&Shape::broadcast(op, &shape, &leading(v, heads)?)?);
        let (heads, samples) = batch.split_last().map_or((1, 1), |(heads, rest)| (*heads, rest.iter().product()));
        Ok(Extents { batch, samples, heads, queries, keys, features, values })
    }

    /// An operand with this number of heads as `[samples, heads, rows, …]`; broadcast dimensions are views where possible.
    fn four(&self, t: &Tensor, heads: usize, rows: usize) -> Result<Tensor> {
        let last = t.dims()[t.rank() - 1];
        let mut dims = self.batch.clone();
        if let Some(dim) = dims.last_mut() {
            *dim = heads;
        }
        dims.extend([rows, last]);
        t.expand(&dims.iter().map(|&n| n as i64).collect::<SmallVec<[i64; MAX_RANK]>>()[..])?.reshape([
            self.samples,
            heads,
            rows,
            last,
        ])
    }

    /// The mask with four dimensions that broadcast to `[samples, heads, queries, keys]`. It is not expanded, so a mask
    /// over queries and keys alone stays small.
    fn mask(&self, op: &'static str, q: &Tensor, mask: &Tensor) -> Result<Tensor> {
        check::same_device(op, q, &[mask])?;
        if mask.dtype() != DType::Bool {
            check::same_kind(op, q, &[mask])?;
        }
        let mut whole = self.batch.clone();
        whole.extend([self.queries, self.keys]);
        let whole = Shape::new(&whole)?;
        if Shape::broadcast(op, &whole, mask.shape()).ok() != Some(whole) {
            return Err(Error::shape(op, format!("a mask that broadcasts to {whole}"), mask.shape()));
        }
        let mut dims: SmallVec<[usize; MAX_RANK]> = smallvec![1; whole.rank().max(4) - mask.rank()];
        dims.extend(mask.dims().iter().copied());
        let mask = mask.reshape(&dims[..])?;
        if dims.len() == 4 {
            return Ok(mask);
        }
        // Leading dimensions can only be merged if none of them is broadcast.
        let (rows, columns) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        let mut leading: SmallVec<[i64; MAX_RANK]> = self.batch.iter().map(|&n| n as i64).collect();
        leading.extend([rows as i64, columns as i64]);
        mask.expand(&leading[..])?.reshape([self.samples, self.heads, rows, columns])
    }
}

/// A block of the scores: samples, heads, queries, and the keys that these attend to.
#[derive(Clone, Debug)]
struct Block {
    samples: Range<usize>,
    heads: Range<usize>,
    queries: Range<usize>,
    keys: usize,
}

impl Block {
    fn rows(&self, t: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        t.narrow(0, self.samples.start, self.samples.len())?.narrow(1, self.heads.start, self.heads.len())?.narrow(
            2,
            rows.start,
            rows.len(),
        )
    }

    fn queries_of(&self, t: &Tensor) -> Result<Tensor> {
        self.rows(t, self.queries.clone())
    }

    fn keys_of(&self, t: &Tensor) -> Result<Tensor> {
        self.rows(t, 0..self.keys)
    }
}

#[derive(Clone, Debug)]
struct Plan {
    extents: Extents,
    is_causal: bool,
    dropout: f64,
    scale: f64,
}

impl Plan {
    /// Computes attention by operations on whole tensors.
    fn plain(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let Extents { queries, keys, .. } = self.extents;
        let dtype = q.dtype();
        let (q, k, v) = (&computed(q)?, &computed(k)?, &computed(v)?);
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

    /// The blocks, in order, each of at most `budget` scores, or of one row.
    fn blocks(&self, budget: usize) -> Vec<Block> {
        let Extents { samples, heads, queries, keys, .. } = self.extents;
        let parts = |n: usize, each: usize| {
            let at_once = (budget / each.max(1)).clamp(1, n.max(1));
            (0..n).step_by(at_once).map(move |i| i..(i + at_once).min(n)).collect::<Vec<_>>()
        };
        // Causal rows are cut more finely, since a block computes all keys up to its last row.
        let longest = if self.is_causal { queries.div_ceil(4).max(64) } else { queries };
        let rows = (budget / keys.max(1)).clamp(1, longest.max(1));
        let mut blocks = Vec::new();
        for samples in parts(samples, heads * queries.min(rows) * keys) {
            for heads in parts(heads, queries.min(rows) * keys) {
                for start in (0..queries).step_by(rows) {
                    let end = (start + rows).min(queries);
                    let keys = if self.is_causal { end.min(keys) } else { keys };
                    let samples = samples.clone();
                    blocks.push(Block { samples, heads: heads.clone(), queries: start..end, keys });
                }
            }
        }
        blocks
    }

    /// Computes attention by the device's kernel, with a single node on the tape.
    fn fused(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<Tensor>) -> Result<Tensor> {
        let Extents { samples, heads, queries, keys, values, .. } = self.extents;
        let whole = Block {
            samples: 0..samples,
            heads: 0..heads,
            queries: 0..queries,
            keys: if self.is_causal { keys.min(queries) } else { keys },
        };
        let draws = self.draws(&whole);
        let kernel = Kernel { plan: self.clone(), draws };
        let out = Tensor::empty([samples, heads, queries, values], q.options())?;
        let log_sum = Tensor::empty([samples, heads, queries], (q.dtype().accumulator(), q.device()))?;
        kernel.forward([q, k, v], mask.as_ref(), &out, &log_sum)?;
        let mut saved: SmallVec<[&Tensor; 6]> = smallvec![q, k, v, &out, &log_sum];
        saved.extend(mask.as_ref());
        let is_masked = mask.is_some();
        record(out.clone(), "ScaledDotProductFlashAttentionForCpuBackward0", &[q, k, v], &saved, move |ctx| {
            let [q, k, v] = [ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?];
            let mask = if is_masked { Some(ctx.constant(5)?) } else { None };
            if ctx.create_graph {
                let mask = mask.as_ref().map(Mask::new).transpose()?;
                let (blocks, draws) = ([whole.clone()], [draws]);
                return ctx.composed(&[q, k, v], |inputs| {
                    let repeated = |t: &Tensor| match t.dims()[1] {
                        groups if groups == heads => Ok(t.clone()),
                        groups => t.repeat_interleave(heads / groups, 1),
                    };
                    let (k, v) = (repeated(&inputs[1])?, repeated(&inputs[2])?);
                    kernel.plan.forward([&inputs[0], &k, &v], mask.as_ref(), (&blocks, &draws))
                });
            }
            let [dq, dk, dv] = kernel.gradients([&q, &k, &v], mask.as_ref(), ctx)?;
            Ok(smallvec![Some(dq), Some(dk), Some(dv)])
        })
    }

    /// Computes attention block by block, with a single node on the tape.
    fn blocked(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<Tensor>, blocks: Vec<Block>) -> Result<Tensor> {
        let masked = mask.as_ref().map(Mask::new).transpose()?;
        let draws: Vec<Option<RandomState>> = blocks.iter().map(|block| self.draws(block)).collect();
        let out = no_grad(|| self.forward([q, k, v], masked.as_ref(), (&blocks, &draws)))?;
        let plan = self.clone();
        let mut saved: SmallVec<[&Tensor; 4]> = smallvec![q, k, v];
        saved.extend(mask.as_ref());
        let is_masked = mask.is_some();
        record(out, "ScaledDotProductFlashAttentionForCpuBackward0", &[q, k, v], &saved, move |ctx| {
            let (q, k, v) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?);
            let mask = if is_masked { Some(Mask::new(&ctx.constant(3)?)?) } else { None };
            if ctx.create_graph {
                return ctx.composed(&[q, k, v], |inputs| {
                    plan.forward([&inputs[0], &inputs[1], &inputs[2]], mask.as_ref(), (&blocks, &draws))
                });
            }
            let [dq, dk, dv] = plan.gradients([&q, &k, &v], mask.as_ref(), &ctx.grad()?, (&blocks, &draws))?;
            Ok(smallvec![Some(dq), Some(dk), Some(dv)])
        })
    }

    fn forward(
        &self,
        [q, k, v]: [&Tensor; 3],
        mask: Option<&Mask>,
        (blocks, draws): (&[Block], &[Option<RandomState>]),
    ) -> Result<Tensor> {
        let Extents { samples, heads, queries, values, .. } = self.extents;
        let out = Tensor::empty([samples, heads, queries, values], q.options())?;
        for (block, draws) in blocks.iter().zip(draws) {
            let weights = self.weights(block, &self.scaled(&block.queries_of(q)?)?, k, mask)?;
            let weights = self.thinned(&weights, *draws)?;
            block.queries_of(&out)?.copy_(&weights.matmul(&computed(&block.keys_of(v)?)?)?)?;
        }
        mask.map_or(Ok(out.clone()), |mask| mask.revived(&out))
    }

    fn draws(&self, block: &Block) -> Option<RandomState> {
        let elements = block.samples.len() * block.heads.len() * block.queries.len() * block.keys;
        (self.dropout > 0.0 && self.dropout < 1.0).then(|| creation::take(elements, 1))
    }

    fn scaled(&self, q: &Tensor) -> Result<Tensor> {
        computed(q)?.mul(self.scale)
    }

    /// The softmax weights of a block.
    fn weights(&self, block: &Block, scaled_q: &Tensor, k: &Tensor, mask: Option<&Mask>) -> Result<Tensor> {
        let scores = scaled_q.matmul(&computed(&block.keys_of(k)?)?.transpose(-2, -1)?)?;
        if self.is_causal {
            // The square on the diagonal; all keys to its left take part.
            let (first, rows) = (block.queries.start, block.queries.len());
            if first < block.keys {
                let columns = block.keys - first;
                let above = Tensor::ones([rows, columns], (DType::Bool, scores.device()))?.triu(1)?;
                scores.narrow(-1, first, columns)?.masked_fill_(&above, f64::NEG_INFINITY)?;
            }
        }
        if let Some(mask) = mask {
            mask.apply(block, &scores)?;
        }
        scores.softmax(-1)
    }

    fn thinned(&self, weights: &Tensor, draws: Option<RandomState>) -> Result<Tensor> {
        match draws {
            Some(state) => weights.dropped_again(self.dropout, state),
            None if self.dropout == 1.0 => weights.mul(0),
            None => Ok(weights.clone()),
        }
    }

    fn gradients(
        &self,
        [q, k, v]: [&Tensor; 3],
        mask: Option<&Mask>,
        grad: &Tensor,
        (blocks, draws): (&[Block], &[Option<RandomState>]),
    ) -> Result<[Tensor; 3]> {
        // Sums over blocks are rounded once, at the end.
        let wide = |t: &Tensor| Tensor::zeros(*t.shape(), (t.dtype().accumulator(), t.device()));
        let (dq, dk, dv) = (q.empty_like()?, wide(k)?, wide(v)?);
        let grad = mask.map_or(Ok(grad.clone()), |mask| mask.revived(grad))?;
        for (block, draws) in blocks.iter().zip(draws) {
            let scaled_q = self.scaled(&block.queries_of(q)?)?;
            let grad = computed(&block.queries_of(&grad)?)?;
            let weights = self.weights(block, &scaled_q, k, mask)?;
            let add = |sum: &Tensor, part: Tensor| block.keys_of(sum)?.add_(&part.to_dtype(sum.dtype())?);
            add(&dv, self.thinned(&weights, *draws)?.transpose(-2, -1)?.matmul(&grad)?)?;
            let dw = grad.matmul(&computed(&block.keys_of(v)?)?.transpose(-2, -1)?)?;
            let ds = weights.softmax_grad(&self.thinned(&dw, *draws)?, 3, false)?;
            add(&dk, ds.transpose(-2, -1)?.matmul(&scaled_q)?)?;
            block.queries_of(&dq)?.copy_(&ds.matmul(&computed(&block.keys_of(k)?)?)?.mul(self.scale)?)?;
        }
        Ok([dq, dk.to_dtype(k.dtype())?, dv.to_dtype(v.dtype())?])
    }
}

/// Attention as the device's kernel computes it.
struct Kernel {
    plan: Plan,
    draws: Option<RandomState>,
}

impl Kernel {
    /// The mask as the kernel reads it: broadcast dimensions are views.
    fn mask(&self, mask: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Extents { samples, heads, queries, keys, .. } = self.plan.extents;
        let dims = [samples, heads, queries, keys].map(|n| n as i64);
        no_grad(|| mask.map(|mask| mask.expand(&dims[..])).transpose())
    }

    fn rule<'a>(&self, mask: Option<&'a Reading<'_>>) -> AttentionRule<'a> {
        AttentionRule {
            scale: self.plan.scale,
            is_causal: self.plan.is_causal,
            mask: mask.map(Reading::view),
            dropout: self.draws.map(|state| AttentionDropout { p: self.plan.dropout, state }),
        }
    }

    fn forward(&self, qkv: [&Tensor; 3], mask: Option<&Tensor>, out: &Tensor, log_sum: &Tensor) -> Result<()> {
        let mask = self.mask(mask)?;
        let mask = mask.as_ref().map(Tensor::read);
        let (qkv, mut to, mut sums) = (qkv.map(Tensor::read), writing(out), writing(log_sum));
        let [query, key, value] = qkv.each_ref().map(Reading::view);
        let rule = self.rule(mask.as_ref());
        let args = AttentionArgs { query, key, value, rule, out: to.view(), log_sum: sums.view() };
        out.device().backend()?.attention(args.checked()?)
    }

    fn gradients(&self, qkv: [&Tensor; 3], mask: Option<&Tensor>, ctx: &Ctx<'_>) -> Result<[Tensor; 3]> {
        let mask = self.mask(mask)?;
        let (grad, out, log_sum) = (ctx.grad()?, ctx.saved(3)?, ctx.constant(4)?);
        let [dq, dk, dv] = qkv.map(|t| Tensor::empty(*t.shape(), t.options()));
        let (dq, dk, dv) = (dq?, dk?, dv?);
        {
            let mask = mask.as_ref().map(Tensor::read);
            let (qkv, read) = (qkv.map(Tensor::read), [&grad, &out, &log_sum].map(Tensor::read));
            let ([query, key, value], [grad, out, log_sum]) =
                (qkv.each_ref().map(Reading::view), read.each_ref().map(Reading::view));
            let mut written = [&dq, &dk, &dv].map(writing);
            let [query_grad, key_grad, value_grad] = written.each_mut().map(Writing::view);
            let rule = self.rule(mask.as_ref());
            let args =
                AttentionGradArgs { grad, query, key, value, rule, out, log_sum, query_grad, key_grad, value_grad };
            dq.device().backend()?.attention_grad(args.checked()?)?;
        }
        Ok([dq, dk, dv])
    }
}

/// The operand in the type to compute in: half precision in `f32` on the CPU, but unchanged for a GPU's tensor cores.
fn computed(t: &Tensor) -> Result<Tensor> {
    if t.device() == Device::Cpu { t.widened() } else { Ok(t.clone()) }
}

/// A mask, and the queries for which no key takes part ("dead"). Dimensions may be 1 and broadcast.
struct Mask {
    /// `true` where a key does not take part, or the numbers to add to the scores. For dead queries all keys take part:
    /// their outputs are zeroed afterwards.
    values: Tensor,
    /// `[…, queries, 1]`.
    dead: Tensor,
}

impl Mask {
    fn new(mask: &Tensor) -> Result<Mask> {
        no_grad(|| {
            let blocked = if mask.dtype() == DType::Bool { mask.logical_not()? } else { mask.eq(f64::NEG_INFINITY)? };
            let dead = blocked.all_keepdim(-1)?;
            let values = if mask.dtype() == DType::Bool { blocked } else { mask.clone() };
            Ok(Mask { values: values.masked_fill(&dead, 0)?, dead })
        })
    }

    fn apply(&self, block: &Block, scores: &Tensor) -> Result<()> {
        let mut values = self.values.clone();
        for (dim, range) in [&block.samples, &block.heads, &block.queries].into_iter().enumerate() {
            if values.dims()[dim] > 1 {
                values = values.narrow(dim, range.start, range.len())?;
            }
        }
        if values.dtype() == DType::Bool {
            scores.masked_fill_(&values, f64::NEG_INFINITY)
        } else {
            scores.add_(&values.to_dtype(scores.dtype())?)
        }
    }

    /// Zeroes the outputs or gradients of dead queries.
    fn revived(&self, t: &Tensor) -> Result<Tensor> {
        t.masked_fill(&self.dead, 0)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
