//! Batch normalization: one mean and variance for each channel of `[N, C, H, W]`.

use std::ops::Range;

use kiln_backend::{
    BatchNormArgs, BatchNormBackend, BatchNormEvalArgs, BatchNormGradArgs, BatchNormGradThen, BatchNormThen, Checked,
    ReluAfterNorm, Result, RunningStats,
};

use super::{
    Gradients, LINE, Moments, add, backward, mask, normalize, optional, products, rectify, scale, scale_grad, update,
    vector,
};
use crate::{
    device::CpuBackend,
    engine::{
        image::Image,
        par::{self, GRAIN, Shared},
    },
    memory::{
        erased::Erased,
        view::{Source, Target},
    },
    numeric::{dispatch::for_float, real::Real, stored::Stored},
};

const OP: &str = "batch_norm";

/// Channels that one task takes together where they are adjacent in memory: a cache line of them.
const TOGETHER: usize = 16;

/// Calls `body` with groups of channels, in parallel, and with `K` lines that a task reuses from group to group: a channel may
/// be much shorter than a line.
fn channels<T: Real, const K: usize>(x: &Image<T>, body: impl Fn([&mut [T]; K], Range<usize>) + Sync) {
    let together = if x.strides[1] == 1 { TOGETHER } else { 1 };
    let count = x.n * x.area();
    par::ranges(x.c.div_ceil(together), (GRAIN / (count * together).max(1)).max(1), |range| {
        let mut lines = [(); K].map(|()| vec![T::of(0.0); LINE]);
        for group in range {
            body(lines.each_mut().map(Vec::as_mut_slice), group * together..((group + 1) * together).min(x.c));
        }
    });
}

/// Calls `body` with each piece of each channel: the channel, the image, the row and column where the piece starts, and
/// its number of pixels. Pieces of one channel come in order.
fn pieces<T: Real>(x: &Image<T>, cs: Range<usize>, mut body: impl FnMut(usize, usize, usize, usize, usize)) {
    // Planes that are one run are cut like one long row.
    let (rows, len) = if x.is_flat() { (1, x.area()) } else { (x.h, x.w) };
    for n in 0..x.n {
        for y in 0..rows {
            for start in (0..len).step_by(LINE) {
                for c in cs.clone() {
                    body(c, n, y, start, LINE.min(len - start));
                }
            }
        }
    }
}

/// The offset of a piece's first element, and the step between its elements.
fn place<T: Real>(x: &Image<T>, n: usize, c: usize, y: usize, start: usize) -> (isize, isize) {
    let step = if x.is_flat() { x.step() } else { x.strides[3] };
    (x.at(n, c, y, 0) + start as isize * step, step)
}

/// A piece whose elements are adjacent in memory, in the type that is computed in.
fn adjacent<T: Real>(x: &Image<T>, [n, c, y, start, _]: [usize; 5], flat: bool) -> Option<*mut T> {
    let (at, step) = place(x, n, c, y, start);
    x.ptr.offset(at).direct().filter(|_| step == 1 && (!flat || x.is_flat()))
}

/// The elements of a piece: where they are, or copied to `line`.
///
/// # Safety
/// As [`read`], and nobody writes to the piece meanwhile.
unsafe fn view<'a, T: Real>(x: &Image<T>, piece: [usize; 5], flat: bool, line: &'a mut [T]) -> &'a [T] {
    let [.., len] = piece;
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(start) = adjacent(x, piece, flat) {
            return std::slice::from_raw_parts(start, len);
        }
        read(x, piece, flat, line);
    }
    &line[..len]
}

/// Lets `fill` write a piece, where it is or in `line`.
///
/// # Safety
/// The piece is in the image, and nobody else accesses it.
unsafe fn put<T: Real>(x: &Image<T>, piece: [usize; 5], flat: bool, line: &mut [T], fill: impl FnOnce(&mut [T])) {
    let [.., len] = piece;
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(start) = adjacent(x, piece, flat) {
            return fill(std::slice::from_raw_parts_mut(start, len));
        }
        fill(&mut line[..len]);
        write(x, piece, flat, line);
    }
}

/// Reads a piece of an image that may have another layout than the one that was cut into pieces.
///
/// # Safety
/// The piece is in the image, and `line` is writable for `len` elements.
unsafe fn read<T: Real>(x: &Image<T>, [n, c, y, start, len]: [usize; 5], flat: bool, line: &mut [T]) {
    // SAFETY: the caller's promise.
    unsafe {
        if !flat || x.is_flat() {
            let (at, step) = place(x, n, c, y, start);
            x.ptr.offset(at).gather(step, len, line.as_mut_ptr());
        } else {
            for (i, value) in line[..len].iter_mut().enumerate() {
                let pixel = start + i;
                *value = x.ptr.offset(x.at(n, c, pixel / x.w, pixel % x.w)).load();
            }
        }
    }
}

/// Writes a piece: the counterpart of [`read`].
///
/// # Safety
/// The piece is in the image, and nobody else accesses it.
unsafe fn write<T: Real>(x: &Image<T>, [n, c, y, start, len]: [usize; 5], flat: bool, line: &[T]) {
    // SAFETY: the caller's promise.
    unsafe {
        if !flat || x.is_flat() {
            let (at, step) = place(x, n, c, y, start);
            x.ptr.offset(at).scatter(line.as_ptr(), step, len);
        } else {
            for (i, &value) in line[..len].iter().enumerate() {
                let pixel = start + i;
                x.ptr.offset(x.at(n, c, pixel / x.w, pixel % x.w)).store(value);
            }
        }
    }
}

impl BatchNormBackend for CpuBackend {
    fn batch_norm(&self, args: Checked<BatchNormArgs>) -> Result<()> {
        let BatchNormArgs { x, affine, running, eps, then, out, mean, inv_std } = args.into_inner();
        for_float!(OP, x.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (images, out) = (Source::<S>::new(OP, x)?.erased(), Target::<S>::new(OP, out)?.erased());
            let affine = [scale::<S>(OP, affine.weight)?, scale::<S>(OP, affine.bias)?];
            let stats = [Target::<T>::new(OP, mean)?.erased(), Target::<T>::new(OP, inv_std)?.erased()];
            let running = match running {
                Some(RunningStats { mean, var, momentum, count, shift }) => {
                    if let Some(count) = count {
                        let count = Target::<i64>::new(OP, count)?.erased();
                        // SAFETY: a scalar of the checked layout, which is borrowed exclusively.
                        unsafe { count.ptr().store(count.ptr().load().wrapping_add(1)) };
                    }
                    let stats = if mean.dtype() == x.dtype() {
                        [Target::<S>::new(OP, mean)?.erased(), Target::<S>::new(OP, var)?.erased()]
                    } else {
                        [Target::<T>::new(OP, mean)?.erased(), Target::<T>::new(OP, var)?.erased()]
                    };
                    Some(Running { stats, momentum, shift: scale::<S>(OP, shift)? })
                }
                None => None,
            };
            by_batch::<T>(eps, images, affine, running, Then::new::<S>(then)?, out, stats);
            Ok(())
        })
    }

    fn batch_norm_eval(&self, args: Checked<BatchNormEvalArgs>) -> Result<()> {
        let BatchNormEvalArgs { x, affine, mean, var, eps, then, out } = args.into_inner();
        for_float!(OP, x.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (x, out) = (Source::<S>::new(OP, x)?.erased(), Target::<S>::new(OP, out)?.erased());
            let affine = [scale::<S>(OP, affine.weight)?, scale::<S>(OP, affine.bias)?];
            let stats = [Source::<T>::new(OP, mean)?.erased(), Source::<T>::new(OP, var)?.erased()];
            by_running::<T>(eps, x, affine, stats, Then::new::<S>(then)?, out);
            Ok(())
        })
    }

    fn batch_norm_grad(&self, args: Checked<BatchNormGradArgs>) -> Result<()> {
        const OP: &str = "batch_norm_grad";
        let BatchNormGradArgs { training, grad, x, weight, mean, inv_std, grads, then } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (grad, x) = (Source::<S>::new(OP, grad)?.erased(), Source::<S>::new(OP, x)?.erased());
            let stats = [Source::<T>::new(OP, mean)?.erased(), Source::<T>::new(OP, inv_std)?.erased()];
            let (weight, grads) = (scale::<S>(OP, weight)?, Gradients::new::<S>(OP, grads)?);
            let BatchNormGradThen { relu, residual, shift } = then;
            let relu = match relu {
                ReluAfterNorm::None => Relu::None,
                ReluAfterNorm::Recomputed { bias } => Relu::Recomputed { bias: scale::<S>(OP, bias)? },
                ReluAfterNorm::Output(output) => Relu::Output(Source::<S>::new(OP, output)?.erased()),
            };
            if let Some(shift) = scale_grad::<S>(OP, shift)? {
                update(shift, |_, _| T::of(0.0));
            }
            let residual = residual.map(|view| Target::<S>::new(OP, view).map(Target::erased)).transpose()?;
            // A value that rounds to 0 is one that ReLU has not let through.
            let rounded: Option<fn(T) -> T> = if S::DIRECT { None } else { Some(|x| S::store(x).load()) };
            gradient::<T>(training, grad, x, weight, stats, grads, GradThen { relu, residual, rounded });
            Ok(())
        })
    }
}

/// The running mean and variance, the weight of the new batch, and what is added to its mean.
struct Running<'a, T: 'static> {
    stats: [Erased<'a, T>; 2],
    momentum: f64,
    shift: Option<Erased<'a, T>>,
}

/// What follows a normalization.
struct Then<'a, T: 'static> {
    residual: Option<Erased<'a, T>>,
    relu: bool,
}

impl<'a, T: Real> Then<'a, T> {
    fn new<S: Stored<Compute = T>>(then: BatchNormThen<'a>) -> Result<Then<'a, T>> {
        Ok(Then { residual: optional::<S>(OP, then.residual)?, relu: then.relu })
    }
}

/// Which elements a ReLU has let through.
enum Relu<'a, T: 'static> {
    None,
    /// Those that are positive if they are computed again.
    Recomputed {
        bias: Option<Erased<'a, T>>,
    },
    /// Those where this is.
    Output(Erased<'a, T>),
}

/// What follows a normalization, for its gradient.
struct GradThen<'a, T: 'static> {
    relu: Relu<'a, T>,
    residual: Option<Erased<'a, T>>,
    /// Rounds a number to the dtype of the images, if it is not that which is computed in.
    rounded: Option<fn(T) -> T>,
}

/// Normalizes by the statistics of the batch, writes them to `stats` (the mean and the inverse standard deviation), and
/// updates the running ones (mean and variance).
fn by_batch<T: Real>(
    eps: f64,
    x: Erased<T>,
    [weight, bias]: [Option<Erased<T>>; 2],
    running: Option<Running<T>>,
    then: Then<T>,
    out: Erased<T>,
    [mean, inv_std]: [Erased<T>; 2],
) {
    let (from, to) = (Image::new(&x), Image::new(&out));
    let c = from.c;
    let (weight, bias) = (vector(weight, c, 1.0), vector(bias, c, 0.0));
    let mut moments = vec![Moments::default(); c];
    let shared = Shared::new(&mut moments);
    channels(&from, |[line], cs| {
        // SAFETY: tasks have channels of their own.
        let moments = unsafe { shared.part(cs.clone()) };
        pieces(&from, cs.clone(), |c, n, y, start, len| {
            // SAFETY: a piece of the checked layout.
            let values = unsafe { view(&from, [n, c, y, start, len], from.is_flat(), line) };
            moments[c - cs.start].add(values);
        });
    });
    let inverse = |m: &Moments| T::of(1.0 / (m.variance() + eps).sqrt());
    update(mean, |c, _| T::of(moments[c].mean));
    update(inv_std, |c, _| inverse(&moments[c]));
    if let Some(Running { stats: [mean, var], momentum, shift }) = running {
        let shift = vector(shift, c, 0.0);
        let unbiased = |m: &Moments| m.squares.max(0.0) / (m.n - 1.0);
        let moved = |old: T, new: f64| T::of((1.0 - momentum) * old.to_f64() + momentum * new);
        update(mean, |c, old| moved(old, moments[c].mean + shift[c].to_f64()));
        update(var, |c, old| moved(old, unbiased(&moments[c])));
    }
    apply(&from, &to, &then, &|c| (T::of(moments[c].mean), inverse(&moments[c]) * weight[c], bias[c]));
}

/// Normalizes by given statistics, the mean and the variance.
fn by_running<T: Real>(
    eps: f64,
    x: Erased<T>,
    [weight, bias]: [Option<Erased<T>>; 2],
    [mean, var]: [Erased<T>; 2],
    then: Then<T>,
    out: Erased<T>,
) {
    let (from, to) = (Image::new(&x), Image::new(&out));
    let c = from.c;
    let (weight, bias) = (vector(weight, c, 1.0), vector(bias, c, 0.0));
    let (mean, var) = (vector(Some(mean), c, 0.0), vector(Some(var), c, 1.0));
    apply(&from, &to, &then, &|c| (mean[c], T::of(1.0 / (var[c].to_f64() + eps).sqrt()) * weight[c], bias[c]));
}

fn gradient<T: Real>(
    training: bool,
    grad: Erased<T>,
    x: Erased<T>,
    weight: Option<Erased<T>>,
    [mean, inv_std]: [Erased<T>; 2],
    grads: Gradients<T>,
    then: GradThen<T>,
) {
    let (g, from) = (Image::new(&grad), Image::new(&x));
    let c = from.c;
    let weight = vector(weight, c, 1.0);
    let (mean, inv_std) = (vector(Some(mean), c, 0.0), vector(Some(inv_std), c, 1.0));
    let GradThen { relu, residual, rounded } = then;
    let residual = residual.map(|residual| Image::new(&residual));
    let (output, shift) = match relu {
        Relu::None => (None, None),
        Relu::Recomputed { bias } => (None, Some(vector(bias, c, 0.0))),
        Relu::Output(output) => (Some(Image::new(&output)), None),
    };
    let pair = Pair { g, from, output, shift, mean: &mean, inv_std: &inv_std, weight: &weight, rounded };
    // For each channel: the sum of the gradient, and that of the gradient times the distance from the mean.
    let mut sums = vec![[0f64; 2]; c];
    let shared = Shared::new(&mut sums);
    channels(&from, |[a, b, line], cs| {
        // SAFETY: tasks have channels of their own.
        let sums = unsafe { shared.part(cs.clone()) };
        pieces(&from, cs.clone(), |c, n, y, start, len| {
            let piece = [n, c, y, start, len];
            let b = pair.read(piece, &mut a[..len], b, line);
            if let Some(residual) = &residual {
                // SAFETY: a piece of the checked layout, in channels that are this task's.
                unsafe { write(residual, piece, from.is_flat(), a) };
            }
            let (sum, dot) = products(&a[..len], b, mean[c]);
            let total = &mut sums[c - cs.start];
            *total = [total[0] + sum.to_f64(), total[1] + dot.to_f64()];
        });
    });
    if let Some(out) = grads.weight {
        update(out, |c, _| T::of(sums[c][1] * inv_std[c].to_f64()));
    }
    if let Some(out) = grads.bias {
        update(out, |c, _| T::of(sums[c][0]));
    }
    let Some(out) = grads.input else { return };
    let to = Image::new(&out);
    let count = (from.n * from.area()) as f64;
    channels(&from, |[a, b, line], cs| {
        pieces(&from, cs, |c, n, y, start, len| {
            let piece = [n, c, y, start, len];
            let inv = inv_std[c].to_f64();
            let [sum, dot] = if training { sums[c] } else { [0.0; 2] };
            let (g_mean, slope) = (T::of(sum / count), T::of(dot / count * inv * inv));
            // SAFETY: a piece of the checked layout, in channels that are this task's.
            unsafe {
                put(&to, piece, from.is_flat(), a, |a| {
                    let b = pair.read(piece, a, b, line);
                    backward(a, b, mean[c], g_mean, slope, inv_std[c] * weight[c]);
                });
            }
        });
    });
}

/// What the gradient reads of an element: the incoming gradient, through a ReLU, and the element itself.
struct Pair<'a, T: 'static> {
    g: Image<T>,
    from: Image<T>,
    output: Option<Image<T>>,
    /// For each channel, if elements are to be normalized again to find those that ReLU has let through.
    shift: Option<Vec<T>>,
    mean: &'a [T],
    inv_std: &'a [T],
    weight: &'a [T],
    rounded: Option<fn(T) -> T>,
}

impl<T: Real> Pair<'_, T> {
    /// Copies a piece of the gradient, through ReLU, to `a`, and returns that of the images, perhaps copied to `b`.
    fn read<'b>(&self, piece: [usize; 5], a: &mut [T], b: &'b mut [T], line: &mut [T]) -> &'b [T] {
        let [_, c, .., len] = piece;
        let flat = self.from.is_flat();
        // SAFETY: a piece of the checked layouts, which are borrowed meanwhile.
        let b = unsafe {
            read(&self.g, piece, flat, a);
            if let Some(output) = &self.output {
                mask(a, view(output, piece, flat, line));
            }
            view(&self.from, piece, flat, b)
        };
        if let Some(shift) = &self.shift {
            // As in the forward pass, to the last bit.
            let line = &mut line[..len];
            line.copy_from_slice(b);
            normalize(line, self.mean[c], self.inv_std[c] * self.weight[c], shift[c]);
            if let Some(rounded) = self.rounded {
                line.iter_mut().for_each(|value| *value = rounded(*value));
            }
            mask(a, line);
        }
        b
    }
}

/// Normalizes every channel with its mean, scale and shift, adds the residual and applies ReLU.
fn apply<T: Real>(from: &Image<T>, to: &Image<T>, then: &Then<T>, with: &(dyn Fn(usize) -> (T, T, T) + Sync)) {
    let (residual, relu) = (then.residual.as_ref().map(Image::new), then.relu);
    channels(from, |[line, more], cs| {
        pieces(from, cs, |c, n, y, start, len| {
            let (mean, scale, shift) = with(c);
            let piece = [n, c, y, start, len];
            // SAFETY: a piece of the checked layouts, in channels that are this task's.
            unsafe {
                put(to, piece, from.is_flat(), line, |values| {
                    read(from, piece, from.is_flat(), values);
                    normalize(values, mean, scale, shift);
                    if let Some(residual) = &residual {
                        add(view(residual, piece, from.is_flat(), more), values);
                    }
                    if relu {
                        rectify(values);
                    }
                });
            }
        });
    });
}
