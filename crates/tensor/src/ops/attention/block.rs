//! A block of the score matrix, and the parts of tensors that belong to it.

use std::ops::Range;

use kiln_backend::Result;

use crate::tensor::Tensor;

/// A block of the scores: samples, heads, queries, and the keys that these attend to.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub samples: Range<usize>,
    pub heads: Range<usize>,
    pub queries: Range<usize>,
    pub keys: usize,
}

impl Block {
    pub(super) fn rows(&self, t: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        t.narrow(0, self.samples.start, self.samples.len())?.narrow(1, self.heads.start, self.heads.len())?.narrow(
            2,
            rows.start,
            rows.len(),
        )
    }

    pub(super) fn queries_of(&self, t: &Tensor) -> Result<Tensor> {
        self.rows(t, self.queries.clone())
    }

    pub(super) fn keys_of(&self, t: &Tensor) -> Result<Tensor> {
        self.rows(t, 0..self.keys)
    }
}
