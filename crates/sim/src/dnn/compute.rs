//! Computes a convolution as products over blocks of pixels, with sums in `f64` and one rounding to the output's type.
use super::fusion::Step;
use super::operation::Direction;
use super::problem::Problem;
use super::work::Convolution;
use crate::blas::compute::{load_all, poison, rounded, store_all};
use crate::blas::kernel::product;
use crate::blas::problem::{Data, Rounding};

/// Pixels of a block.
const BLOCK: usize = 512;
/// An offset that stands for padding.
const OUTSIDE: usize = usize::MAX;

/// Computes what `convolution` describes.
///
/// # Safety
/// Everything in [`Convolution::ranges`] is live, and nothing else accesses it.
pub unsafe fn run(convolution: &Convolution) {
    let Convolution { problem, rounding, at, .. } = convolution;
    // SAFETY: it is one of the ranges.
    unsafe { poison(convolution.workspace, convolution.workspace_bytes) };
    // SAFETY: the tensors are among the ranges.
    let values = |i: usize| unsafe { load_all(problem.tensors[i].data, at[i], problem.tensors[i].count()) };
    let (target, result) = (problem.target(), problem.direction.result());
    let factors = [0, 1, 2].map(|i| {
        let mut values = if i == result { vec![0.0; target.count()] } else { values(i) };
        if *rounding != Rounding::None {
            values.iter_mut().for_each(|value| *value = rounded(*rounding, *value));
        }
        values
    });
    let mut out = convolve(problem, factors);
    if let Some(seed) = convolution.wavers {
        waver(&mut out, problem.data, seed);
    }
    out.iter_mut().for_each(|value| *value *= problem.alpha);
    if problem.beta != 0.0 {
        out.iter_mut().zip(values(result)).for_each(|(value, old)| *value += problem.beta * old);
    }
    let channel_of = |i: usize| i / target.steps[1] % target.dims[1];
    let mut operands = 3..;
    for step in &problem.steps {
        let mut other = || operands.next().map_or_else(Vec::new, values);
        match step {
            Step::Add => {
                let other = other();
                let place = |i: usize| if other.len() == target.count() { i } else { channel_of(i) };
                out.iter_mut().enumerate().for_each(|(i, value)| *value += other[place(i)]);
            }
            // NaN becomes 0, since the library is not told to propagate it.
            Step::Relu => out.iter_mut().for_each(|value| *value = value.max(0.0)),
            Step::ReluGrad => {
                let pairs = out.iter_mut().zip(other()).filter(|(_, y)| *y <= 0.0 || y.is_nan());
                pairs.for_each(|(value, _)| *value = 0.0);
            }
            Step::Sums => {
                // The documentation does not say that sums are overwritten, so programs may not rely on it.
                let mut sums = other();
                out.iter().enumerate().for_each(|(i, value)| sums[channel_of(i)] += value);
                let last = at.len() - 1;
                // SAFETY: the sums are among the ranges.
                unsafe { store_all(problem.tensors[last].data, at[last], &sums) };
            }
        }
    }
    // SAFETY: the output is among the ranges.
    unsafe { store_all(target.data, at[result], &out) };
}

/// Perturbs the last bits, as an undetermined order of additions would.
pub fn waver(values: &mut [f64], data: Data, seed: u64) {
    let width = if data == Data::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let mut state = seed | 1;
    for value in values {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *value *= 1.0 + width * ((state >> 40) as f64 / f64::from(1 << 24) - 0.5);
    }
}

/// The offset of the input pixel that a tap of an output pixel reads or, if not `forward`, of the output pixel that
/// reads an input pixel by that tap.
fn partner(problem: &Problem, forward: bool, [n, depth, row, col]: [usize; 4], tap: [usize; 3]) -> usize {
    let [x, _, y] = problem.images();
    let to = if forward { x } else { y };
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
    match (along(0, depth), along(1, row), along(2, col)) {
        (Some(depth), Some(row), Some(col)) => {
            n * to.steps[0] + depth * to.steps[2] + row * to.steps[3] + col * to.steps[4]
        }
        _ => OUTSIDE,
    }
}

/// The result for the values of x, w and y, one of which is what it is added to.
///
/// For each group and block of pixels it is a product with the matrix of what the taps of each pixel meet in all
/// channels of the other image: output and input gradient are this matrix times the filter; the filter's gradient is
/// the sum over all blocks of its transpose times the output's gradient.
fn convolve(problem: &Problem, [mut x, mut w, mut y]: [Vec<f64>; 3]) -> Vec<f64> {
    let [x_image, w_image, y_image] = problem.images();
    let forward = problem.direction != Direction::Data;
    // `to` is the image whose pixels are gone through, `from` the one that their taps meet.
    let (to_image, to, from_image, from) =
        if forward { (y_image, &mut y, x_image, &x) } else { (x_image, &mut x, y_image, &y) };
    let (inner, outer) = (from_image.dims[1] / problem.groups, to_image.dims[1] / problem.groups);
    let [.., kd, kh, kw] = w_image.dims;
    let [_, _, depth, height, width] = to_image.dims;
    let taps: Vec<[usize; 3]> = (0..kd * kh * kw).map(|tap| [tap / (kh * kw), tap / kw % kh, tap % kw]).collect();
    // The columns of the matrix: tap, and channel of `from`.
    let columns: Vec<[usize; 2]> = (0..taps.len()).flat_map(|tap| (0..inner).map(move |c| [tap, c])).collect();
    let area = height * width;
    let pixels = to_image.dims[0] * depth * area;
    for first in (0..pixels).step_by(BLOCK) {
        let count = BLOCK.min(pixels - first);
        let place = |i: usize| [i / (depth * area), i / area % depth, i / width % height, i % width];
        let places: Vec<[usize; 4]> = (first..first + count).map(place).collect();
        let met: Vec<usize> =
            taps.iter().flat_map(|tap| places.iter().map(|place| partner(problem, forward, *place, *tap))).collect();
        for group in 0..problem.groups {
            let matrix = |pixel: usize, column: usize| {
                let [tap, c] = columns[column];
                match met[tap * count + pixel] {
                    OUTSIDE => 0.0,
                    at => from[at + (group * inner + c) * from_image.steps[1]],
                }
            };
            let to_at = |pixel: usize, channel: usize| {
                let [n, plane, row, col] = places[pixel];
                let [image, channels, planes, rows, cols] = to_image.steps;
                n * image + (group * outer + channel) * channels + plane * planes + row * rows + col * cols
            };
            let w_at = |column: usize, channel: usize| {
                let ([tap, c], [outputs, inputs, planes, rows, cols]) = (columns[column], w_image.steps);
                let [plane, i, j] = taps[if problem.mirrored { taps.len() - 1 - tap } else { tap }];
                let (o, c) = if forward { (group * outer + channel, c) } else { (group * inner + c, channel) };
                o * outputs + c * inputs + plane * planes + i * rows + j * cols
            };
            let terms = columns.len();
            if problem.direction == Direction::Filter {
                let gradient = |pixel, channel| to[to_at(pixel, channel)];
                let sums = product([terms, outer, count], |column, pixel| matrix(pixel, column), gradient);
                for (i, sum) in sums.into_iter().enumerate() {
                    w[w_at(i % terms, i / terms)] += sum;
                }
            } else {
                let sums = product([count, outer, terms], matrix, |column, channel| w[w_at(column, channel)]);
                for (i, sum) in sums.into_iter().enumerate() {
                    to[to_at(i % count, i / count)] = sum;
                }
            }
        }
    }
    match problem.direction {
        Direction::Forward => y,
        Direction::Data => x,
        Direction::Filter => w,
    }
}
