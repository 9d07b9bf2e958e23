//! Attention composed of operations on one block of the score matrix at a time.

use kiln_backend::{DType, RandomState, Result};
use smallvec::{SmallVec, smallvec};

use super::{Plan, block::Block, extents::Extents, mask::Mask};
use crate::{
    autograd::{no_grad, record},
    creation,
    tensor::Tensor,
};

impl Plan {
    /// The blocks, in order, each of at most `budget` scores, or of one row.
    pub(super) fn blocks(&self, budget: usize) -> Vec<Block> {
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

    /// Computes attention block by block, with a single node on the tape.
    pub(super) fn blocked(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: Option<Tensor>,
        blocks: Vec<Block>,
    ) -> Result<Tensor> {
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

    pub(super) fn forward(
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
            block.queries_of(&out)?.copy_(&weights.matmul(&block.keys_of(v)?.computed()?)?)?;
        }
        mask.map_or(Ok(out.clone()), |mask| mask.revived(&out))
    }

    fn scaled(&self, q: &Tensor) -> Result<Tensor> {
        q.computed()?.mul(self.scale)
    }

    /// The softmax weights of a block.
    fn weights(&self, block: &Block, scaled_q: &Tensor, k: &Tensor, mask: Option<&Mask>) -> Result<Tensor> {
        let scores = scaled_q.matmul(&block.keys_of(k)?.computed()?.transpose(-2, -1)?)?;
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

    pub(super) fn gradients(
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
            let grad = block.queries_of(&grad)?.computed()?;
            let weights = self.weights(block, &scaled_q, k, mask)?;
            let add = |sum: &Tensor, part: Tensor| block.keys_of(sum)?.add_(&part.to_dtype(sum.dtype())?);
            add(&dv, self.thinned(&weights, *draws)?.transpose(-2, -1)?.matmul(&grad)?)?;
            let dw = grad.matmul(&block.keys_of(v)?.computed()?.transpose(-2, -1)?)?;
            let ds = weights.softmax_grad(&self.thinned(&dw, *draws)?, 3, false)?;
            add(&dk, ds.transpose(-2, -1)?.matmul(&scaled_q)?)?;
            block.queries_of(&dq)?.copy_(&ds.matmul(&block.keys_of(k)?.computed()?)?.mul(self.scale)?)?;
        }
        Ok([dq, dk.to_dtype(k.dtype())?, dv.to_dtype(v.dtype())?])
    }

    pub(super) fn draws(&self, block: &Block) -> Option<RandomState> {
        let elements = block.samples.len() * block.heads.len() * block.queries.len() * block.keys;
        (self.dropout > 0.0 && self.dropout < 1.0).then(|| creation::take(elements, 1))
    }
}
