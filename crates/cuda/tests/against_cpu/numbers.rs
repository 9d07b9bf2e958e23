//! Edge cases of element-wise arithmetic: numbers that half precision cannot represent, exact remainders, division by
//! 0.

use kiln_backend::*;

use crate::support::*;

/// Tensors of these values, in rows of one length.
fn of_values(on: &dyn Backend, dtype: DType, values: &[f64]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(&[values.len()]).unwrap());
    Tensor { buffer: on.adopt(host(dtype, values)).unwrap(), layout }
}

/// Compares bit for bit.
fn exactly(name: &str, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
    let _others_too = RECORD.read();
    compare(name, 0.0, case);
}

#[test]
fn numbers_enter_in_the_computing_type() {
    use BinaryOp as B;
    let values = [0.001, 2.0, -3.0, 0.0, f64::INFINITY, f64::NAN, 6e-8, 1.0, 0.333];
    for dtype in FLOATS {
        for number in [1e5, 70_000.0, 1e-8, 65_536.0, 1.0 / 3.0, 1.001, -0.0, 3.0, f64::INFINITY] {
            let number = Operand::Scalar(Scalar::Float(number));
            let ops = [B::Add, B::Sub, B::Mul, B::Div, B::Maximum, B::Minimum, B::Remainder, B::Fmod, B::FloorDivide];
            for op in ops.into_iter().chain([B::TruncDivide]).chain(BinaryOp::COMPARISONS.iter().copied()) {
                exactly(&format!("{op:?} {number:?}"), |on| {
                    let x = of_values(on, dtype, &values);
                    let result = if op.is_comparison() { DType::Bool } else { dtype };
                    let [mut right, mut left] = [0, 1].map(|_| of_values(on, result, &[0.0; 9]));
                    on.binary(
                        BinaryArgs { op, a: Operand::Tensor(x.view()), b: number, out: right.view_mut() }.checked()?,
                    )?;
                    on.binary(
                        BinaryArgs { op, a: number, b: Operand::Tensor(x.view()), out: left.view_mut() }.checked()?,
                    )?;
                    let mut changed = of_values(on, dtype, &values);
                    if !op.is_comparison() {
                        on.binary_assign(BinaryAssignArgs { op, b: number, out: changed.view_mut() }.checked()?)?;
                    }
                    Ok(vec![right, left, changed])
                });
            }
            for op in [B::Mul, B::Div, B::Maximum, B::Remainder, B::Fmod, B::FloorDivide] {
                exactly(&format!("gradients of {op:?} {number:?}"), |on| {
                    let (x, g) = (
                        of_values(on, dtype, &values),
                        of_values(on, dtype, &[1e-4, 1.0, -2.0, 1.0, 1.0, 1.0, 3.0, 7.0, 1.0]),
                    );
                    let [mut lhs, mut rhs] = [0, 1].map(|_| of_values(on, dtype, &[0.0; 9]));
                    let x = Operand::Tensor(x.view());
                    on.binary_grad(
                        BinaryGradArgs { op, side: SideOf::Lhs, grad: g.view(), a: x, b: number, out: lhs.view_mut() }
                            .checked()?,
                    )?;
                    on.binary_grad(
                        BinaryGradArgs { op, side: SideOf::Rhs, grad: g.view(), a: number, b: x, out: rhs.view_mut() }
                            .checked()?,
                    )?;
                    Ok(vec![lhs, rhs])
                });
            }
        }
    }
}

#[test]
fn remainders_are_exact() {
    let a = [1e8, 3e9, 1.0, 5.0, -5.0, 5.0, -5.0, 7.5, -7.5, 7.5, -7.5, 0.0, 1.0, f64::INFINITY, f64::NAN, 6.0, -6.0];
    let inf = f64::INFINITY;
    let b = [3.0, 7.0, 0.1, inf, inf, -inf, -inf, 2.0, 2.0, -2.0, -2.0, 3.0, 0.0, 2.0, 2.0, 2.0, 2.0];
    for dtype in FLOATS {
        for op in [BinaryOp::Remainder, BinaryOp::Fmod, BinaryOp::FloorDivide, BinaryOp::TruncDivide, BinaryOp::Atan2] {
            let slack = if op == BinaryOp::Atan2 { 1.0 } else { 0.0 };
            let _others_too = RECORD.read();
            compare(&format!("{op:?}"), slack, |on| {
                let (a, b) = (of_values(on, dtype, &a), of_values(on, dtype, &b));
                let g = of_values(on, dtype, &[3.0; 17]);
                let [mut out, mut da, mut db, mut zero] = [0; 4].map(|_| of_values(on, dtype, &[0.0; 17]));
                let (x, y) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()));
                on.binary(BinaryArgs { op, a: x, b: y, out: out.view_mut() }.checked()?)?;
                on.binary_grad(
                    BinaryGradArgs { op, side: SideOf::Lhs, grad: g.view(), a: x, b: y, out: da.view_mut() }
                        .checked()?,
                )?;
                on.binary_grad(
                    BinaryGradArgs { op, side: SideOf::Rhs, grad: g.view(), a: x, b: y, out: db.view_mut() }
                        .checked()?,
                )?;
                let nothing = Operand::Scalar(Scalar::Int(0));
                on.binary_grad(
                    BinaryGradArgs { op, side: SideOf::Lhs, grad: g.view(), a: x, b: nothing, out: zero.view_mut() }
                        .checked()?,
                )?;
                Ok(vec![out, da, db, zero])
            });
        }
    }
}

#[test]
fn integers_that_have_no_quotient_are_reported() {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    for op in [BinaryOp::Remainder, BinaryOp::Fmod, BinaryOp::FloorDivide, BinaryOp::TruncDivide] {
        for on in [device as &dyn Backend, kiln_cpu::backend().unwrap()] {
            let (x, mut out) = (of_values(on, DType::I64, &[1.0, 2.0]), of_values(on, DType::I64, &[0.0; 2]));
            let result = on.binary(
                BinaryArgs {
                    op,
                    a: Operand::Tensor(x.view()),
                    b: Operand::Scalar(Scalar::Int(0)),
                    out: out.view_mut(),
                }
                .checked()
                .unwrap(),
            );
            let error = result.and_then(|()| on.synchronize()).expect_err("divided by 0").to_string();
            assert!(error.contains(op.name()) && error.contains("division by zero"), "{error}");
        }
    }
}

/// Special functions where their methods meet, near poles, at the ends of their domains, and of numbers that no type holds well.
#[test]
fn special_functions() {
    let edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        -3.0,
        1e-8,
        -1e-8,
        1e-40,
        3e38,
        -3e38,
        f64::INFINITY,
        -f64::INFINITY,
        f64::NAN,
    ];
    let between =
        (-60..60).map(|i| f64::from(i) * 0.375 + 0.0625).chain([0.999, -0.99999, 0.9999999, -8191.5, 700.0, 1e10]);
    let values: Vec<f64> = edges.into_iter().chain(between).collect();
    for dtype in FLOATS {
        for op in [
            UnaryOp::Asinh,
            UnaryOp::Acosh,
            UnaryOp::Atanh,
            UnaryOp::Erfc,
            UnaryOp::Erfinv,
            UnaryOp::Lgamma,
            UnaryOp::Digamma,
            UnaryOp::I0,
            UnaryOp::I1,
        ] {
            same(&format!("{op:?}"), |on| {
                let (x, g) = (of_values(on, dtype, &values), of_values(on, dtype, &vec![1.0; values.len()]));
                let [mut out, mut grad] = [0, 1].map(|_| of_values(on, dtype, &vec![0.0; values.len()]));
                on.unary(UnaryArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                on.unary_grad(
                    UnaryGradArgs { op, grad: g.view(), saved: Some(x.view()), out: grad.view_mut() }.checked()?,
                )?;
                Ok(vec![out, grad])
            });
        }
        for order in [-1.0, 0.0, 1.0, 1.5, 2.0, 5.0, 40.0, 1e10] {
            same(&format!("polygamma {order}"), |on| {
                let (x, mut out) = (of_values(on, dtype, &values), of_values(on, dtype, &vec![0.0; values.len()]));
                let (a, b) = (Operand::Tensor(x.view()), Operand::Scalar(Scalar::Float(order)));
                on.binary(BinaryArgs { op: BinaryOp::Polygamma, a, b, out: out.view_mut() }.checked()?)?;
                Ok(vec![out])
            });
        }
    }
}

/// Divisors and multiples at the ends of the types, and of 0.
#[test]
fn common_divisors() {
    let all = [0.0, 1.0, -1.0, 2.0, 12.0, -18.0, 255.0, 128.0, 2_147_483_647.0, -2_147_483_648.0];
    let pairs: Vec<(f64, f64)> = all.iter().flat_map(|&a| all.map(|b| (a, b))).collect();
    let (left, right): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
    for dtype in [DType::I64, DType::I32, DType::U8] {
        for op in [BinaryOp::Gcd, BinaryOp::Lcm] {
            exactly(&format!("{op:?} {dtype}"), |on| {
                let (a, b) = (of_values(on, dtype, &left), of_values(on, dtype, &right));
                let mut out = of_values(on, dtype, &vec![0.0; left.len()]);
                let (x, y) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()));
                on.binary(BinaryArgs { op, a: x, b: y, out: out.view_mut() }.checked()?)?;
                Ok(vec![out])
            });
        }
    }
}
