//! Tests of `arg_reduce`.

use kiln_backend::{ArgReduceArgs, ArgReduceBackend, ArgReduceOp, Arguments, DType};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, layouts, numbers, read_layouts};

fn check(dtype: DType, x: &Tensor, dim: usize) {
    let mut dims = x.layout.dims().to_vec();
    dims[dim] = 1;
    let (n, inner) = (x.layout.dims()[dim], x.layout.dims()[dim + 1..].iter().product::<usize>());
    for (op, sign) in [(ArgReduceOp::Max, 1.0), (ArgReduceOp::Min, -1.0)] {
        for to in layouts(&dims) {
            let mut values = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
            let mut indices = Tensor::with_layout(DType::I64, to, &vec![77.0; to.numel()]);
            CpuBackend
                .arg_reduce(
                    ArgReduceArgs {
                        op,
                        x: x.view(),
                        dim,
                        values: Some(values.view_mut()),
                        indices: indices.view_mut(),
                    }
                    .checked()
                    .unwrap(),
                )
                .unwrap();
            let (all, values, indices) = (x.values(), values.values(), indices.values());
            for line in 0..to.numel() {
                let element = |i: usize| all[(line / inner * n + i) * inner + line % inner];
                let rank = |v: f64| if v.is_nan() { f64::INFINITY } else { v * sign };
                let best = (0..n).fold(0, |b, i| if rank(element(i)) > rank(element(b)) { i } else { b });
                assert_eq!(indices[line], best as f64, "{op:?} {dtype} {:?} dim {dim}", x.layout);
                assert_eq!(values[line].to_bits(), element(best).to_bits());
            }
        }
    }
}

#[test]
fn every_layout_and_dtype() {
    for dtype in DType::ALL {
        for dims in [&[5usize][..], &[3, 4], &[2, 5, 30], &[1300], &[2, 1300], &[3, 600], &[0, 3]] {
            for dim in (0..dims.len()).filter(|&dim| dims[dim] > 0) {
                for from in read_layouts(dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }) {
                    check(dtype, &Tensor::with_layout(dtype, from, &numbers(from.numel(), 4)), dim);
                }
            }
        }
    }
}

#[test]
fn not_a_number_is_found() {
    let nan = f64::NAN;
    for dims in [&[4usize, 2][..], &[2, 4]] {
        let x = Tensor::new(DType::F32, dims, &[1.0, nan, nan, 2.0, 3.0, nan, -5.0, 0.0]);
        check(DType::F32, &x, 0);
        check(DType::F32, &x, 1);
    }
}

#[test]
fn a_scalar_is_its_own_extreme() {
    let (x, mut out) = (Tensor::new(DType::F32, &[], &[4.0]), Tensor::empty(DType::I64, &[]));
    CpuBackend
        .arg_reduce(
            ArgReduceArgs { op: ArgReduceOp::Max, x: x.view(), dim: 0, values: None, indices: out.view_mut() }
                .checked()
                .unwrap(),
        )
        .unwrap();
    assert_eq!(out.values(), [0.0]);
}
