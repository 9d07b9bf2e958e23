//! Products of matrices, and of batches of them.

use crate::{Error, Layout, Result, View, ViewMut};

/// A batch of products `out = a · b` of matrices: `a` is `M` by `K`, `b` `K` by `N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulPlan {
    /// The batch: the first so many dimensions of the operands.
    pub batch_dims: usize,
    /// Rows of a product.
    pub m: usize,
    /// Columns of a product.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Strides of `a`: from row to row, from column to column.
    pub a: [isize; 2],
    /// Strides of `b`.
    pub b: [isize; 2],
    /// Strides of `out`.
    pub out: [isize; 2],
}

impl MatmulPlan {
    /// A product for each position of the leading dimensions.
    ///
    /// # Errors
    /// The shapes are not `[…, M, K]`, `[…, K, N]` and `[…, M, N]` with the same leading extents.
    pub fn new(op: &'static str, a: &Layout, b: &Layout, out: &Layout) -> Result<MatmulPlan> {
        let Some(lead) = out.rank().checked_sub(2) else {
            return Err(Error::shape(op, "matrices", out.shape()));
        };
        let fits = a.rank() == out.rank()
            && b.rank() == out.rank()
            && a.dims()[..lead] == out.dims()[..lead]
            && b.dims()[..lead] == out.dims()[..lead]
            && a.dims()[lead + 1] == b.dims()[lead]
            && out.dims()[lead..] == [a.dims()[lead], b.dims()[lead + 1]];
        if !fits {
            return Err(Error::shapes(op, a.shape(), b.shape(), "they must be […, M, K] and […, K, N]"));
        }
        let strides = |layout: &Layout| [layout.strides()[lead], layout.strides()[lead + 1]];
        Ok(MatmulPlan {
            batch_dims: lead,
            m: a.dims()[lead],
            n: b.dims()[lead + 1],
            k: a.dims()[lead + 1],
            a: strides(a),
            b: strides(b),
            out: strides(out),
        })
    }

    /// The same products as fewer and larger ones: where matrices of the batch share `b`, and the rows of `a` and `out` go
    /// on at equal distances from one to the next, they are one product of all their rows.
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

/// Products of matrices.
pub trait MatmulBackend {
    /// `out = a · b` over the last two dimensions; the leading ones (as many in each, `a` and `b` broadcast
    /// by strides) are a batch. Floats accumulate in at least `f32`; integers wrap.
    fn matmul(&self, a: View, b: View, out: ViewMut) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    fn layout(dims: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(dims).unwrap())
    }

    fn expanded(dims: &[usize], to: &[usize]) -> Layout {
        layout(dims).expand("t", &Shape::new(to).unwrap()).unwrap()
    }

    #[test]
    fn batches_that_share_a_matrix_are_one_product() {
        let (a, out) = (layout(&[5, 2, 3, 4]), layout(&[5, 2, 3, 6]));
        let shared = expanded(&[1, 1, 4, 6], &[5, 2, 4, 6]);
        let plan = MatmulPlan::new("t", &a, &shared, &out).unwrap();
        assert_eq!((plan.batch_dims, plan.m, plan.n, plan.k), (2, 3, 6, 4));
        let folded = plan.folded(&a, &shared, &out);
        assert_eq!((folded.batch_dims, folded.m, folded.a, folded.out), (0, 30, [4, 1], [6, 1]));
        // A matrix for each of the five: their rows stay apart.
        let own = expanded(&[5, 1, 4, 6], &[5, 2, 4, 6]);
        assert_eq!(plan.folded(&a, &own, &out).batch_dims, 1);
        // Vectors in a batch become a matrix, whatever their distance.
        let vectors = Layout::strided(Shape::new(&[7, 1, 4]).unwrap(), &[100, 4, 1], 0).unwrap();
        let (weights, out) = (expanded(&[1, 4, 6], &[7, 4, 6]), layout(&[7, 1, 6]));
        let folded = MatmulPlan::new("t", &vectors, &weights, &out).unwrap().folded(&vectors, &weights, &out);
        let MatmulPlan { batch_dims, m, n, k, a, out, .. } = folded;
        assert_eq!((batch_dims, [m, n, k], a, out), (0, [7, 6, 4], [100, 1], [6, 1]));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let of = |a: &[usize], b: &[usize], out: &[usize]| MatmulPlan::new("t", &layout(a), &layout(b), &layout(out));
        assert!(of(&[2, 3], &[3, 2], &[2, 2]).is_ok());
        assert!(of(&[2, 3], &[4, 2], &[2, 2]).is_err());
        assert!(of(&[2, 3], &[3, 2], &[3, 2]).is_err());
        assert!(of(&[1, 2, 3], &[2, 3, 2], &[2, 2, 2]).is_err());
        assert!(of(&[3], &[3], &[]).is_err());
    }
}
