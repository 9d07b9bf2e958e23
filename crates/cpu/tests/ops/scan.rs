//! Tests of `scan`.

use kiln_backend::{Arguments, CumExtreme, CumExtremeArgs, CumsumArgs, DType, ScanBackend};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, assert_close, layouts, numbers, read_layouts};

#[test]
fn every_layout_and_dtype() {
    for dtype in DType::ALL {
        for dims in SHAPES.iter().copied().chain([&[7usize, 40][..]]) {
            for dim in 0..dims.len().max(1) {
                let n = dims.get(dim).copied().unwrap_or(1);
                let inner: usize = dims.iter().skip(dim + 1).product();
                for from in read_layouts(dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }) {
                    let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 6));
                    let mut want = x.values();
                    for i in 0..want.len() {
                        if !(i / inner).is_multiple_of(n) {
                            want[i] += want[i - inner];
                        }
                    }
                    let to_dtype = if dtype.is_float() { dtype } else { DType::I64 };
                    for to in layouts(dims) {
                        let mut out = Tensor::with_layout(to_dtype, to, &vec![1.0; to.numel()]);
                        CpuBackend
                            .cumsum(CumsumArgs { x: x.view(), dim, out: out.view_mut() }.checked().unwrap())
                            .unwrap();
                        assert_close(&out.values(), &want, to_dtype, 1.0, "cumsum");
                    }
                }
            }
        }
    }
}

#[test]
fn running_extremes_in_every_layout_and_dtype() {
    for dtype in DType::ALL {
        for dims in SHAPES.iter().copied().chain([&[7usize, 40][..], &[2, 1300]]) {
            for dim in 0..dims.len().max(1) {
                let n = dims.get(dim).copied().unwrap_or(1);
                let inner: usize = dims.iter().skip(dim + 1).product();
                for from in read_layouts(dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }) {
                    let mut numbers: Vec<f64> = numbers(from.numel(), 6).iter().map(|v| v.floor()).collect();
                    if dtype.is_float() {
                        numbers.iter_mut().skip(3).step_by(11).for_each(|v| *v = f64::NAN);
                    }
                    let x = Tensor::with_layout(dtype, from, &numbers);
                    for max in [true, false] {
                        check_extremes(&x, dim, n, inner, max);
                    }
                }
            }
        }
    }
}

fn check_extremes(x: &Tensor, dim: usize, n: usize, inner: usize, max: bool) {
    let all = x.values();
    let (mut want, mut places) = (all.clone(), vec![0.0; all.len()]);
    for i in 0..all.len() {
        let place = i / inner % n;
        places[i] = place as f64;
        if place > 0 {
            let (new, best) = (all[i], want[i - inner]);
            let as_good = if max { new >= best } else { new <= best };
            if !(new.is_nan() || as_good) {
                (want[i], places[i]) = (best, places[i - inner]);
            }
        }
    }
    for to in layouts(x.layout.dims()) {
        let mut values = Tensor::with_layout(x.buffer.dtype(), to, &vec![1.0; to.numel()]);
        let mut indices = Tensor::with_layout(DType::I64, to, &vec![77.0; to.numel()]);
        let (to_values, to_indices) = (values.view_mut(), indices.view_mut());
        if max {
            CpuBackend
                .cum_extreme(
                    CumExtremeArgs { op: CumExtreme::Cummax, x: x.view(), dim, values: to_values, indices: to_indices }
                        .checked()
                        .unwrap(),
                )
                .unwrap();
        } else {
            CpuBackend
                .cum_extreme(
                    CumExtremeArgs { op: CumExtreme::Cummin, x: x.view(), dim, values: to_values, indices: to_indices }
                        .checked()
                        .unwrap(),
                )
                .unwrap();
        }
        let bits = |values: &[f64]| values.iter().map(|v| (v.is_nan(), v.to_bits())).collect::<Vec<_>>();
        let same = |a: &[f64], b: &[f64]| bits(a).iter().zip(bits(b)).all(|(a, b)| a.0 && b.0 || *a == b);
        assert!(same(&values.values(), &want) && indices.values() == places, "{:?} dim {dim} {max}", x.layout);
    }
}
