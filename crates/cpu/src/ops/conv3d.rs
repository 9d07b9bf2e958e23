//! `conv3d` and its gradients: convolutions of planes, which read those of a window of depths as their channels, in place.
//!
//! A plane of the output is a convolution over height and width of `C · kd` channels: the planes of every input channel that
//! the kernel's planes meet, or zeros where these lie in the padding. As an [`Image`] these are an axis of two strides, so nothing
//! is copied, and all planes of a batch are one call. The gradient of the input is the same once for each residue class of depths
//! modulo the stride.

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
    engine::image::{Axis, Depths, Image},
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
    /// of `channels`, which are relative to the image's. Depths that the volumes do not have are padding.
    fn images(&self, images: Run, channels: Run, order: ChannelOrder) -> Image<T> {
        let [n, c, (inside, stride), h, w] = self.axes;
        let (first, planes) = (images.first + channels.first, self.planes(channels));
        let (axes, in_a_plane) = match order {
            ChannelOrder::PlanesInner => ([c, planes], 1),
            ChannelOrder::PlanesOuter => ([planes, c], c.0),
        };
        let depths = Depths {
            inside,
            first,
            between_images: images.step,
            between_planes: channels.step,
            images: images.count,
            channels: in_a_plane,
            planes: channels.count,
        };
        let ptr = self.ptr.offset(first * stride);
        Image::of_planes(ptr, [n, self.planes(images)], axes, h, w).of_depths(depths)
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

    /// This many positions from the first on.
    fn all(count: usize) -> Run {
        Run { first: 0, count, step: 1 }
    }
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
    let group = group_of(rule, &x, &w, &y);
    // SAFETY: the views were checked, and their extents fit together; planes outside the volume are marked; the output is
    // exclusively borrowed.
    unsafe { groups::forward(&of_planes(rule), &group, bias.as_deref(), false) }
}

/// The groups of a convolution: images are the planes of the output, channels those of the input that the kernel's planes meet.
fn group_of<T: Compute>(
    rule: &Conv3d,
    x: &Volumes<T>,
    w: &Volumes<T>,
    y: &Volumes<T>,
) -> impl Fn(usize, ChannelOrder) -> Group<T> {
    let (stride, padding, dilation) = (rule.stride[0] as isize, rule.padding[0] as isize, rule.dilation[0] as isize);
    let inputs = Run { first: -padding, count: y.depth(), step: stride };
    let read = Run { first: 0, count: w.depth(), step: dilation };
    move |g, order| Group {
        x: x.group_of_channels(g, rule.groups).images(inputs, read, order),
        w: w.group_of_filters(g, rule.groups).images(Run::ONE, Run::all(w.depth()), order),
        y: y.group_of_channels(g, rule.groups).images(Run::all(y.depth()), Run::ONE, order),
    }
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
        // Without taps nothing is read, wherever it would be.
        let (first_tap, first_plane) = taps.first().map_or((0, 0), |tap| (*tap as isize, met(0)));
        let inputs = Run { first: phase as isize, count: depths, step: stride as isize };
        let read = Run { first: first_plane, count: taps.len(), step: between_planes };
        let kernel = Run { first: first_tap, count: taps.len(), step: between_taps };
        // Output channels of the filters are numbered as the channels of the gradient: all of a plane, and then the next.
        let group = |g: usize, _| Group {
            x: x.group_of_channels(g, rule.groups).images(inputs, Run::ONE, ChannelOrder::PlanesOuter),
            w: w.group_of_filters(g, rule.groups).filters_by_output(kernel),
            y: y.group_of_channels(g, rule.groups).images(Run::all(depths), read, ChannelOrder::PlanesOuter),
        };
        // SAFETY: as in `forward`.
        unsafe { groups::grad_input(&of_planes(rule), &group)? };
    }
    Ok(())
}

fn grad_weight<T: Compute>(rule: &Conv3d, grad: Erased<T>, x: Erased<T>, out: Erased<T>) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let (x, w, y) = (Volumes::new(&x), Volumes::new(&out), Volumes::new(&grad));
    // SAFETY: as in `forward`.
    unsafe { groups::grad_weight(&of_planes(rule), &group_of(rule, &x, &w, &y)) }
}
