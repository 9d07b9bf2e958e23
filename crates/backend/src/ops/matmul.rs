//! Matrix products and batched matrix products.

use crate::{
    contract::{Arguments, Checked, has_dtype},
    dtype::DType,
    error::{Error, Result},
    layout::Layout,
    view::{View, ViewMut},
};

/// A batch of products `out = a · b` of matrices: `a` is `M` by `K`, `b` `K` by `N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulPlan {
    /// The number of leading dimensions that form the batch.
    pub batch_dims: usize,
    /// Rows of `a` and `out`.
    pub m: usize,
    /// Columns of `b` and `out`.
    pub n: usize,
    /// Columns of `a` and rows of `b`, over which products are summed.
    pub k: usize,
    /// Strides of `a`: from row to row, from column to column.
    pub a: [isize; 2],
    /// Strides of `b`.
    pub b: [isize; 2],
    /// Strides of `out`.
    pub out: [isize; 2],
}

impl MatmulPlan {
    /// One product for each position in the leading dimensions of layouts that fit together (`check_matmul`).
    #[must_use]
    pub fn new(a: &Layout, b: &Layout, out: &Layout) -> MatmulPlan {
        // The last dimension, or the one before it.
        let extent = |layout: &Layout, from_end: usize| layout.dims().iter().rev().nth(from_end).map_or(1, |&n| n);
        let stride = |layout: &Layout, from_end: usize| layout.strides().iter().rev().nth(from_end).map_or(0, |&s| s);
        let strides = |layout: &Layout| [stride(layout, 1), stride(layout, 0)];
        MatmulPlan {
            batch_dims: out.rank().saturating_sub(2),
            m: extent(a, 1),
            n: extent(b, 0),
            k: extent(a, 0),
            a: strides(a),
            b: strides(b),
            out: strides(out),
        }
    }

    /// The same products as fewer, larger ones. Where the matrices of a batch dimension share `b`, and the rows of `a`
    /// and `out` are evenly spaced across it, they become one product of all their rows.
    #[must_use]
    pub fn folded(mut self, a: &Layout, b: &Layout, out: &Layout) -> MatmulPlan {
        while let Some(last) = self.batch_dims.checked_sub(1) {
            let (count, step) = (out.dims()[last], |layout: &Layout| layout.strides()[last]);
            if count != 1 {
                if step(b) != 0 {
                    break;
                }
                if self.m == 1 {
                    (self.a[0], self.out[0]) = (step(a), step(out));
                } else if step(a) != self.a[0] * self.m as isize || step(out) != self.out[0] * self.m as isize {
                    break;
                }
                self.m *= count;
            }
            self.batch_dims = last;
        }
        self
    }
}

/// Checks that shapes are `[…, M, K]`, `[…, K, N]` and `[…, M, N]` with the same leading extents.
///
/// # Errors
/// If they are not.
pub(super) fn check_matmul(op: &'static str, a: &Layout, b: &Layout, out: &Layout) -> Result<()> {
    let Some(lead) = out.rank().checked_sub(2) else {
        return Err(Error::shape(op, "matrices", out.shape()));
    };
    let fits = a.rank() == out.rank()
        && b.rank() == out.rank()
        && a.dims()[..lead] == out.dims()[..lead]
        && b.dims()[..lead] == out.dims()[..lead]
        && a.dims()[lead + 1] == b.dims()[lead]
        && out.dims()[lead..] == [a.dims()[lead], b.dims()[lead + 1]];
    if fits { Ok(()) } else { Err(Error::shapes(op, a.shape(), b.shape(), "they must be […, M, K] and […, K, N]")) }
}

/// Arguments of [`matmul`](MatmulBackend::matmul).
#[derive(Debug)]
pub struct MatmulArgs<'a> {
    /// The first matrices, `[…, M, K]`.
    pub a: View<'a>,
    /// The second matrices, `[…, K, N]`.
    pub b: View<'a>,
    /// The products, `[…, M, N]`.
    pub out: ViewMut<'a>,
}

impl Arguments for MatmulArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "matmul";
        let MatmulArgs { a, b, out } = self;
        if out.dtype() == DType::Bool {
            return Err(Error::dtype(OP, DType::Bool, "truth values cannot be multiplied"));
        }
        has_dtype(OP, out.dtype(), a.dtype())?;
        has_dtype(OP, out.dtype(), b.dtype())?;
        check_matmul(OP, a.layout, b.layout, out.layout)
    }
}

/// Matrix products.
pub trait MatmulBackend {
    /// `out = a · b` over the last two dimensions. The leading ones (as many in each operand; `a` and `b` broadcast by
    /// strides) are a batch. Floats accumulate in at least `f32`; integers wrap.
    fn matmul(&self, args: Checked<MatmulArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        shape::Shape,
        testing::{Memory, layout},
    };

    fn expanded(dims: &[usize], to: &[usize]) -> Layout {
        layout(dims).expand("t", &Shape::new(to).unwrap()).unwrap()
    }

    #[test]
    fn batches_that_share_a_matrix_are_one_product() {
        let (a, out) = (layout(&[5, 2, 3, 4]), layout(&[5, 2, 3, 6]));
        let shared = expanded(&[1, 1, 4, 6], &[5, 2, 4, 6]);
        let plan = MatmulPlan::new(&a, &shared, &out);
        assert_eq!((plan.batch_dims, plan.m, plan.n, plan.k), (2, 3, 6, 4));
        let folded = plan.folded(&a, &shared, &out);
        assert_eq!((folded.batch_dims, folded.m, folded.a, folded.out), (0, 30, [4, 1], [6, 1]));
        // A matrix for each of the five: their rows cannot be merged.
        let own = expanded(&[5, 1, 4, 6], &[5, 2, 4, 6]);
        assert_eq!(plan.folded(&a, &own, &out).batch_dims, 1);
        // A batch of vectors becomes a matrix, whatever the distance between them.
        let vectors = Layout::strided(Shape::new(&[7, 1, 4]).unwrap(), &[100, 4, 1], 0).unwrap();
        let (weights, out) = (expanded(&[1, 4, 6], &[7, 4, 6]), layout(&[7, 1, 6]));
        let folded = MatmulPlan::new(&vectors, &weights, &out).folded(&vectors, &weights, &out);
        let MatmulPlan { batch_dims, m, n, k, a, out, .. } = folded;
        assert_eq!((batch_dims, [m, n, k], a, out), (0, [7, 6, 4], [100, 1], [6, 1]));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let check = |dtype, a: &[usize], b: &[usize], out: &[usize]| {
            let (memory, mut target, a, b, out) =
                (Memory(dtype), Memory(DType::F32), layout(a), layout(b), layout(out));
            MatmulArgs { a: memory.view(&a), b: memory.view(&b), out: target.view_mut(&out) }.check().is_ok()
        };
        let of = |a: &[usize], b: &[usize], out: &[usize]| check(DType::F32, a, b, out);
        assert!(of(&[2, 3], &[3, 2], &[2, 2]));
        assert!(!of(&[2, 3], &[4, 2], &[2, 2]));
        assert!(!of(&[2, 3], &[3, 2], &[3, 2]));
        assert!(!of(&[1, 2, 3], &[2, 3, 2], &[2, 2, 2]));
        assert!(!of(&[3], &[3], &[]));
        assert!(!check(DType::F64, &[2, 3], &[3, 2], &[2, 2]));
    }
}
