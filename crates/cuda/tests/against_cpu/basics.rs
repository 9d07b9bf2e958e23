//! Fills, copies, edge cases of shapes, and random numbers against the CPU.

use kiln_backend::*;

use crate::{losses::class_loss, support::*};

#[test]
fn fill() {
    for dtype in DType::ALL {
        for memory in MEMORY_LAYOUTS {
            same(&format!("{dtype} {memory:?}"), |on| {
                let mut out = target(on, dtype, &[3, 5], memory);
                on.fill(Scalar::Int(1), out.view_mut())?;
                Ok(vec![out])
            });
        }
    }
}

#[test]
fn copy() {
    for dtype in DType::ALL {
        for (memory, out_lie) in
            [(0, 0), (1, 0), (2, 1), (0, 1), (0, 2)].map(|(from, to)| (MEMORY_LAYOUTS[from], MEMORY_LAYOUTS[to]))
        {
            for to in DType::ALL {
                same(&format!("{dtype} {memory:?} to {to} {out_lie:?}"), |on| {
                    let (x, mut out) = (tensor(on, dtype, &[3, 5], memory, 1), target(on, to, &[3, 5], out_lie));
                    on.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked()?)?;
                    Ok(vec![out])
                });
            }
        }
    }
}

#[test]
fn arange() {
    for dtype in DType::ALL {
        same(&format!("{dtype}"), |on| {
            let mut out = target(on, dtype, &[7], MemoryLayout::Dense);
            on.arange(Arange { start: Scalar::Int(2), step: Scalar::Int(3) }, out.view_mut())?;
            let mut reals = target(on, dtype, &[4], MemoryLayout::Dense);
            on.arange(Arange { start: Scalar::Float(0.5), step: Scalar::Float(1.25) }, reals.view_mut())?;
            // Backwards from the end, as the second half of `linspace`.
            let back = reals.layout.slice(0, 1, 4, 1).flip(0);
            let part = ViewMut { buffer: &mut *reals.buffer, layout: &back };
            on.arange(Arange { start: Scalar::Float(9.0), step: Scalar::Float(-2.0) }, part)?;
            Ok(vec![out, reals])
        });
    }
}

/// Without elements, without dimensions, and broadcast by strides of 0.
#[test]
fn shapes_at_the_edge() {
    for dtype in [DType::F32, DType::F64, DType::I64] {
        for dims in [&[0usize, 3][..], &[3, 0], &[0], &[], &[1, 1]] {
            same(&format!("{dtype} {dims:?}"), |on| {
                let (x, y) =
                    (tensor(on, dtype, dims, MemoryLayout::Dense, 1), tensor(on, dtype, dims, MemoryLayout::Dense, 2));
                let [mut copy, mut squared, mut sum] = [0, 1, 2].map(|_| target(on, dtype, dims, MemoryLayout::Dense));
                on.copy(CopyArgs { x: x.view(), out: copy.view_mut() }.checked()?)?;
                on.unary(UnaryArgs { op: UnaryOp::Square, x: x.view(), out: squared.view_mut() }.checked()?)?;
                on.binary(
                    BinaryArgs {
                        op: BinaryOp::Add,
                        a: Operand::Tensor(x.view()),
                        b: Operand::Tensor(y.view()),
                        out: sum.view_mut(),
                    }
                    .checked()?,
                )?;
                let ones = vec![1; dims.len()];
                let mut total = target(on, dtype, &ones, MemoryLayout::Dense);
                on.reduce(ReduceArgs { op: ReduceOp::Sum, x: x.view(), out: total.view_mut() }.checked()?)?;
                let mut running = target(on, dtype, dims, MemoryLayout::Dense);
                on.cumsum(CumsumArgs { x: x.view(), dim: 0, out: running.view_mut() }.checked()?)?;
                Ok(vec![copy, squared, sum, total, running])
            });
        }
        same(&format!("{dtype} broadcast"), |on| {
            let (row, column) = (
                tensor(on, dtype, &[1, 5], MemoryLayout::Dense, 1),
                tensor(on, dtype, &[4, 1], MemoryLayout::Sliced, 2),
            );
            let shape = Shape::new(&[4, 5])?;
            let (a, b) = (row.layout.expand("t", &shape)?, column.layout.expand("t", &shape)?);
            let (a, b) = (View { buffer: &*row.buffer, layout: &a }, View { buffer: &*column.buffer, layout: &b });
            let mut out = target(on, dtype, &[4, 5], MemoryLayout::Turned);
            on.binary(
                BinaryArgs { op: BinaryOp::Mul, a: Operand::Tensor(a), b: Operand::Tensor(b), out: out.view_mut() }
                    .checked()?,
            )?;
            let mut total = target(on, dtype, &[1, 5], MemoryLayout::Dense);
            on.reduce(ReduceArgs { op: ReduceOp::Sum, x: b, out: total.view_mut() }.checked()?)?;
            Ok(vec![out, total])
        });
    }
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let rule = ClassLoss { input: ClassLossInput::Logits, reduction, ignore_index: -100, label_smoothing: 0.0 };
        same(&format!("no samples, {reduction:?}"), |on| {
            let (x, labels) = (tensor(on, DType::F32, &[0, 4, 1], MemoryLayout::Dense, 1), index(on, &[0, 1], 4));
            let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight: None };
            let [loss, _, total] = class_loss(on, operands)?;
            Ok(vec![loss, total])
        });
    }
}

fn draw(distribution: Distribution, dtypes: &[DType]) {
    for &dtype in dtypes {
        for seed in [42, 0] {
            same(&format!("{distribution:?} {dtype}"), |on| {
                let mut out = target(on, dtype, &[1003], MemoryLayout::Dense);
                on.random(
                    RandomArgs { distribution, state: RandomState { seed, offset: 5 }, out: out.view_mut() }
                        .checked()?,
                )?;
                Ok(vec![out])
            });
        }
    }
}

#[test]
fn uniform() {
    draw(Distribution::Uniform { low: -1.0, high: 3.0 }, &FLOATS);
}

#[test]
fn normal() {
    draw(Distribution::Normal { mean: 1.0, std: 2.0 }, &FLOATS);
}

#[test]
fn bernoulli() {
    draw(Distribution::Bernoulli { p: 0.3 }, &DType::ALL);
}

#[test]
fn randint() {
    draw(Distribution::Integers { low: 0, high: 2 }, &DType::ALL);
    draw(Distribution::Integers { low: 0, high: 100 }, &FLOATS);
}

#[test]
fn dropout() {
    for dtype in FLOATS {
        same(&format!("{dtype}"), |on| {
            let mut made = Vec::new();
            // In packs of 16 bytes, with a remainder and without; with a threshold of 2^32, and of 0.
            for (dims, memory, p) in [
                ([21, 5], MemoryLayout::Turned, 0.4),
                ([21, 5], MemoryLayout::Dense, 0.4),
                ([20, 16], MemoryLayout::Dense, 0.5),
                ([21, 5], MemoryLayout::Dense, 1.0 - 1e-12),
                ([21, 5], MemoryLayout::Dense, 0.0),
            ] {
                let (x, mut out) = (tensor(on, dtype, &dims, memory, 1), target(on, dtype, &dims, MemoryLayout::Dense));
                let state = RandomState { seed: 42, offset: 5 };
                on.dropout(DropoutArgs { p, state, x: x.view(), out: out.view_mut() }.checked()?)?;
                made.push(out);
            }
            Ok(made)
        });
    }
}
