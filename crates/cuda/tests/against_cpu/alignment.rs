//! Kernels that access 16 bytes of each operand at a time, at every offset and length: operands that do not begin at a
//! multiple of 16 bytes, remainders after the last 16 bytes, and no writes beyond the end.

use kiln_backend::{DType::*, *};

use crate::support::*;

/// Elements after those that are used, which must stay as they are.
const MARGIN: usize = 5;
/// Before, at and after the ends of packs of any width; with more than one pack.
const LENGTHS: [usize; 10] = [1, 2, 3, 7, 8, 9, 16, 17, 33, 70];
/// Offsets in elements of the operands in turn. For each width of elements some are packs' beginnings and some are not.
const OFFSETS: [[usize; 4]; 7] =
    [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [2, 4, 8, 16], [3, 3, 3, 3]];

/// `n` elements, `offset` elements after the beginning of a buffer.
fn at(on: &dyn Backend, dtype: DType, n: usize, offset: usize, salt: u64) -> Tensor {
    let whole = tensor(on, dtype, &[offset + n + MARGIN], MemoryLayout::Dense, salt);
    Tensor { layout: whole.layout.slice(0, offset, offset + n, 1), ..whole }
}

/// Compares the bits of whole buffers, over lengths and offsets.
fn everywhere(name: &str, case: impl Fn(&dyn Backend, usize, [usize; 4]) -> Result<Vec<Tensor>>) {
    for n in LENGTHS {
        for offsets in OFFSETS {
            same_bits(&format!("{name} of {n} at {offsets:?}"), |on| case(on, n, offsets));
        }
    }
}

/// One dtype of each width.
const WIDTHS: [DType; 4] = [U8, F16, F32, F64];

#[test]
fn fill() {
    for dtype in WIDTHS {
        everywhere(&format!("{dtype}"), |on, n, [o, ..]| {
            let mut out = at(on, dtype, n, o, 1);
            on.fill(Scalar::Int(1), out.view_mut())?;
            Ok(vec![out])
        });
    }
}

#[test]
fn copy() {
    for dtype in WIDTHS {
        everywhere(&format!("{dtype}"), |on, n, [o, p, ..]| {
            let (x, mut out) = (at(on, dtype, n, o, 1), at(on, dtype, n, p, 2));
            on.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked()?)?;
            Ok(vec![out])
        });
    }
}

#[test]
fn cast() {
    for (from, to) in [(F32, F16), (F16, F32), (U8, F64), (F64, U8), (I64, Bool), (BF16, I32)] {
        everywhere(&format!("{from} {to}"), |on, n, [o, p, ..]| {
            let (x, mut out) = (at(on, from, n, o, 1), at(on, to, n, p, 2));
            on.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked()?)?;
            Ok(vec![out])
        });
    }
}

#[test]
fn unary() {
    for dtype in FLOATS {
        everywhere(&format!("{dtype}"), |on, n, [o, p, q, _]| {
            let (x, g) = (at(on, dtype, n, o, 1), at(on, dtype, n, q, 2));
            let [mut out, mut dx] = [3, 4].map(|salt| at(on, dtype, n, p, salt));
            on.unary(UnaryArgs { op: UnaryOp::Neg, x: x.view(), out: out.view_mut() }.checked()?)?;
            on.unary_grad(
                UnaryGradArgs { op: UnaryOp::Square, grad: g.view(), saved: Some(x.view()), out: dx.view_mut() }
                    .checked()?,
            )?;
            Ok(vec![out, dx])
        });
    }
}

#[test]
fn binary() {
    for dtype in [F32, F16, I64, U8] {
        everywhere(&format!("{dtype}"), |on, n, [o, p, q, r]| {
            let (a, b) = (at(on, dtype, n, o, 1), at(on, dtype, n, p, 2));
            let (x, y, number) =
                (Operand::Tensor(a.view()), Operand::Tensor(b.view()), Operand::Scalar(Scalar::Int(2)));
            let [mut sum, mut twice] = [3, 4].map(|salt| at(on, dtype, n, q, salt));
            on.binary(BinaryArgs { op: BinaryOp::Add, a: x, b: y, out: sum.view_mut() }.checked()?)?;
            on.binary(BinaryArgs { op: BinaryOp::Mul, a: number, b: y, out: twice.view_mut() }.checked()?)?;
            let mut less = at(on, Bool, n, r, 5);
            on.binary(BinaryArgs { op: BinaryOp::Lt, a: x, b: y, out: less.view_mut() }.checked()?)?;
            Ok(vec![sum, twice, less])
        });
    }
}

#[test]
fn binary_grad() {
    for dtype in [F32, F16] {
        for side in [SideOf::Lhs, SideOf::Rhs] {
            everywhere(&format!("{dtype} {side:?}"), |on, n, [o, p, q, r]| {
                let (g, a, b) = (at(on, dtype, n, o, 1), at(on, dtype, n, p, 2), at(on, dtype, n, q, 3));
                let mut out = at(on, dtype, n, r, 4);
                let (x, y) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()));
                on.binary_grad(
                    BinaryGradArgs { op: BinaryOp::Mul, side, grad: g.view(), a: x, b: y, out: out.view_mut() }
                        .checked()?,
                )?;
                Ok(vec![out])
            });
        }
    }
}

/// Dense images after an offset, with elements after them.
fn images(on: &dyn Backend, dtype: DType, dims: [usize; 4], pixels: bool, offset: usize, salt: u64) -> Tensor {
    let [n, c, h, w] = dims;
    let whole = at(on, dtype, n * c * h * w, offset, salt);
    let strides =
        if pixels { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }.map(|stride| stride as isize);
    Tensor { layout: Layout::strided(Shape::new(&dims).unwrap(), &strides, offset).unwrap(), ..whole }
}

#[test]
fn max_pool2d() {
    let pool = Pool2d::Window { kernel: [2; 2], stride: [2; 2], padding: [0; 2], dilation: [1; 2] };
    for dtype in [F32, F16] {
        for (dims, pixels) in [([2, 8, 4, 6], true), ([1, 2, 5, 16], false)] {
            let after = [dims[0], dims[1], dims[2] / 2, dims[3] / 2];
            for [o, p, q, r] in OFFSETS {
                same_bits(&format!("{dtype} {dims:?} at {o} {p} {q} {r}"), |on| {
                    let (x, mut out) = (images(on, dtype, dims, pixels, o, 1), images(on, dtype, after, pixels, p, 2));
                    let mut taps = images(on, U8, after, pixels, q, 3);
                    let indices = Some(taps.view_mut());
                    on.max_pool2d(MaxPool2dArgs { pool, x: x.view(), out: out.view_mut(), indices }.checked()?)?;
                    let mut dx = images(on, dtype, dims, pixels, r, 4);
                    let (grad, indices) = (out.view(), taps.view());
                    on.max_pool2d_grad(MaxPool2dGradArgs { pool, grad, indices, out: dx.view_mut() }.checked()?)?;
                    Ok(vec![out, taps, dx])
                });
            }
        }
    }
}

#[test]
fn avg_pool2d_of_planes() {
    let (pool, divisor) = (Pool2d::Adaptive, PoolDivisor::Inside);
    for dtype in [F32, F16] {
        for (dims, pixels) in [([2, 8, 2, 3], true), ([4, 2, 5, 3], false)] {
            for [o, p, ..] in OFFSETS {
                same_bits(&format!("{dtype} {dims:?} at {o} {p}"), |on| {
                    let grad = images(on, dtype, [dims[0], dims[1], 1, 1], pixels, o, 1);
                    let mut dx = images(on, dtype, dims, pixels, p, 2);
                    on.avg_pool2d_grad(
                        AvgPool2dGradArgs { pool, divisor, grad: grad.view(), out: dx.view_mut() }.checked()?,
                    )?;
                    Ok(vec![dx])
                });
            }
        }
    }
}

#[test]
fn where_cond() {
    for dtype in WIDTHS {
        everywhere(&format!("{dtype}"), |on, n, [o, p, q, r]| {
            let condition = at(on, Bool, n, o, 1);
            let (a, b, mut out) = (at(on, dtype, n, p, 2), at(on, dtype, n, q, 3), at(on, dtype, n, r, 4));
            on.where_cond(
                WhereCondArgs {
                    condition: condition.view(),
                    a: Operand::Tensor(a.view()),
                    b: Operand::Tensor(b.view()),
                    out: out.view_mut(),
                }
                .checked()?,
            )?;
            Ok(vec![out])
        });
    }
}

/// The residual and the output of ReLU, which are read beside the images, and the residual's gradient.
#[test]
fn batch_norm_with_a_residual() {
    for dtype in [F32, F16] {
        for (dims, pixels) in [([2, 8, 4, 6], true), ([2, 3, 4, 8], false)] {
            for [o, p, q, r] in OFFSETS {
                same(&format!("{dtype} {dims:?} at {o} {p} {q} {r}"), |on| {
                    let image = |offset, salt| images(on, dtype, dims, pixels, offset, salt);
                    let (x, z, mut out) = (image(o, 1), image(p, 2), image(q, 3));
                    let [mean, inv_std] = [4, 5].map(|salt| tensor(on, F32, &[dims[1]], MemoryLayout::Dense, salt));
                    let (then, affine) = (BatchNormThen { residual: Some(z.view()), relu: true }, Affine::default());
                    let mut stats = [0, 1].map(|_| target(on, F32, &[dims[1]], MemoryLayout::Dense));
                    let [m, i] = &mut stats;
                    on.batch_norm(
                        BatchNormArgs {
                            x: x.view(),
                            affine,
                            running: None,
                            eps: 0.1,
                            then,
                            out: out.view_mut(),
                            mean: m.view_mut(),
                            inv_std: i.view_mut(),
                        }
                        .checked()?,
                    )?;
                    let (y, grad, mut dx, mut passed) = (image(p, 2), image(o, 6), image(q, 7), image(r, 8));
                    let grads = NormGrads { input: Some(dx.view_mut()), ..NormGrads::default() };
                    let then = BatchNormGradThen {
                        relu: ReluAfterNorm::Output(y.view()),
                        residual: Some(passed.view_mut()),
                        shift: None,
                    };
                    on.batch_norm_grad(
                        BatchNormGradArgs {
                            training: true,
                            grad: grad.view(),
                            x: x.view(),
                            weight: None,
                            mean: mean.view(),
                            inv_std: inv_std.view(),
                            grads,
                            then,
                        }
                        .checked()?,
                    )?;
                    Ok(vec![out, dx, passed])
                });
            }
        }
    }
}
