//! Tests of `unary`.

use kiln_backend::{Arguments, DType, Saved, UnaryArgs, UnaryBackend, UnaryGradArgs, UnaryOp};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, assert_close, layouts, numbers, read_layouts};

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// The same function of single `f64` values.
fn reference(op: UnaryOp, x: f64) -> f64 {
    let (x, mut out) = (Tensor::new(DType::F64, &[], &[x]), Tensor::empty(DType::F64, &[]));
    CpuBackend.unary(UnaryArgs { op, x: x.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
    out.values()[0]
}

#[test]
fn values_in_every_dtype() {
    let values: Vec<f64> = numbers(300, 3).into_iter().chain([0.0, f64::NAN, f64::INFINITY, -f64::INFINITY]).collect();
    for dtype in FLOATS {
        let x = Tensor::new(dtype, &[values.len()], &values);
        for &op in UnaryOp::ALL {
            let mut out = Tensor::empty(dtype, &[values.len()]);
            CpuBackend.unary(UnaryArgs { op, x: x.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
            let want: Vec<f64> = x.values().into_iter().map(|v| reference(op, v)).collect();
            // Beside its roots, digamma is a small difference of large numbers; the golden files compare it with PyTorch's.
            if op != UnaryOp::Digamma || dtype == DType::F64 {
                assert_close(&out.values(), &want, dtype, 8.0, op.name());
            }
        }
    }
}

#[test]
fn formulas_of_the_table() {
    // A few values that a calculator gives, so that the table itself is tested too.
    let cases = [
        (UnaryOp::Gelu, 1.0, 0.841_344_746_068_542_9),
        (UnaryOp::GeluTanh, 1.0, 0.841_191_990_608_276_2),
        (UnaryOp::Silu, 2.0, 1.761_594_155_955_764_9),
        (UnaryOp::Softplus, 0.0, std::f64::consts::LN_2),
        (UnaryOp::LogSigmoid, -800.0, -800.0),
        (UnaryOp::Round, 2.5, 2.0),
        (UnaryOp::Trunc, -2.7, -2.0),
        (UnaryOp::Rsqrt, 4.0, 0.5),
        (UnaryOp::Relu, -3.0, 0.0),
    ];
    for (op, x, want) in cases {
        assert!((reference(op, x) - want).abs() < 1e-14, "{op:?}");
    }
}

#[test]
fn layouts_do_not_matter() {
    for dims in SHAPES {
        for from in read_layouts(dims) {
            let x = Tensor::with_layout(DType::F32, from, &numbers(from.numel(), 1));
            let want: Vec<f64> = x.values().iter().map(|v| -v).collect();
            for to in layouts(dims) {
                let mut out = Tensor::with_layout(DType::F32, to, &vec![77.0; to.numel()]);
                CpuBackend
                    .unary(UnaryArgs { op: UnaryOp::Neg, x: x.view(), out: out.view_mut() }.checked().unwrap())
                    .unwrap();
                assert_eq!(out.values(), want, "{from:?} -> {to:?}");
                let touched = out.bytes().chunks_exact(4).filter(|b| *b != 77f32.to_ne_bytes()).count();
                assert!(touched <= to.numel());
            }
        }
    }
}

#[test]
fn gradients_are_differences() {
    let step = 1e-6;
    for &op in UnaryOp::ALL {
        let points = [-0.83, -0.31, 0.27, 0.77];
        use UnaryOp::{Acosh, Digamma, Lgamma, Log, Log2, Log10, Rsqrt, Sqrt};
        let positive = [Sqrt, Rsqrt, Log, Log2, Log10, Lgamma, Digamma, Acosh];
        for x in points.into_iter().filter(|&x| x > 0.0 || !positive.contains(&op)) {
            let x = if op == Acosh { x + 1.0 } else { x };
            let want = (reference(op, x + step) - reference(op, x - step)) / (2.0 * step) * 3.0;
            let saved = if op.saved() == Saved::Output { reference(op, x) } else { x };
            for dtype in [DType::F64, DType::F32] {
                let (grad, saved) = (Tensor::new(dtype, &[1], &[3.0]), Tensor::new(dtype, &[1], &[saved]));
                let mut out = Tensor::empty(dtype, &[1]);
                CpuBackend
                    .unary_grad(
                        UnaryGradArgs { op, grad: grad.view(), saved: Some(saved.view()), out: out.view_mut() }
                            .checked()
                            .unwrap(),
                    )
                    .unwrap();
                let tolerance = if dtype == DType::F64 { 1e-6 } else { 1e-4 };
                assert!((out.values()[0] - want).abs() < tolerance, "{op:?} at {x}: {:?}, {want}", out.values());
            }
        }
    }
    let grad = Tensor::new(DType::F32, &[1], &[3.0]);
    assert!(
        UnaryGradArgs {
            op: UnaryOp::Exp,
            grad: grad.view(),
            saved: None,
            out: Tensor::empty(DType::F32, &[1]).view_mut()
        }
        .checked()
        .and_then(|args| CpuBackend.unary_grad(args))
        .is_err()
    );
    assert!(
        UnaryGradArgs {
            op: UnaryOp::Neg,
            grad: grad.view(),
            saved: None,
            out: Tensor::empty(DType::F32, &[1]).view_mut()
        }
        .checked()
        .and_then(|args| CpuBackend.unary_grad(args))
        .is_ok()
    );
}

#[test]
fn integers() {
    for (op, x, want) in [
        (UnaryOp::Neg, -3.0, 3.0),
        (UnaryOp::Abs, -3.0, 3.0),
        (UnaryOp::Sign, -3.0, -1.0),
        (UnaryOp::Square, -3.0, 9.0),
        (UnaryOp::Relu, -3.0, 0.0),
        (UnaryOp::Floor, -3.0, -3.0),
    ] {
        for dtype in [DType::I64, DType::I32] {
            let mut out = Tensor::empty(dtype, &[1]);
            CpuBackend
                .unary(
                    UnaryArgs { op, x: Tensor::new(dtype, &[1], &[x]).view(), out: out.view_mut() }.checked().unwrap(),
                )
                .unwrap();
            assert_eq!(out.values(), [want], "{op:?}");
        }
    }
    for dtype in [DType::I64, DType::Bool] {
        let x = Tensor::new(dtype, &[1], &[1.0]);
        assert!(
            UnaryArgs { op: UnaryOp::Exp, x: x.view(), out: Tensor::empty(dtype, &[1]).view_mut() }
                .checked()
                .and_then(|args| CpuBackend.unary(args))
                .is_err()
        );
    }
}
