//! The three computations of a convolution, group by group: each chooses between Winograd's algorithm and the general one.

use std::ops::Range;

use kiln_backend::{Conv2d, Result};

use super::{
    compute::Compute,
    convolve, grad_weight as general,
    taps::Taps,
    weights::{Weights, copy_filters, copy_filters_transposed},
    winograd::{self, Filters},
};
use crate::{engine::image::Image, gemm::kernels, memory::allocator::Scratch};

/// One group: the layer's input, its filters, and its output. One of them is written.
pub(crate) struct Group<T: 'static> {
    pub(crate) x: Image<T>,
    pub(crate) w: Image<T>,
    pub(crate) y: Image<T>,
}

/// How the channels are numbered that a kernel of a volume reads: by channel and plane of the kernel. Images have one plane,
/// and so one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelOrder {
    /// A channel's planes follow each other, as in the weight.
    PlanesInner,
    /// All channels of a plane follow each other, so that vectors of channels are of one plane.
    PlanesOuter,
}

/// The group of an index, in an order of its channels.
pub(crate) type Groups<'a, T> = &'a dyn Fn(usize, ChannelOrder) -> Group<T>;

/// The convolution, plus bias, then ReLU if asked, of an output that has elements.
///
/// # Safety
/// The images of all groups are readable, and those of `y` writable; their extents fit together by `rule`; `y`'s elements are
/// distinct and in no other image.
pub(crate) unsafe fn forward<T: Compute>(
    rule: &Conv2d,
    groups: Groups<'_, T>,
    bias: Option<&[T]>,
    relu: bool,
) -> Result<()> {
    let Group { w, y, .. } = groups(0, ChannelOrder::PlanesOuter);
    let (outputs, kernel) = (w.n, [w.h, w.w]);
    let bias_of = |g: usize| bias.map(|bias| &bias[g * outputs..(g + 1) * outputs]);
    if winograd::suits(rule, kernel, [w.c, outputs], [y.n, y.h, y.w]) {
        let mut done = true;
        for g in 0..rule.groups {
            let Group { x, w, y } = groups(g, ChannelOrder::PlanesOuter);
            let dense_planes = w.dense_planes();
            let copy = |outputs: Range<usize>, inputs: Range<usize>, to: &mut [T]| {
                for (o, to) in outputs.zip(to.chunks_exact_mut(9 * inputs.len())) {
                    // SAFETY: some of the filters, which are 3×3.
                    unsafe {
                        if dense_planes {
                            w.ptr.offset(w.at(o, inputs.start, 0, 0)).gather(1, to.len(), to.as_mut_ptr());
                        } else {
                            let planes = inputs.clone().zip(to.chunks_exact_mut(9));
                            planes.for_each(|(c, to)| w.gather_plane(o, c, to.as_mut_ptr()));
                        }
                    }
                }
            };
            // SAFETY: the group's filters, which follow each other and are borrowed meanwhile.
            let dense = w.dense().map(|start| unsafe { std::slice::from_raw_parts(start, outputs * w.c * 9) });
            let filters = Filters { dense, copy: &copy };
            // SAFETY: the caller's promise.
            done = done && unsafe { T::winograd(x, rule.padding, filters, bias_of(g), relu, y)? };
        }
        if done {
            return Ok(());
        }
    }
    let taps = Taps::forward(rule, kernel);
    let kern = kernels::best::<T>();
    let columns = w.c * taps.len();
    let per = outputs * columns;
    let mut copied: Option<Scratch<T>> = None;
    for g in 0..rule.groups {
        let Group { x, w, y } = groups(g, ChannelOrder::PlanesInner);
        // SAFETY: the group's part of the filters, which are borrowed meanwhile.
        let values = unsafe {
            if let Some(start) = w.dense().filter(|_| per > 0) {
                std::slice::from_raw_parts(start, per)
            } else {
                let copied = match &mut copied {
                    Some(copied) => copied,
                    none => none.insert(Scratch::new(per)?),
                };
                copy_filters(&w, 0..outputs, copied.values());
                &*copied.values()
            }
        };
        let weights = Weights { values, rows: outputs, columns, bias: bias_of(g) };
        // SAFETY: the caller's promise.
        unsafe { convolve(kern, x, &taps, weights, relu, y)? };
    }
    Ok(())
}

/// The gradient with respect to the input, which has elements.
///
/// # Safety
/// As [`forward`], but that `x` is written.
pub(crate) unsafe fn grad_input<T: Compute>(rule: &Conv2d, groups: Groups<'_, T>) -> Result<()> {
    let Group { x, w, .. } = groups(0, ChannelOrder::PlanesOuter);
    let kernel = [w.h, w.w];
    if winograd::suits(rule, kernel, [w.c, w.n], [x.n, x.h, x.w]) {
        let mut done = true;
        for g in 0..rule.groups {
            let Group { x, w, y } = groups(g, ChannelOrder::PlanesOuter);
            // The kernels rotated by 180°, with input and output channels exchanged.
            let copy = |outputs: Range<usize>, inputs: Range<usize>, to: &mut [T]| {
                // In the order in which they lie in memory.
                for (i, o) in inputs.clone().enumerate() {
                    for (at, c) in outputs.clone().enumerate() {
                        let to = &mut to[(at * inputs.len() + i) * 9..][..9];
                        // SAFETY: one of the filters, which are 3×3.
                        unsafe { w.gather_plane(o, c, to.as_mut_ptr()) };
                        to.reverse();
                    }
                }
            };
            let filters = Filters { dense: None, copy: &copy };
            let padding = rule.padding.map(|padding| 2 - padding);
            // SAFETY: the caller's promise.
            done = done && unsafe { T::winograd(y, padding, filters, None, false, x)? };
        }
        if done {
            return Ok(());
        }
    }
    let kern = kernels::best::<T>();
    let mut weights = Scratch::<T>::new(w.c * w.n * kernel[0] * kernel[1])?;
    for phase in (0..rule.stride[0]).flat_map(|y| (0..rule.stride[1]).map(move |x| [y, x])) {
        if phase[0] >= x.h || phase[1] >= x.w {
            continue;
        }
        let taps = Taps::backward(rule, kernel, phase);
        let columns = w.n * taps.len();
        for g in 0..rule.groups {
            let Group { x, w, y } = groups(g, ChannelOrder::PlanesOuter);
            let weights = &mut weights.values()[..w.c * columns];
            // SAFETY: the group's filters, and taps of theirs.
            unsafe { copy_filters_transposed(&w, 0..w.n, &taps, weights) };
            let weights = Weights { values: weights, rows: w.c, columns, bias: None };
            // SAFETY: the caller's promise.
            unsafe { convolve(kern, y, &taps, weights, false, x.every(phase, rule.stride))? };
        }
    }
    Ok(())
}

/// The gradient with respect to the weight, which has elements.
///
/// # Safety
/// As [`forward`], but that `w` is written.
pub(crate) unsafe fn grad_weight<T: Compute>(rule: &Conv2d, groups: Groups<'_, T>) -> Result<()> {
    let Group { w, y, .. } = groups(0, ChannelOrder::PlanesOuter);
    let kernel = [w.h, w.w];
    if winograd::suits_grad_weight(rule, kernel, [w.c, w.n], [y.n, y.h, y.w]) {
        let mut done = true;
        for g in 0..rule.groups {
            let Group { x, w, y } = groups(g, ChannelOrder::PlanesOuter);
            let store = |o: usize, c: usize, taps: &[T; 9]| {
                // SAFETY: a filter's gradient, 3×3; each is stored once.
                unsafe { w.scatter_plane(o, c, taps.as_ptr()) };
            };
            // SAFETY: the caller's promise.
            done = done && unsafe { T::winograd_grad_weight(y, x, rule.padding, &store)? };
        }
        if done {
            return Ok(());
        }
    }
    let taps = Taps::forward(rule, kernel);
    let kern = kernels::best::<T>();
    for g in 0..rule.groups {
        let Group { x, w, y } = groups(g, ChannelOrder::PlanesInner);
        let dense = w.dense_planes();
        let store = |o: usize, row: &[T]| {
            // SAFETY: a filter's gradient, which is this row's alone.
            unsafe {
                if dense {
                    w.ptr.offset(w.at(o, 0, 0, 0)).scatter(row.as_ptr(), 1, row.len());
                } else {
                    row.chunks_exact(taps.len()).enumerate().for_each(|(c, row)| w.scatter_plane(o, c, row.as_ptr()));
                }
            }
        };
        // SAFETY: the caller's promise.
        unsafe { general::grad_weight(kern, y, x, &taps, &store)? };
    }
    Ok(())
}
