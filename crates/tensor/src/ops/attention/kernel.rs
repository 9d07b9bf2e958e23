//! Attention by the device's kernel.

use kiln_backend::{Arguments, AttentionArgs, AttentionDropout, AttentionGradArgs, AttentionRule, RandomState, Result};
use smallvec::{SmallVec, smallvec};

use super::{Plan, block::Block, block_elements, extents::Extents, mask::Mask};
use crate::{
    autograd::{Ctx, no_grad, record},
    device::Device,
    ops::images::writing,
    storage::{Reading, Writing},
    tensor::Tensor,
};

impl Plan {
    /// Computes attention by the device's kernel, with a single node on the tape; `None` if it has none for this.
    pub(super) fn fused(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<Tensor>) -> Result<Option<Tensor>> {
        let Extents { samples, heads, queries, keys, values, .. } = self.extents;
        let whole = Block {
            samples: 0..samples,
            heads: 0..heads,
            queries: 0..queries,
            keys: if self.is_causal { keys.min(queries) } else { keys },
        };
        let draws = self.draws(&whole);
        let kernel = Kernel { plan: self.clone(), whole, draws };
        let out = Tensor::empty([samples, heads, queries, values], q.options())?;
        let log_sum = Tensor::empty([samples, heads, queries], (q.dtype().accumulator(), q.device()))?;
        if !kernel.forward([q, k, v], mask.as_ref(), &out, &log_sum)? {
            return Ok(None);
        }
        let mut saved: SmallVec<[&Tensor; 6]> = smallvec![q, k, v, &out, &log_sum];
        saved.extend(mask.as_ref());
        let is_masked = mask.is_some();
        let name = "ScaledDotProductFlashAttentionForCpuBackward0";
        let recorded = record(out.clone(), name, &[q, k, v], &saved, move |ctx| {
            let [q, k, v] = [ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?];
            let mask = if is_masked { Some(ctx.constant(5)?) } else { None };
            if ctx.create_graph {
                let mask = mask.as_ref().map(Mask::new).transpose()?;
                let (blocks, draws) = kernel.blocks(q.device());
                return ctx.composed(&[q, k, v], |inputs| {
                    let (k, v) = (kernel.plan.with_all_heads(&inputs[1])?, kernel.plan.with_all_heads(&inputs[2])?);
                    kernel.plan.forward([&inputs[0], &k, &v], mask.as_ref(), (&blocks, &draws))
                });
            }
            let [dq, dk, dv] = match kernel.gradients([&q, &k, &v], mask.as_ref(), ctx)? {
                Some(grads) => grads,
                None => kernel.blocked_gradients([&q, &k, &v], mask.as_ref(), &ctx.grad()?)?,
            };
            Ok(smallvec![Some(dq), Some(dk), Some(dv)])
        });
        recorded.map(Some)
    }
}

/// Attention as the device's kernel computes it.
struct Kernel {
    plan: Plan,
    /// All scores, of which the dropped ones were drawn at once.
    whole: Block,
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

    /// The blocks of the same computation without the kernel.
    fn blocks(&self, device: Device) -> (Vec<Block>, Vec<Option<RandomState>>) {
        let blocks = match self.draws {
            Some(_) => vec![self.whole.clone()],
            None => self.plan.blocks(block_elements(device)),
        };
        let draws = vec![self.draws; blocks.len()];
        (blocks, draws)
    }

    /// The gradients without the kernel.
    fn blocked_gradients(&self, [q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, grad: &Tensor) -> Result<[Tensor; 3]> {
        let mask = mask.map(Mask::new).transpose()?;
        let (blocks, draws) = self.blocks(q.device());
        let (all_k, all_v) = (self.plan.with_all_heads(k)?, self.plan.with_all_heads(v)?);
        let [dq, dk, dv] = self.plan.gradients([q, &all_k, &all_v], mask.as_ref(), grad, (&blocks, &draws))?;
        // A head of keys has the gradients of all heads of queries that it serves.
        let shared = |grad: Tensor, of: &Tensor| match *of.dims() {
            [samples, groups, keys, features] if groups != grad.dims()[1] => {
                let heads = grad.dims()[1] / groups;
                grad.reshape([samples, groups, heads, keys, features])?.sum(2)
            }
            _ => Ok(grad),
        };
        Ok([dq, shared(dk, k)?, shared(dv, v)?])
    }

    /// Returns `false` if the device has no kernel for it.
    fn forward(&self, qkv: [&Tensor; 3], mask: Option<&Tensor>, out: &Tensor, log_sum: &Tensor) -> Result<bool> {
        let mask = self.mask(mask)?;
        let mask = mask.as_ref().map(Tensor::read);
        let (qkv, mut to, mut sums) = (qkv.map(Tensor::read), writing(out), writing(log_sum));
        let [query, key, value] = qkv.each_ref().map(Reading::view);
        let rule = self.rule(mask.as_ref());
        let args = AttentionArgs { query, key, value, rule, out: to.view(), log_sum: sums.view() };
        out.device().backend()?.attention(args.checked()?)
    }

    fn gradients(&self, qkv: [&Tensor; 3], mask: Option<&Tensor>, ctx: &Ctx<'_>) -> Result<Option<[Tensor; 3]>> {
        let mask = self.mask(mask)?;
        let (grad, out, log_sum) = (ctx.grad()?, ctx.saved(3)?, ctx.constant(4)?);
        let [dq, dk, dv] = qkv.map(|t| Tensor::empty(*t.shape(), t.options()));
        let (dq, dk, dv) = (dq?, dk?, dv?);
        let done = {
            let mask = mask.as_ref().map(Tensor::read);
            let (qkv, read) = (qkv.map(Tensor::read), [&grad, &out, &log_sum].map(Tensor::read));
            let ([query, key, value], [grad, out, log_sum]) =
                (qkv.each_ref().map(Reading::view), read.each_ref().map(Reading::view));
            let mut written = [&dq, &dk, &dv].map(writing);
            let [query_grad, key_grad, value_grad] = written.each_mut().map(Writing::view);
            let rule = self.rule(mask.as_ref());
            let args =
                AttentionGradArgs { grad, query, key, value, rule, out, log_sum, query_grad, key_grad, value_grad };
            dq.device().backend()?.attention_grad(args.checked()?)?
        };
        Ok(done.then_some([dq, dk, dv]))
    }
}
