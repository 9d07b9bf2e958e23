//! Computes a convolution as products over blocks of pixels, with sums in `f64` and one rounding to the output's type.
use super::chain::Step;
use super::direction::Direction;
use super::image::Image;
use super::problem::Problem;
use super::work::Convolution;
use crate::blas::compute::{load, rounded, store};
use crate::blas::kernel::{TILE, best_tile};
use crate::blas::problem::{Data, Rounding};

/// Lines of a tile: pixels, or columns of a filter gradient.
const PIXELS: usize = TILE[0];
/// Channels of a tile.
const CHANNELS: usize = TILE[1];
/// Pixels that a filter gradient is summed over at a time.
const BLOCK: usize = 128;
/// An offset that stands for padding.
const OUTSIDE: usize = usize::MAX;

/// The values of a tensor.
///
/// # Safety
/// `count` elements of this type can be read at `address`.
unsafe fn values(data: Data, address: u64, count: usize) -> Vec<f64> {
    // SAFETY: the caller's promise.
    (0..count).map(|i| unsafe { load(data, address + (i * data.bytes()) as u64) }).collect()
}

/// # Safety
/// As many elements of this type can be written at `address`.
unsafe fn write(data: Data, address: u64, values: &[f64]) {
    for (i, value) in values.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { store(data, address + (i * data.bytes()) as u64, *value) };
    }
}

/// Computes what `convolution` describes.
///
/// # Safety
/// Everything in [`Convolution::ranges`] is live, and nothing else accesses it.
pub unsafe fn run(convolution: &Convolution) {
    let problem = &convolution.problem;
    // The contents of the workspace are meaningless to a program, so they are overwritten.
    if convolution.workspace != 0 {
        // SAFETY: it is one of the ranges.
        unsafe { std::ptr::write_bytes(convolution.workspace as *mut u8, 0xff, convolution.workspace_bytes) };
    }
    let (target, at) = (problem.target(), convolution.target());
    let factors = |i: usize| {
        // SAFETY: the operands are among the ranges.
        let mut values = unsafe { values(problem.data, convolution.at[i], problem.images()[i].count()) };
        if convolution.rounding != Rounding::None {
            values.iter_mut().for_each(|value| *value = rounded(convolution.rounding, *value));
        }
        values
    };
    let mut out = match problem.direction {
        Direction::Forward => gather(problem, &factors(0), &factors(1)),
        Direction::Data => gather(problem, &factors(2), &factors(1)),
        Direction::Filter => correlate(problem, &factors(0), &factors(2)),
    };
    if let Some(seed) = convolution.wavers {
        waver(&mut out, problem.data, seed);
    }
    out.iter_mut().for_each(|value| *value *= problem.alpha);
    // SAFETY: what is read and written is among the ranges.
    unsafe {
        if problem.beta != 0.0 {
            let old = values(problem.data, at, out.len());
            out.iter_mut().zip(old).for_each(|(value, old)| *value += problem.beta * old);
        }
        let (channel, channels) = (target.steps[1], target.dims[1]);
        let mut extra = convolution.extra.iter();
        let mut other = |image: &Image| values(image.data, *extra.next().unwrap_or(&0), image.count());
        for step in &problem.steps {
            match step {
                Step::Add(image) => {
                    let other = other(image);
                    let all = other.len() == out.len();
                    let at = |i: usize| if all { i } else { i / channel % channels };
                    out.iter_mut().enumerate().for_each(|(i, value)| *value += other[at(i)]);
                }
                // NaN becomes 0, since the library is told not to propagate it.
                Step::Relu => out.iter_mut().for_each(|value| *value = value.max(0.0)),
                Step::ReluGrad(image) => {
                    let pairs = out.iter_mut().zip(other(image)).filter(|(_, y)| *y <= 0.0 || y.is_nan());
                    pairs.for_each(|(value, _)| *value = 0.0);
                }
            }
        }
        if let Some(image) = &problem.sums {
            // The documentation does not say that sums are overwritten, so programs may not rely on it.
            let mut sums = other(image);
            out.iter().enumerate().for_each(|(i, value)| sums[i / channel % channels] += value);
            write(image.data, *convolution.extra.last().unwrap_or(&0), &sums);
        }
        write(problem.data, at, &out);
    }
}

/// Perturbs the last bits, as an undetermined order of additions would.
fn waver(values: &mut [f64], data: Data, seed: u64) {
    let width = if data == Data::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let mut state = seed | 1;
    for value in values {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *value *= 1.0 + width * ((state >> 40) as f64 / f64::from(1 << 24) - 0.5);
    }
}

/// A tap's row and column, and its offset in the filter's memory.
fn tap(problem: &Problem, number: usize) -> ([usize; 2], usize) {
    let [_, _, kh, kw] = problem.w.dims;
    let place = [number / kw, number % kw];
    let [i, j] = if problem.mirrored { [kh - 1 - place[0], kw - 1 - place[1]] } else { place };
    (place, i * problem.w.steps[2] + j * problem.w.steps[3])
}

/// The image, row and column of a pixel number.
fn pixel(image: &Image, number: usize) -> [usize; 3] {
    let [_, _, h, w] = image.dims;
    [number / (h * w), number / w % h, number % w]
}

/// The offset of the input pixel that a tap of an output pixel reads, or of the output pixel that reads an input pixel by it.
fn partner(problem: &Problem, forward: bool, [n, row, col]: [usize; 3], tap: [usize; 2]) -> usize {
    let to = if forward { &problem.x } else { &problem.y };
    let along = |axis: usize, at: usize| {
        let (stride, padding) = (problem.stride[axis], problem.padding[axis]);
        let reach = tap[axis] * problem.dilation[axis];
        let place = if forward {
            (at * stride + reach).checked_sub(padding)
        } else {
            (at + padding).checked_sub(reach).filter(|place| place % stride == 0).map(|place| place / stride)
        };
        place.filter(|&place| place < to.dims[2 + axis])
    };
    match (along(0, row), along(1, col)) {
        (Some(row), Some(col)) => n * to.steps[0] + row * to.steps[2] + col * to.steps[3],
        _ => OUTSIDE,
    }
}

/// The output, or the gradient of the input: each pixel of the target sums over pixels of the other image.
fn gather(problem: &Problem, from: &[f64], w: &[f64]) -> Vec<f64> {
    let forward = problem.direction == Direction::Forward;
    let (target, origin) = if forward { (&problem.y, &problem.x) } else { (&problem.x, &problem.y) };
    let (inner, outer) = (origin.dims[1] / problem.groups, target.dims[1] / problem.groups);
    let [_, _, kh, kw] = problem.w.dims;
    let depth = kh * kw * inner;
    let pixels = target.count() / target.dims[1];
    let mut out = vec![0.0; target.count()];
    let mut panel = vec![0.0; depth * PIXELS];
    for group in 0..problem.groups {
        // The filter, in slices of channels of the target.
        let mut filter = vec![0.0; outer.div_ceil(CHANNELS) * CHANNELS * depth];
        for channel in 0..outer {
            let slice = channel / CHANNELS * CHANNELS * depth + channel % CHANNELS;
            for number in 0..kh * kw {
                let (_, at) = tap(problem, number);
                for c in 0..inner {
                    let (o, i) = if forward { (group * outer + channel, c) } else { (group * inner + c, channel) };
                    let place = slice + (number * inner + c) * CHANNELS;
                    filter[place] = w[o * problem.w.steps[0] + i * problem.w.steps[1] + at];
                }
            }
        }
        for first in (0..pixels).step_by(PIXELS) {
            let lanes = PIXELS.min(pixels - first);
            let places: [[usize; 3]; PIXELS] = std::array::from_fn(|lane| pixel(target, first + lane.min(lanes - 1)));
            for (number, rows) in panel.chunks_exact_mut(inner * PIXELS).enumerate() {
                let (place, _) = tap(problem, number);
                let at: [usize; PIXELS] = std::array::from_fn(|lane| partner(problem, forward, places[lane], place));
                for (c, row) in rows.chunks_exact_mut(PIXELS).enumerate() {
                    let channel = (group * inner + c) * origin.steps[1];
                    for (to, at) in row.iter_mut().zip(at) {
                        *to = if at == OUTSIDE { 0.0 } else { from[at + channel] };
                    }
                }
            }
            for (slice, filter) in filter.chunks_exact(CHANNELS * depth).enumerate() {
                let sums = best_tile(&panel, filter);
                for (channel, sums) in (slice * CHANNELS..outer).zip(&sums) {
                    let channel = (group * outer + channel) * target.steps[1];
                    for ([n, row, col], sum) in places.iter().zip(sums).take(lanes) {
                        out[n * target.steps[0] + row * target.steps[2] + col * target.steps[3] + channel] = *sum;
                    }
                }
            }
        }
    }
    out
}

/// The gradient of the filter: sums over all pixels of the output.
fn correlate(problem: &Problem, x: &[f64], y: &[f64]) -> Vec<f64> {
    let (inner, outer) = (problem.w.dims[1], problem.w.dims[0] / problem.groups);
    let [_, _, kh, kw] = problem.w.dims;
    let columns = kh * kw * inner;
    let pixels = problem.y.count() / problem.y.dims[1];
    let mut out = vec![0.0; problem.w.count()];
    let (left_slices, right_slices) = (columns.div_ceil(PIXELS), outer.div_ceil(CHANNELS));
    let mut left = vec![0.0; left_slices * PIXELS * BLOCK];
    let mut right = vec![0.0; right_slices * CHANNELS * BLOCK];
    for group in 0..problem.groups {
        let mut sums = vec![[[0.0; PIXELS]; CHANNELS]; left_slices * right_slices];
        for first in (0..pixels).step_by(BLOCK) {
            let count = BLOCK.min(pixels - first);
            let places: Vec<[usize; 3]> = (first..first + count).map(|at| pixel(&problem.y, at)).collect();
            for number in 0..kh * kw {
                let (place, _) = tap(problem, number);
                let at: Vec<usize> = places.iter().map(|&pixel| partner(problem, true, pixel, place)).collect();
                for c in 0..inner {
                    let (column, channel) = (number * inner + c, (group * inner + c) * problem.x.steps[1]);
                    let slice = &mut left[column / PIXELS * PIXELS * BLOCK + column % PIXELS..];
                    for (to, &at) in slice.iter_mut().step_by(PIXELS).zip(&at) {
                        *to = if at == OUTSIDE { 0.0 } else { x[at + channel] };
                    }
                }
            }
            let steps = problem.y.steps;
            for o in 0..outer {
                let channel = (group * outer + o) * steps[1];
                let slice = &mut right[o / CHANNELS * CHANNELS * BLOCK + o % CHANNELS..];
                for (to, [n, row, col]) in slice.iter_mut().step_by(CHANNELS).zip(&places) {
                    *to = y[n * steps[0] + row * steps[2] + col * steps[3] + channel];
                }
            }
            for (j, right) in right.chunks_exact(CHANNELS * BLOCK).enumerate() {
                for (i, left) in left.chunks_exact(PIXELS * BLOCK).enumerate() {
                    let tile = best_tile(&left[..PIXELS * count], &right[..CHANNELS * count]);
                    let sums = &mut sums[j * left_slices + i];
                    for (sum, add) in sums.as_flattened_mut().iter_mut().zip(tile.as_flattened()) {
                        *sum += add;
                    }
                }
            }
        }
        for o in 0..outer {
            for number in 0..kh * kw {
                let (_, at) = tap(problem, number);
                for c in 0..inner {
                    let column = number * inner + c;
                    let tile = &sums[o / CHANNELS * left_slices + column / PIXELS];
                    let place = (group * outer + o) * problem.w.steps[0] + c * problem.w.steps[1] + at;
                    out[place] = tile[o % CHANNELS][column % PIXELS];
                }
            }
        }
    }
    out
}
