//! Tests of `fill`.

use kiln_backend::{Arange, DType, FillBackend, Scalar};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, layouts};

#[test]
fn fills_every_layout() {
    for dtype in DType::ALL {
        for dims in SHAPES {
            for layout in layouts(dims) {
                let mut out = Tensor::with_layout(dtype, layout, &vec![77.0; layout.numel()]);
                let before = out.bytes().to_vec();
                CpuBackend.fill(Scalar::Int(1), out.view_mut()).unwrap();
                assert_eq!(out.values(), vec![1.0; layout.numel()]);
                let changed = before.iter().zip(out.bytes()).filter(|(a, b)| a != b).count();
                assert!(changed <= layout.numel() * dtype.size());
            }
        }
    }
}

#[test]
fn aranges() {
    for (start, step, dtype, want) in [
        (Scalar::Int(3), Scalar::Int(-2), DType::I64, [3.0, 1.0, -1.0, -3.0]),
        (Scalar::Int(3), Scalar::Int(2), DType::F32, [3.0, 5.0, 7.0, 9.0]),
        (Scalar::Float(0.0), Scalar::Float(0.5), DType::F16, [0.0, 0.5, 1.0, 1.5]),
        (Scalar::Float(0.0), Scalar::Float(0.5), DType::I32, [0.0, 0.0, 1.0, 1.0]),
        (Scalar::Int(0), Scalar::Int(1), DType::Bool, [0.0, 1.0, 1.0, 1.0]),
    ] {
        for layout in layouts(&[2, 2]) {
            let mut out = Tensor::with_layout(dtype, layout, &[0.0; 4]);
            CpuBackend.arange(Arange { start, step }, out.view_mut()).unwrap();
            assert_eq!(out.values(), want);
        }
    }
    let mut out = Tensor::empty(DType::F64, &[100_000]);
    CpuBackend.arange(Arange { start: Scalar::Float(1.0), step: Scalar::Float(0.1) }, out.view_mut()).unwrap();
    assert!(out.values().iter().enumerate().all(|(i, &v)| v == 1.0 + i as f64 * 0.1));
}
