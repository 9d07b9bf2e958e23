//! `conv3d` and its gradients: convolutions of planes, which read those of a window of depths as their channels, in place.
//!
//! A plane of the output is a convolution over height and width of `C · kd` channels: the planes of every input channel that
//! the kernel's planes meet. As an [`Image`] these are an axis of two strides, so nothing is copied. Depths at which the same
//! planes of the kernel lie inside the volume are images of one call ([`Window`]); the gradient of the input is the same once
//! for each residue class of depths modulo the stride. That of the weight is a call for each plane of the kernel.

use std::ops::Range;

use kiln_backend::{
    Checked, Conv2d, Conv3d, Conv3dArgs, Conv3dBackend, Conv3dGradInputArgs, Conv3dGradWeightArgs, Result,
};

use super::conv2d::values_of_bias;
use crate::{
    conv::{
        compute::Compute,
        groups::{self, ChannelOrder, Group},
    },
    device::CpuBackend,
    engine::image::{Axis, Image},
    memory::{
        erased::{Erased, ErasedPtr},
        view::{Source, Target},
    },
    numeric::dispatch::for_float,
};

impl Conv3dBackend for CpuBackend {
    fn conv3d(&self, args: Checked<Conv3dArgs>) -> Result<()> {
        const OP: &str = "conv3d";
        let Conv3dArgs { rule, x, w, bias, out } = args.into_inner();
        for_float!(OP, x.dtype(), S => {
            let bias = bias.map(|bias| Source::<S>::new(OP, bias)).transpose()?;
            let (x, w, out) = (Source::<S>::new(OP, x)?, Source::<S>::new(OP, w)?, Target::<S>::new(OP, out)?);
            forward(&rule, x.erased(), w.erased(), bias.map(Source::erased), out.erased())
        })
    }

    fn conv3d_grad_input(&self, args: Checked<Conv3dGradInputArgs>) -> Result<()> {
        const OP: &str = "conv3d_grad_input";
        let Conv3dGradInputArgs { rule, grad, w, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, w, out) = (Source::<S>::new(OP, grad)?, Source::<S>::new(OP, w)?, Target::<S>::new(OP, out)?);
            grad_input(&rule, grad.erased(), w.erased(), out.erased())
        })
    }

    fn conv3d_grad_weight(&self, args: Checked<Conv3dGradWeightArgs>) -> Result<()> {
        const OP: &str = "conv3d_grad_weight";
        let Conv3dGradWeightArgs { rule, grad, x, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, x, out) = (Source::<S>::new(OP, grad)?, Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            grad_weight(&rule, grad.erased(), x.erased(), out.erased())
        })
    }
}

/// A tensor of five dimensions: volumes `[N, C, D, H, W]` or a weight `[O, C / groups, kd, kh, kw]`.
struct Volumes<T: 'static> {
    ptr: ErasedPtr<T>,
    axes: [Axis; 5],
}

impl<T: Compute> Volumes<T> {
    fn new(tensor: &Erased<T>) -> Volumes<T> {
        let (dims, strides) = (tensor.layout().dims(), tensor.layout().strides());
        let axis = |i: usize| (dims.get(i).map_or(1, |&extent| extent), strides.get(i).map_or(0, |&stride| stride));
        Volumes { ptr: tensor.ptr(), axes: std::array::from_fn(axis) }
    }

    fn depth(&self) -> usize {
        self.axes[2].0
    }

    /// Some indices along the first two dimensions.
    fn part(&self, first: Range<usize>, channels: Range<usize>) -> Volumes<T> {
        let mut axes = self.axes;
        (axes[0].0, axes[1].0) = (first.len(), channels.len());
        let offset = first.start as isize * axes[0].1 + channels.start as isize * axes[1].1;
        Volumes { ptr: self.ptr.offset(offset), axes }
    }

    /// The part of the first dimension that belongs to a group, of filters.
    fn group_of_filters(&self, g: usize, groups: usize) -> Volumes<T> {
        let per = self.axes[0].0 / groups;
        self.part(g * per..(g + 1) * per, 0..self.axes[1].0)
    }

    /// The channels that belong to a group, of volumes.
    fn group_of_channels(&self, g: usize, groups: usize) -> Volumes<T> {
        let per = self.axes[1].0 / groups;
        self.part(0..self.axes[0].0, g * per..(g + 1) * per)
    }

    /// A run of planes as an axis: the stride between them.
    fn planes(&self, run: Run) -> Axis {
        (run.count, run.step * self.axes[2].1)
    }

    /// Images for each index of the first dimension and each depth of `images`, with a channel for each channel and depth
    /// of `channels`, which begin where `images` does.
    fn images(&self, images: Run, channels: Run, order: ChannelOrder) -> Image<T> {
        let [n, c, _, h, w] = self.axes;
        let (first, inner) = (images.first + channels.first, self.planes(channels));
        let channels = if order == ChannelOrder::PlanesInner { [c, inner] } else { [inner, c] };
        Image::of_planes(self.ptr.offset(first * self.axes[2].1), [n, self.planes(images)], channels, h, w)
    }

    /// Filters with an output channel for each index of the first dimension and each plane of `outputs`.
    fn filters_by_output(&self, outputs: Run) -> Image<T> {
        let [o, c, _, h, w] = self.axes;
        let ptr = self.ptr.offset(outputs.first * self.axes[2].1);
        Image::of_planes(ptr, [self.planes(outputs), o], [(1, 0), c], h, w)
    }
}

/// Positions along the depth, evenly spaced. The first may be relative to another position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: isize,
    count: usize,
    step: isize,
}

impl Run {
    /// A single position.
    const ONE: Run = Run { first: 0, count: 1, step: 0 };
}

/// Depths of the tensor that is written for which the same planes of the kernel, `taps` of a list of them, meet planes of the
/// tensor that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    depths: Range<usize>,
    taps: Range<usize>,
}

/// Cuts depths into windows. `first(tap)` is the depth that a tap meets at depth 0; at the next depth it is `step` further on.
fn windows(depths: usize, step: usize, taps: usize, first: impl Fn(usize) -> isize, inside: usize) -> Vec<Window> {
    let mut all: Vec<Window> = Vec::new();
    for depth in 0..depths {
        let meets = |tap: &usize| (0..inside as isize).contains(&(first(*tap) + (depth * step) as isize));
        // What taps meet is evenly spaced, so those that meet something follow each other.
        let start = (0..taps).find(meets).unwrap_or(taps);
        let end = (start..taps).find(|tap| !meets(tap)).unwrap_or(taps);
        match all.last_mut() {
            Some(last) if last.taps == (start..end) => last.depths.end = depth + 1,
            _ => all.push(Window { depths: depth..depth + 1, taps: start..end }),
        }
    }
    all
}

/// The rule within planes.
fn of_planes(rule: &Conv3d) -> Conv2d {
    let Conv3d { stride: [_, s, t], padding: [_, p, q], dilation: [_, d, e], groups } = *rule;
    Conv2d { stride: [s, t], padding: [p, q], dilation: [d, e], groups }
}

fn forward<T: Compute>(
    rule: &Conv3d,
    x: Erased<T>,
    w: Erased<T>,
    bias: Option<Erased<T>>,
    out: Erased<T>,
) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let bias = bias.map(values_of_bias);
    let (x, w, y) = (Volumes::new(&x), Volumes::new(&w), Volumes::new(&out));
    let (stride, dilation) = (rule.stride[0], rule.dilation[0] as isize);
    let met = |tap: usize| tap as isize * dilation - rule.padding[0] as isize;
    for Window { depths, taps } in windows(y.depth(), stride, w.depth(), met, x.depth()) {
        let outputs = Run { first: depths.start as isize, count: depths.len(), step: 1 };
        let inputs = Run { first: (depths.start * stride) as isize, count: depths.len(), step: stride as isize };
        let read = Run { first: met(taps.start), count: taps.len(), step: dilation };
        let kernel = Run { first: taps.start as isize, count: taps.len(), step: 1 };
        let group = |g: usize, order: ChannelOrder| Group {
            x: x.group_of_channels(g, rule.groups).images(inputs, read, order),
            w: w.group_of_filters(g, rule.groups).images(Run::ONE, kernel, order),
            y: y.group_of_channels(g, rule.groups).images(outputs, Run::ONE, order),
        };
        // SAFETY: the views were checked, and their extents fit together; windows have only taps that meet planes; the output is
        // exclusively borrowed.
        unsafe { groups::forward(&of_planes(rule), &group, bias.as_deref(), false)? };
    }
    Ok(())
}

fn grad_input<T: Compute>(rule: &Conv3d, grad: Erased<T>, w: Erased<T>, out: Erased<T>) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let (x, w, y) = (Volumes::new(&out), Volumes::new(&w), Volumes::new(&grad));
    let (stride, dilation, padding) = (rule.stride[0], rule.dilation[0], rule.padding[0]);
    for phase in 0..stride.min(x.depth()) {
        // The taps by which depths `stride * q + phase` are read at all, each at another distance from `q`.
        let taps: Vec<usize> = (0..w.depth())
            .filter(|tap| ((phase + padding) as isize - (tap * dilation) as isize) % stride as isize == 0)
            .collect();
        let met = |i: usize| ((phase + padding) as isize - (taps[i] * dilation) as isize) / stride as isize;
        let distance = |of: &dyn Fn(usize) -> isize| if taps.len() > 1 { of(1) - of(0) } else { 0 };
        let (between_taps, between_planes) = (distance(&|i| taps[i] as isize), distance(&met));
        let depths = (x.depth() - phase).div_ceil(stride);
        for window in windows(depths, 1, taps.len(), met, y.depth()) {
            let (depths, range) = (window.depths, window.taps);
            // Without taps nothing is read, wherever it would be.
            let (first_tap, first_plane) =
                if range.is_empty() { (0, 0) } else { (taps[range.start], met(range.start)) };
            let inputs =
                Run { first: (depths.start * stride + phase) as isize, count: depths.len(), step: stride as isize };
            let outputs = Run { first: depths.start as isize, count: depths.len(), step: 1 };
            let read = Run { first: first_plane, count: range.len(), step: between_planes };
            let kernel = Run { first: first_tap as isize, count: range.len(), step: between_taps };
            // Output channels of the filters are numbered as the channels of the gradient: all of a plane, and then the next.
            let group = |g: usize, _| Group {
                x: x.group_of_channels(g, rule.groups).images(inputs, Run::ONE, ChannelOrder::PlanesOuter),
                w: w.group_of_filters(g, rule.groups).filters_by_output(kernel),
                y: y.group_of_channels(g, rule.groups).images(outputs, read, ChannelOrder::PlanesOuter),
            };
            // SAFETY: as in `forward`.
            unsafe { groups::grad_input(&of_planes(rule), &group)? };
        }
    }
    Ok(())
}

fn grad_weight<T: Compute>(rule: &Conv3d, grad: Erased<T>, x: Erased<T>, out: Erased<T>) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let (x, w, y) = (Volumes::new(&x), Volumes::new(&out), Volumes::new(&grad));
    let stride = rule.stride[0];
    for tap in 0..w.depth() {
        // The depths of the output at which this plane of the kernel meets a plane of the input.
        let met = |depth: usize| (depth * stride + tap * rule.dilation[0]).checked_sub(rule.padding[0]);
        let meets = |depth: &usize| met(*depth).is_some_and(|plane| plane < x.depth());
        let start = (0..y.depth()).find(meets).unwrap_or(0);
        let count = (start..y.depth()).take_while(meets).count();
        let outputs = Run { first: start as isize, count, step: 1 };
        let inputs = Run { first: met(start).unwrap_or(0) as isize, count, step: stride as isize };
        let kernel = Run { first: tap as isize, ..Run::ONE };
        let group = |g: usize, order: ChannelOrder| Group {
            x: x.group_of_channels(g, rule.groups).images(inputs, Run::ONE, order),
            w: w.group_of_filters(g, rule.groups).images(kernel, Run::ONE, order),
            y: y.group_of_channels(g, rule.groups).images(outputs, Run::ONE, order),
        };
        // SAFETY: as in `forward`.
        unsafe { groups::grad_weight(&of_planes(rule), &group)? };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_the_taps_that_meet_planes() {
        let window = |depths, taps| Window { depths, taps };
        // Three taps over five depths with padding; dilated taps that are far apart; taps that meet nothing.
        let near = windows(5, 1, 3, |tap| tap as isize - 1, 5);
        assert_eq!(near, [window(0..1, 1..3), window(1..4, 0..3), window(4..5, 0..2)]);
        let far = windows(4, 2, 2, |tap| 3 * tap as isize - 2, 5);
        assert_eq!(far, [window(0..1, 1..2), window(1..2, 0..2), window(2..4, 0..1)]);
        assert_eq!(windows(2, 1, 1, |_| 7, 3), [window(0..2, 1..1)]);
        assert_eq!(windows(1, 1, 0, |_| 0, 3), [window(0..1, 0..0)]);
    }
}
