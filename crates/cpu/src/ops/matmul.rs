//! `matmul`: from checked views to calls of the matrix product in [`gemm`](crate::gemm).

use kiln_backend::{Checked, Error, Layout, MatmulArgs, MatmulBackend, MatmulPlan, Result};

use crate::{
    device::CpuBackend,
    engine::iter::Walk,
    gemm::{Epilogue, Gemm, GemmElem, Matrix},
    memory::view::{Source, Target},
    numeric::{dispatch::for_number, stored::Stored},
};

const OP: &str = "matmul";

impl MatmulBackend for CpuBackend {
    fn matmul(&self, args: Checked<MatmulArgs>) -> Result<()> {
        for_number!(
            args.a.dtype(), T => batched::<T>(args.into_inner()),
            other => Err(Error::dtype(OP, other, "truth values cannot be multiplied"))
        )
    }
}

fn batched<T: Stored + GemmElem>(MatmulArgs { a, b, out }: MatmulArgs) -> Result<()> {
    let (a, b, out) = (Source::<T>::new(OP, a)?, Source::<T>::new(OP, b)?, Target::<T>::new(OP, out)?);
    let (la, lb, lo) = (a.layout(), b.layout(), out.layout());
    let plan = MatmulPlan::new(la, lb, lo).folded(la, lb, lo);
    let MatmulPlan { batch_dims, m, n, k, .. } = plan;
    let walk = |layout: &Layout| Walk::of((0..batch_dims).map(|d| (layout.dims()[d], layout.strides()[d])));
    let (walk_a, walk_b, walk_c) = (walk(la), walk(lb), walk(lo));
    let offsets = |i: usize| [walk_a.offset(i), walk_b.offset(i), walk_c.offset(i)];
    let product = Gemm {
        m,
        n,
        k,
        a: Matrix { start: a.ptr(), row_stride: plan.a[0], column_stride: plan.a[1] },
        b: Matrix { start: b.ptr(), row_stride: plan.b[0], column_stride: plan.b[1] },
        c: Matrix { start: out.ptr(), row_stride: plan.out[0], column_stride: plan.out[1] },
        accumulate: false,
        epilogue: Epilogue::None,
    };
    // SAFETY: the layouts were checked against the buffers and have the product's shapes, so every element that
    // the extents and strides describe is inside; the output's elements are distinct and exclusively borrowed.
    unsafe { product.run_batched(walk_c.len(), &offsets) };
    Ok(())
}
