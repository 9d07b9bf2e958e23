//! `pointwise_loss`: mean squared error, absolute error and binary cross-entropy with logits, and their
//! gradients.

use kiln_backend::{
    Checked, Operand, PointwiseLoss, PointwiseLossArgs, PointwiseLossBackend, PointwiseLossGradArgs, PointwiseLossKind,
    Reduction, Result, Scalar, View,
};

use crate::{
    device::CpuBackend,
    engine::{
        par,
        reader::Reader,
        simd::multiversion,
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::{Input, Source, Target},
    numeric::{dispatch::for_float, real::Real, stored::Stored},
};

/// Elements of a partial sum: a fixed number, so that the sum does not depend on the number of threads.
const BLOCK: usize = 16 * TILE;

/// Elements of a task where nothing is summed. Exponentials and logarithms cost several additions.
const GRAIN: usize = par::GRAIN / 4;

/// The operands; a weight that is not given is 1.
struct Operands<'a, T: Stored> {
    kind: PointwiseLossKind,
    input: Input<'a, T>,
    target: Input<'a, T>,
    weight: Input<'a, T>,
    pos_weight: Input<'a, T>,
    len: usize,
}

impl<'a, T: Stored> Operands<'a, T> {
    fn new(loss: &PointwiseLoss<'a>) -> Result<Operands<'a, T>> {
        let op = loss.kind.name();
        let [weight, pos_weight] = loss.weights();
        let input = |view: View<'a>| Input::new(op, Operand::Tensor(view));
        let or_one = |view: Option<View<'a>>| view.map_or(Ok(Input::Constant(T::number(Scalar::Int(1)))), input);
        Ok(Operands {
            kind: loss.kind,
            input: input(loss.input)?,
            target: input(loss.target)?,
            weight: or_one(weight)?,
            pos_weight: or_one(pos_weight)?,
            len: loss.input.layout.numel(),
        })
    }

    fn tiles(&self) -> Tiles<'_, T> {
        Tiles {
            kind: self.kind,
            input: Reader::new(&self.input),
            target: Reader::new(&self.target),
            weight: Reader::new(&self.weight),
            pos_weight: Reader::new(&self.pos_weight),
        }
    }
}

/// The operands of a task, read a tile at a time.
struct Tiles<'a, T: Stored> {
    kind: PointwiseLossKind,
    input: Reader<'a, T>,
    target: Reader<'a, T>,
    weight: Reader<'a, T>,
    pos_weight: Reader<'a, T>,
}

impl<T: Stored<Compute: Real>> Tiles<'_, T> {
    /// The losses of at most `TILE` elements.
    fn losses(&mut self, range: std::ops::Range<usize>, out: &mut [T::Compute]) {
        let (x, t) = (self.input.get(range.clone()), self.target.get(range.clone()));
        match self.kind {
            PointwiseLossKind::Mse => squared(x, t, out),
            PointwiseLossKind::L1 => absolute(x, t, out),
            PointwiseLossKind::BceWithLogits => {
                binary(x, t, self.weight.get(range.clone()), self.pos_weight.get(range), out);
            }
        }
    }

    /// The slopes of at most `TILE` elements, times `grad`.
    fn slopes(
        &mut self,
        range: std::ops::Range<usize>,
        grad: &[T::Compute],
        scale: T::Compute,
        out: &mut [T::Compute],
    ) {
        let (x, t) = (self.input.get(range.clone()), self.target.get(range.clone()));
        match self.kind {
            PointwiseLossKind::Mse => squared_slope(x, t, grad, scale, out),
            PointwiseLossKind::L1 => absolute_slope(x, t, grad, scale, out),
            PointwiseLossKind::BceWithLogits => {
                let (w, p) = (self.weight.get(range.clone()), self.pos_weight.get(range));
                binary_slope(x, t, w, p, grad, scale, out);
            }
        }
    }
}

multiversion! {
    fn squared[R: Real](x: &[R], t: &[R], out: &mut [R]), avx512 if [size_of::<R>() == 4] {
        for ((out, &x), &t) in out.iter_mut().zip(x).zip(t) {
            *out = (x - t) * (x - t);
        }
    }

    fn squared_slope[R: Real](x: &[R], t: &[R], grad: &[R], scale: R, out: &mut [R]), avx512 if [size_of::<R>() == 4] {
        let scale = scale * R::of(2.0);
        for (((out, &x), &t), &grad) in out.iter_mut().zip(x).zip(t).zip(grad) {
            *out = scale * (x - t) * grad;
        }
    }

    fn absolute[R: Real](x: &[R], t: &[R], out: &mut [R]), avx512 if [size_of::<R>() == 4] {
        for ((out, &x), &t) in out.iter_mut().zip(x).zip(t) {
            *out = (x - t).abs();
        }
    }

    fn absolute_slope[R: Real](x: &[R], t: &[R], grad: &[R], scale: R, out: &mut [R]), avx512 if [size_of::<R>() == 4] {
        for (((out, &x), &t), &grad) in out.iter_mut().zip(x).zip(t).zip(grad) {
            *out = (x - t).sign() * scale * grad;
        }
    }

    /// `-w (p t log(sigmoid(x)) + (1 - t) log(1 - sigmoid(x)))`, written so that the argument of the
    /// exponential is never positive.
    fn binary[R: Real](x: &[R], t: &[R], w: &[R], p: &[R], out: &mut [R]), avx512 if [size_of::<R>() == 4] {
        let (zero, one) = (R::of(0.0), R::of(1.0));
        for ((((out, &x), &t), &w), &p) in out.iter_mut().zip(x).zip(t).zip(w).zip(p) {
            let positive = (-x.abs()).exp().ln_1p() + if x < zero { -x } else { zero };
            *out = w * ((one - t) * x + ((p - one) * t + one) * positive);
        }
    }

    fn binary_slope[R: Real](x: &[R], t: &[R], w: &[R], p: &[R], grad: &[R], scale: R, out: &mut [R]), avx512 if [size_of::<R>() == 4] {
        let one = R::of(1.0);
        for (((((out, &x), &t), &w), &p), &grad) in out.iter_mut().zip(x).zip(t).zip(w).zip(p).zip(grad) {
            let slope = ((p - one) * t + one) * x.sigmoid() - p * t;
            *out = slope * w * scale * grad;
        }
    }

    /// The sum of a tile, in a fixed order.
    fn sum[R: Real](values: &[R]) -> f64, avx512 if [size_of::<R>() == 4] {
        const LANES: usize = 16;
        let mut lanes = [R::of(0.0); LANES];
        let mut chunks = values.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane = *lane + value;
            }
        }
        chunks.remainder().iter().chain(&lanes).map(|lane| lane.to_f64()).sum()
    }
}

impl PointwiseLossBackend for CpuBackend {
    fn pointwise_loss(&self, args: Checked<PointwiseLossArgs>) -> Result<()> {
        let loss = args.loss;
        for_float!(loss.kind.name(), loss.input.dtype(), T => forward::<T>(args.into_inner()))
    }

    fn pointwise_loss_grad(&self, args: Checked<PointwiseLossGradArgs>) -> Result<()> {
        let loss = args.loss;
        for_float!(loss.kind.name(), loss.input.dtype(), T => backward::<T>(args.into_inner()))
    }
}

fn forward<T: Stored<Compute: Real>>(args: PointwiseLossArgs) -> Result<()> {
    let PointwiseLossArgs { loss, out } = args;
    let operands = Operands::<T>::new(&loss)?;
    let out = Target::<T>::new(loss.kind.name(), out)?;
    if loss.reduction == Reduction::None {
        par::ranges(operands.len, GRAIN, |range| {
            let mut tiles = operands.tiles();
            // SAFETY: the ranges of tasks are disjoint.
            let mut writer = unsafe { Writer::new(&out) };
            for range in steps(range, TILE) {
                writer.put(range.clone(), |out| tiles.losses(range, out));
            }
        });
        return Ok(());
    }
    let sums = par::blocks(
        operands.len,
        BLOCK,
        || operands.tiles(),
        |tiles, range| {
            let mut losses = [T::Compute::of(0.0); TILE];
            let mut total = 0.0;
            for range in steps(range, TILE) {
                let losses = &mut losses[..range.len()];
                tiles.losses(range, losses);
                total += sum(losses);
            }
            total
        },
    );
    let total: f64 = sums.iter().sum();
    let value = if loss.reduction == Reduction::Mean { total / operands.len as f64 } else { total };
    // SAFETY: the one element of a checked layout.
    unsafe { out.ptr().write(T::store(T::Compute::of(value))) };
    Ok(())
}

fn backward<T: Stored<Compute: Real>>(args: PointwiseLossGradArgs) -> Result<()> {
    let PointwiseLossGradArgs { loss, grad, out } = args;
    let op = loss.kind.name();
    let operands = Operands::<T>::new(&loss)?;
    let out = Target::<T>::new(op, out)?;
    let grad = Source::<T>::new(op, grad)?;
    let grad = match loss.reduction {
        Reduction::None => Input::Tensor(grad),
        // SAFETY: the one element of a checked layout.
        Reduction::Mean | Reduction::Sum => Input::Constant(unsafe { grad.ptr().read() }.load()),
    };
    let scale = match loss.reduction {
        Reduction::Mean => 1.0 / operands.len as f64,
        Reduction::None | Reduction::Sum => 1.0,
    };
    par::ranges(operands.len, GRAIN, |range| {
        let (mut tiles, mut grad) = (operands.tiles(), Reader::new(&grad));
        // SAFETY: the ranges of tasks are disjoint.
        let mut writer = unsafe { Writer::new(&out) };
        for range in steps(range, TILE) {
            let grad = grad.get(range.clone());
            writer.put(range.clone(), |out| tiles.slopes(range, grad, T::Compute::of(scale), out));
        }
    });
    Ok(())
}
