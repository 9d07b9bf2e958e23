//! Tests of `dropout`.

use kiln_backend::{Arguments, DType, DropoutArgs, DropoutBackend, RandomState};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, layouts, numbers, philox, read_layouts};

#[test]
fn keeps_what_the_generator_says() {
    let state = RandomState { seed: 42, offset: 7 };
    for dims in [&[10usize, 130][..], &[3], &[], &[0], &[2, 3, 5]] {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for from in read_layouts(dims) {
                let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 1));
                for to in layouts(dims) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                    let args = DropoutArgs { p: 0.5, state, x: x.view(), out: out.view_mut() };
                    CpuBackend.dropout(args.checked().unwrap()).unwrap();
                    let words = philox(state, to.numel().div_ceil(4));
                    let want: Vec<f64> =
                        x.values().iter().zip(words).map(|(v, w)| if w >= 1 << 31 { v * 2.0 } else { 0.0 }).collect();
                    assert_eq!(out.values(), want);
                }
            }
        }
    }
}

#[test]
fn probabilities() {
    let x = Tensor::new(DType::F32, &[100_000], &[f64::NAN; 100_000]);
    let state = RandomState { seed: 1, offset: 0 };
    for p in [0.0, 0.1, 0.9] {
        let mut out = Tensor::empty(DType::F32, &[100_000]);
        let args = DropoutArgs { p, state, x: x.view(), out: out.view_mut() };
        CpuBackend.dropout(args.checked().unwrap()).unwrap();
        // Dropped NaNs are zeros.
        let kept = out.values().iter().filter(|v| v.is_nan()).count() as f64 / 1e5;
        assert!((kept - (1.0 - p)).abs() < 0.01, "{p}: {kept}");
    }
}
