//! `where_cond`: chooses between two operands by a condition.

use kiln_backend::{Checked, Result, WhereCondArgs, WhereCondBackend};

use crate::{
    device::CpuBackend,
    engine::{elementwise::map3, par::GRAIN, simd::multiversion},
    memory::view::{Input, Source, Target},
    numeric::{
        dispatch::for_all,
        stored::{Stored, Truth},
    },
};

impl WhereCondBackend for CpuBackend {
    fn where_cond(&self, args: Checked<WhereCondArgs>) -> Result<()> {
        const OP: &str = "where";
        let WhereCondArgs { condition, a, b, out } = args.into_inner();
        for_all!(out.buffer.dtype(), T => {
            let condition = Input::Tensor(Source::<Truth>::new(OP, condition)?);
            let (a, b) = (Input::<T>::rounded(OP, a)?, Input::<T>::rounded(OP, b)?);
            map3(GRAIN, &condition, &a, &b, &mut Target::<T>::new(OP, out)?, choose::<<T as Stored>::Compute>);
            Ok(())
        })
    }
}

multiversion! {
    fn choose[C: Copy](condition: &[u8], a: &[C], b: &[C], out: &mut [C]) {
        for (((&condition, &a), &b), out) in condition.iter().zip(a).zip(b).zip(out) {
            // A branch would be mispredicted half of the time on random conditions.
            *out = std::hint::select_unpredictable(condition != 0, a, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::{Arguments, DType, Operand, Scalar};

    use super::*;
    use crate::testing::{SHAPES, Tensor, layouts, numbers, read_layouts};

    #[test]
    fn chooses_in_every_layout_and_dtype() {
        for dtype in DType::ALL {
            for dims in SHAPES {
                let all = read_layouts(dims);
                for (i, &layout) in all.iter().enumerate() {
                    let other = all[(i + 1) % all.len()];
                    let pick: Vec<f64> =
                        numbers(layout.numel(), 3).iter().map(|v| f64::from(u8::from(*v > 0.0))).collect();
                    let condition = Tensor::with_layout(DType::Bool, layout, &pick);
                    let a = Tensor::with_layout(dtype, other, &numbers(layout.numel(), 1));
                    let want = |b: f64| {
                        let pairs = condition.values().into_iter().zip(a.values());
                        pairs.map(|(c, a)| if c != 0.0 { a } else { b }).collect::<Vec<f64>>()
                    };
                    for to in layouts(dims) {
                        let mut out = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                        let b = Operand::Scalar(Scalar::Int(1));
                        CpuBackend
                            .where_cond(
                                WhereCondArgs { condition: condition.view(), a: a.operand(), b, out: out.view_mut() }
                                    .checked()
                                    .unwrap(),
                            )
                            .unwrap();
                        assert_eq!(out.values(), want(1.0));
                    }
                }
            }
        }
    }
}
