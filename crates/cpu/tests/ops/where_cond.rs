//! Tests of `where_cond`.

use kiln_backend::{Arguments, DType, Operand, Scalar, WhereCondArgs, WhereCondBackend};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, layouts, numbers, read_layouts};

#[test]
fn chooses_in_every_layout_and_dtype() {
    for dtype in DType::ALL {
        for dims in SHAPES {
            let all = read_layouts(dims);
            for (i, &layout) in all.iter().enumerate() {
                let other = all[(i + 1) % all.len()];
                let pick: Vec<f64> = numbers(layout.numel(), 3).iter().map(|v| f64::from(u8::from(*v > 0.0))).collect();
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
