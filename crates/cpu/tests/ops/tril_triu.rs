//! Tests of `tril_triu`.

use kiln_backend::{Arguments, DType, TrilTriuArgs, TrilTriuBackend};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, layouts, numbers, read_layouts};

#[test]
fn keeps_one_side_of_the_diagonal() {
    for dims in [&[4usize, 6][..], &[2, 5, 3], &[3, 1300], &[0, 3], &[2, 0]] {
        let &[.., rows, columns] = dims else { continue };
        for (dtype, diagonal) in
            [(DType::F32, 0), (DType::F16, 1), (DType::I64, -2), (DType::Bool, i64::MAX), (DType::U8, i64::MIN)]
        {
            for from in read_layouts(dims) {
                let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 1));
                for (upper, to) in [(false, layouts(dims)[0]), (true, layouts(dims)[1])] {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                    CpuBackend
                        .tril_triu(
                            TrilTriuArgs { upper, diagonal, x: x.view(), out: out.view_mut() }.checked().unwrap(),
                        )
                        .unwrap();
                    let keep = |i: usize| {
                        let (row, column) = (i / columns % rows, i % columns);
                        let distance = column as i128 - row as i128;
                        if upper { distance >= i128::from(diagonal) } else { distance <= i128::from(diagonal) }
                    };
                    let want: Vec<f64> =
                        x.values().iter().enumerate().map(|(i, &v)| if keep(i) { v } else { 0.0 }).collect();
                    assert_eq!(out.values(), want);
                }
            }
        }
    }
}
