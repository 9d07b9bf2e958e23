//! The cache key of attention: everything that the choice of a plan depends on.

use kiln_backend::DType;

/// Which pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The result and the logarithms of the sums of each query.
    Forward,
    /// The gradients of queries, keys and values.
    Backward,
}

/// Strides of a tensor `[N, heads, rows, features]` in elements. The last is 1.
pub type Strides = [usize; 4];

/// Everything that the choice of a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The computation.
    pub pass: Pass,
    /// The dtype of all operands.
    pub dtype: DType,
    /// Whether query `i` only attends to keys up to `i`.
    pub is_causal: bool,
    /// The number of samples.
    pub samples: usize,
    /// The number of heads of queries.
    pub heads: usize,
    /// The number of heads of keys and values, each of which serves as many heads of queries.
    pub groups: usize,
    /// The number of queries.
    pub queries: usize,
    /// The number of keys.
    pub keys: usize,
    /// The extent of queries and keys.
    pub features: usize,
    /// The extent of values.
    pub values: usize,
    /// How queries, keys, values lie in memory, and backward the result and its gradient. All else is dense.
    pub strides: [Strides; 5],
}

/// Strides of a dense tensor.
#[must_use]
pub fn dense([_, heads, rows, features]: [usize; 4]) -> Strides {
    [heads * rows * features, rows * features, features, 1]
}

impl Problem {
    /// The extents of queries, keys, values and results.
    #[must_use]
    pub fn dims(&self) -> [[usize; 4]; 4] {
        let Problem { samples, heads, groups, queries, keys, features, values, .. } = *self;
        [
            [samples, heads, queries, features],
            [samples, groups, keys, features],
            [samples, groups, keys, values],
            [samples, heads, queries, values],
        ]
    }

    /// A problem of dense operands.
    #[must_use]
    pub fn with_dense_operands(self) -> Problem {
        let [q, k, v, out] = self.dims().map(dense);
        Problem { strides: [q, k, v, out, out], ..self }
    }
}
