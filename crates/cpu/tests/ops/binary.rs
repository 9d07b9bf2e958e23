//! Tests of `binary`.

use kiln_backend::{
    Arguments, BinaryArgs, BinaryAssignArgs, BinaryBackend, BinaryGradArgs, BinaryOp, DType, Operand, Scalar, SideOf,
};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, assert_close, layouts, numbers, read_layouts};

fn reference(op: BinaryOp, a: f64, b: f64) -> f64 {
    let [a, b] = [a, b].map(|value| Tensor::new(DType::F64, &[], &[value]));
    let mut out = Tensor::empty(DType::F64, &[]);
    let args = BinaryArgs { op, a: a.operand(), b: b.operand(), out: out.view_mut() };
    CpuBackend.binary(args.checked().unwrap()).unwrap();
    out.values()[0]
}

#[test]
fn values_in_every_float_dtype() {
    let n = 700;
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let a = Tensor::new(dtype, &[n], &numbers(n, 1).iter().map(|v| v.abs()).collect::<Vec<_>>());
        let b = Tensor::new(dtype, &[n], &numbers(n, 2));
        let half = Scalar::Float(1.5);
        for &op in BinaryOp::ARITHMETIC {
            let check = |x: Operand, y: Operand, want: Vec<f64>| {
                let mut out = Tensor::empty(dtype, &[n]);
                CpuBackend.binary(BinaryArgs { op, a: x, b: y, out: out.view_mut() }.checked().unwrap()).unwrap();
                // The result jumps where `a / b` is rounded to an integer; beside its roots, polygamma is a small difference of
                // large numbers, and the golden files compare it with PyTorch's.
                if !matches!(op, BinaryOp::TruncDivide | BinaryOp::Polygamma) || dtype == DType::F64 {
                    assert_close(&out.values(), &want, dtype, 8.0, op.name());
                }
            };
            let (av, bv) = (a.values(), b.values());
            check(a.operand(), b.operand(), av.iter().zip(&bv).map(|(&x, &y)| reference(op, x, y)).collect());
            check(a.operand(), Operand::Scalar(half), av.iter().map(|&x| reference(op, x, 1.5)).collect());
            check(Operand::Scalar(half), b.operand(), bv.iter().map(|&y| reference(op, 1.5, y)).collect());

            let mut out = Tensor::new(dtype, &[n], &av);
            CpuBackend
                .binary_assign(BinaryAssignArgs { op, b: b.operand(), out: out.view_mut() }.checked().unwrap())
                .unwrap();
            let mut same = Tensor::empty(dtype, &[n]);
            CpuBackend
                .binary(BinaryArgs { op, a: a.operand(), b: b.operand(), out: same.view_mut() }.checked().unwrap())
                .unwrap();
            assert_eq!(format!("{:?}", out.values()), format!("{:?}", same.values()), "{op:?}");
        }
    }
}

#[test]
fn layouts_do_not_matter() {
    for dims in SHAPES {
        for (i, la) in read_layouts(dims).into_iter().enumerate() {
            let all = read_layouts(dims);
            let lb = all[(i * 3 + 1) % all.len()];
            let a = Tensor::with_layout(DType::F32, la, &numbers(la.numel(), 1));
            let b = Tensor::with_layout(DType::F32, lb, &numbers(lb.numel(), 2));
            let want: Vec<f64> = a.values().iter().zip(b.values()).map(|(x, y)| f64::from((x - y) as f32)).collect();
            let less: Vec<f64> = a.values().iter().zip(b.values()).map(|(x, y)| f64::from(u8::from(*x < y))).collect();
            for to in layouts(dims) {
                let mut out = Tensor::with_layout(DType::F32, to, &vec![77.0; to.numel()]);
                CpuBackend
                    .binary(
                        BinaryArgs { op: BinaryOp::Sub, a: a.operand(), b: b.operand(), out: out.view_mut() }
                            .checked()
                            .unwrap(),
                    )
                    .unwrap();
                assert_eq!(out.values(), want);
                let mut out = Tensor::with_layout(DType::F32, to, &a.values());
                CpuBackend
                    .binary_assign(
                        BinaryAssignArgs { op: BinaryOp::Sub, b: b.operand(), out: out.view_mut() }.checked().unwrap(),
                    )
                    .unwrap();
                assert_eq!(out.values(), want);
                let mut out = Tensor::with_layout(DType::Bool, to, &vec![1.0; to.numel()]);
                CpuBackend
                    .binary(
                        BinaryArgs { op: BinaryOp::Lt, a: a.operand(), b: b.operand(), out: out.view_mut() }
                            .checked()
                            .unwrap(),
                    )
                    .unwrap();
                assert_eq!(out.values(), less);
            }
        }
    }
}

#[test]
fn comparisons_of_every_dtype() {
    for dtype in DType::ALL {
        let (a, b) = (Tensor::new(dtype, &[3], &[0.0, 1.0, 1.0]), Tensor::new(dtype, &[3], &[1.0, 1.0, 0.0]));
        for (op, want) in [
            (BinaryOp::Eq, [0.0, 1.0, 0.0]),
            (BinaryOp::Ne, [1.0, 0.0, 1.0]),
            (BinaryOp::Lt, [1.0, 0.0, 0.0]),
            (BinaryOp::Le, [1.0, 1.0, 0.0]),
            (BinaryOp::Gt, [0.0, 0.0, 1.0]),
            (BinaryOp::Ge, [0.0, 1.0, 1.0]),
        ] {
            let mut out = Tensor::empty(DType::Bool, &[3]);
            CpuBackend
                .binary(BinaryArgs { op, a: a.operand(), b: b.operand(), out: out.view_mut() }.checked().unwrap())
                .unwrap();
            assert_eq!(out.values(), want, "{op:?} {dtype}");
        }
    }
}

#[test]
fn integers_and_truth_values() {
    let run = |op, dtype, a: f64, b: f64| {
        let (x, y) = (Tensor::new(dtype, &[1], &[a]), Tensor::new(dtype, &[1], &[b]));
        let mut out = Tensor::empty(dtype, &[1]);
        let result =
            CpuBackend.binary(BinaryArgs { op, a: x.operand(), b: y.operand(), out: out.view_mut() }.checked()?);
        let mut in_place = Tensor::new(dtype, &[1], &[a]);
        assert_eq!(
            BinaryAssignArgs { op, b: y.operand(), out: in_place.view_mut() }
                .checked()
                .and_then(|args| CpuBackend.binary_assign(args))
                .is_ok(),
            result.is_ok()
        );
        if result.is_ok() {
            assert_eq!(in_place.values(), out.values());
        }
        result.map(|()| out.values()[0])
    };
    for dtype in [DType::I64, DType::I32] {
        for (op, a, b, want) in [
            (BinaryOp::Add, 5.0, -7.0, -2.0),
            (BinaryOp::Sub, 5.0, 7.0, -2.0),
            (BinaryOp::Mul, 5.0, 7.0, 35.0),
            (BinaryOp::Pow, -3.0, 3.0, -27.0),
            (BinaryOp::Maximum, -3.0, 3.0, 3.0),
            (BinaryOp::Minimum, -3.0, 3.0, -3.0),
            (BinaryOp::Remainder, -7.0, 3.0, 2.0),
            (BinaryOp::Fmod, -7.0, 3.0, -1.0),
            (BinaryOp::FloorDivide, -7.0, 3.0, -3.0),
            (BinaryOp::TruncDivide, -7.0, 3.0, -2.0),
            (BinaryOp::ShiftLeft, -7.0, 3.0, -56.0),
            (BinaryOp::ShiftRight, -7.0, 1.0, -4.0),
            (BinaryOp::And, 6.0, 3.0, 2.0),
            (BinaryOp::Or, 6.0, 3.0, 7.0),
            (BinaryOp::Xor, 6.0, 3.0, 5.0),
        ] {
            assert_eq!(run(op, dtype, a, b).unwrap(), want, "{op:?}");
        }
        for op in [BinaryOp::Remainder, BinaryOp::Fmod, BinaryOp::FloorDivide, BinaryOp::TruncDivide] {
            assert!(run(op, dtype, 1.0, 0.0).is_err());
        }
        assert!(run(BinaryOp::Pow, dtype, 2.0, -1.0).is_err());
        assert!(run(BinaryOp::Div, dtype, 2.0, 1.0).is_err());
    }
    assert_eq!(run(BinaryOp::Add, DType::U8, 250.0, 10.0).unwrap(), 4.0);
    assert_eq!(run(BinaryOp::And, DType::Bool, 1.0, 0.0).unwrap(), 0.0);
    assert_eq!(run(BinaryOp::Or, DType::Bool, 1.0, 0.0).unwrap(), 1.0);
    assert_eq!(run(BinaryOp::Xor, DType::Bool, 1.0, 1.0).unwrap(), 0.0);
    assert!(run(BinaryOp::Add, DType::Bool, 1.0, 1.0).is_err());
    assert!(run(BinaryOp::And, DType::F32, 1.0, 1.0).is_err());
    let two = Operand::Scalar(Scalar::Int(2));
    assert!(
        BinaryArgs { op: BinaryOp::Add, a: two, b: two, out: Tensor::empty(DType::F32, &[1]).view_mut() }
            .checked()
            .and_then(|args| CpuBackend.binary(args))
            .is_err()
    );
}

#[test]
fn gradients_are_differences() {
    let step = 1e-6;
    for &op in BinaryOp::ARITHMETIC {
        for (x, y) in [(0.7, 1.3_f64), (2.4, -0.7), (1.9, 3.0), (0.4, 2.0), (1.2, 0.5)] {
            // Polygamma jumps at integer orders, and has none that are negative.
            if op == BinaryOp::Polygamma && (y < 0.0 || y.fract() == 0.0) {
                continue;
            }
            let a = Tensor::new(DType::F64, &[1], &[x]);
            let b = Tensor::new(DType::F64, &[1], &[y]);
            let grad = Tensor::new(DType::F64, &[1], &[3.0]);
            for (side, want) in [
                (SideOf::Lhs, reference(op, x + step, y) - reference(op, x - step, y)),
                (SideOf::Rhs, reference(op, x, y + step) - reference(op, x, y - step)),
            ] {
                let want = want / (2.0 * step) * 3.0;
                for scalar in [false, true] {
                    let b = if scalar { Operand::Scalar(y.into()) } else { b.operand() };
                    let mut out = Tensor::empty(DType::F64, &[1]);
                    CpuBackend
                        .binary_grad(
                            BinaryGradArgs { op, side, grad: grad.view(), a: a.operand(), b, out: out.view_mut() }
                                .checked()
                                .unwrap(),
                        )
                        .unwrap();
                    assert!((out.values()[0] - want).abs() < 1e-6, "{op:?} {side:?} {:?} {want}", out.values());
                }
            }
        }
    }
}

/// Scalar operands beyond half precision: arithmetic does not round them before use, comparisons do.
#[test]
fn numbers_beyond_half_precision() {
    let x = Tensor::new(DType::F16, &[2], &[0.001, 2.0]);
    let run = |op, number: f64| {
        let mut out = Tensor::empty(DType::F16, &[2]);
        CpuBackend
            .binary(
                BinaryArgs { op, a: x.operand(), b: Operand::Scalar(number.into()), out: out.view_mut() }
                    .checked()
                    .unwrap(),
            )
            .unwrap();
        let mut same = Tensor::new(DType::F16, &[2], &x.values());
        CpuBackend
            .binary_assign(
                BinaryAssignArgs { op, b: Operand::Scalar(number.into()), out: same.view_mut() }.checked().unwrap(),
            )
            .unwrap();
        assert_eq!(out.values(), same.values());
        out.values()
    };
    let exact = x.values()[0];
    let half = |v: f64| half::f16::from_f32(v as f32).to_f64();
    assert_eq!(run(BinaryOp::Mul, 1e5), [half(exact * 1e5), f64::INFINITY]);
    assert_eq!(run(BinaryOp::Div, 70_000.0), [half(exact / 7e4), half(2.0 / 7e4)]);
    assert_eq!(run(BinaryOp::Mul, 1e-7), [0.0, half(2e-7)]);
    assert_eq!(run(BinaryOp::Minimum, 1e6), x.values());
    let (grad, mut out) = (Tensor::new(DType::F16, &[2], &[1e-4; 2]), Tensor::empty(DType::F16, &[2]));
    let number = Operand::Scalar(65536.0.into());
    CpuBackend
        .binary_grad(
            BinaryGradArgs {
                op: BinaryOp::Mul,
                side: SideOf::Lhs,
                grad: grad.view(),
                a: x.operand(),
                b: number,
                out: out.view_mut(),
            }
            .checked()
            .unwrap(),
        )
        .unwrap();
    assert_eq!(out.values(), [half(grad.values()[0] * 65536.0); 2]);
    let third = Tensor::new(DType::BF16, &[1], &[1.0 / 3.0]);
    let mut equal = Tensor::empty(DType::Bool, &[1]);
    CpuBackend
        .binary(
            BinaryArgs {
                op: BinaryOp::Eq,
                a: third.operand(),
                b: Operand::Scalar((1.0 / 3.0).into()),
                out: equal.view_mut(),
            }
            .checked()
            .unwrap(),
        )
        .unwrap();
    assert_eq!(equal.values(), [1.0]);
}

#[test]
fn powers_by_a_number() {
    let x = Tensor::new(DType::F64, &[4], &[0.5, 2.0, 3.0, 0.0]);
    for exponent in [0.0, 0.5, 1.0, 2.0, 3.0, -0.5, -1.0, -2.0, 4.0, 1.7] {
        let mut out = Tensor::empty(DType::F64, &[4]);
        CpuBackend
            .binary(
                BinaryArgs {
                    op: BinaryOp::Pow,
                    a: x.operand(),
                    b: Operand::Scalar(exponent.into()),
                    out: out.view_mut(),
                }
                .checked()
                .unwrap(),
            )
            .unwrap();
        let want: Vec<f64> = x.values().iter().map(|v| v.powf(exponent)).collect();
        assert_close(&out.values(), &want, DType::F64, 2.0, "pow");
        let grad = Tensor::new(DType::F64, &[4], &[1.0; 4]);
        let mut a = Tensor::empty(DType::F64, &[4]);
        let mut b = Tensor::empty(DType::F64, &[4]);
        let tensor = Tensor::new(DType::F64, &[4], &[exponent; 4]);
        let number = Operand::Scalar(exponent.into());
        CpuBackend
            .binary_grad(
                BinaryGradArgs {
                    op: BinaryOp::Pow,
                    side: SideOf::Lhs,
                    grad: grad.view(),
                    a: x.operand(),
                    b: number,
                    out: a.view_mut(),
                }
                .checked()
                .unwrap(),
            )
            .unwrap();
        CpuBackend
            .binary_grad(
                BinaryGradArgs {
                    op: BinaryOp::Pow,
                    side: SideOf::Lhs,
                    grad: grad.view(),
                    a: x.operand(),
                    b: tensor.operand(),
                    out: b.view_mut(),
                }
                .checked()
                .unwrap(),
            )
            .unwrap();
        assert_close(&a.values(), &b.values(), DType::F64, 4.0, "pow gradient");
    }
}
