//! Attention by the device's kernel.

use kiln_backend::{Arguments, AttentionArgs, AttentionDropout, AttentionGradArgs, AttentionRule, RandomState, Result};
use smallvec::{SmallVec, smallvec};

use super::{Plan, blocks::Block, extents::Extents, mask::Mask};
use crate::{
    autograd::{Ctx, no_grad, record},
    ops::images::writing,
    storage::{Reading, Writing},
    tensor::Tensor,
};

impl Plan {
    /// Computes attention by the device's kernel, with a single node on the tape.
    pub(super) fn fused(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<Tensor>) -> Result<Tensor> {
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
