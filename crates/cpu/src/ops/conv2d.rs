//! `conv2d` and its gradients: chooses between Winograd's algorithm and the general one of
//! [`conv`](crate::conv).

use std::ops::Range;

use kiln_backend::{
    Arguments, BinaryAssignArgs, BinaryBackend, BinaryOp, Checked, Conv2d, Conv2dArgs, Conv2dBackend,
    Conv2dGradInputArgs, Conv2dGradWeightArgs, Operand, Result, Scalar,
};

use crate::{
    conv::{
        compute::Compute,
        convolve, grad_weight,
        taps::Taps,
        weights::{Weights, copy_filters, copy_filters_transposed},
        winograd,
    },
    device::CpuBackend,
    engine::image::Image,
    gemm::kernels,
    memory::{
        allocator::Scratch,
        erased::Erased,
        view::{Source, Target},
    },
    numeric::dispatch::for_float,
};

impl Conv2dBackend for CpuBackend {
    fn conv2d(&self, args: Checked<Conv2dArgs>) -> Result<()> {
        const OP: &str = "conv2d";
        let Conv2dArgs { rule, x, w, bias, residual, relu, mut out } = args.into_inner();
        if let Some(residual) = residual {
            let sum = out.reborrow();
            self.conv2d(Conv2dArgs { rule, x, w, bias, residual: None, relu: false, out: sum }.checked()?)?;
            let mut assign = |op, b| self.binary_assign(BinaryAssignArgs { op, b, out: out.reborrow() }.checked()?);
            assign(BinaryOp::Add, Operand::Tensor(residual))?;
            // Like ReLU, the maximum keeps NaN.
            return if relu { assign(BinaryOp::Maximum, Operand::Scalar(Scalar::Float(0.0))) } else { Ok(()) };
        }
        for_float!(OP, x.dtype(), S => {
            let bias = bias.map(|bias| Source::<S>::new(OP, bias)).transpose()?;
            let (x, w, out) = (Source::<S>::new(OP, x)?, Source::<S>::new(OP, w)?, Target::<S>::new(OP, out)?);
            forward(&rule, x.erased(), w.erased(), bias.map(Source::erased), relu, out.erased())
        })
    }

    fn conv2d_grad_input(&self, args: Checked<Conv2dGradInputArgs>) -> Result<()> {
        const OP: &str = "conv2d_grad_input";
        let Conv2dGradInputArgs { rule, grad, w, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, w, out) = (Source::<S>::new(OP, grad)?, Source::<S>::new(OP, w)?, Target::<S>::new(OP, out)?);
            grad_input(&rule, grad.erased(), w.erased(), out.erased())
        })
    }

    fn conv2d_grad_weight(&self, args: Checked<Conv2dGradWeightArgs>) -> Result<()> {
        const OP: &str = "conv2d_grad_weight";
        let Conv2dGradWeightArgs { rule, grad, x, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, x, out) = (Source::<S>::new(OP, grad)?, Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            grad_weight(&rule, grad.erased(), x.erased(), out.erased())
        })
    }
}

fn forward<T: Compute>(
    rule: &Conv2d,
    x: Erased<T>,
    w: Erased<T>,
    bias: Option<Erased<T>>,
    relu: bool,
    out: Erased<T>,
) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let e = rule.extents(w.layout());
    let (from, to, filters) = (Image::new(&x), Image::new(&out), Image::new(&w));
    let bias: Option<Vec<T>> = bias.map(|bias| {
        let step = bias.layout().strides()[0];
        // SAFETY: elements of the checked bias.
        (0..e.group_out * rule.groups).map(|o| unsafe { bias.ptr().offset(o as isize * step).load() }).collect()
    });
    let bias_of = |g: usize| bias.as_ref().map(|bias| &bias[g * e.group_out..(g + 1) * e.group_out]);
    if winograd::suits(rule, w.layout(), out.layout()) {
        let dense = filters.dense_planes();
        let mut done = true;
        for g in 0..rule.groups {
            let filter = |outputs: Range<usize>, inputs: Range<usize>, to: &mut [T]| {
                for (o, to) in outputs.zip(to.chunks_exact_mut(9 * inputs.len())) {
                    let o = g * e.group_out + o;
                    // SAFETY: some of the filters, which are 3×3.
                    unsafe {
                        if dense {
                            filters.ptr.offset(filters.at(o, inputs.start, 0, 0)).gather(1, to.len(), to.as_mut_ptr());
                        } else {
                            let planes = inputs.clone().zip(to.chunks_exact_mut(9));
                            planes.for_each(|(c, to)| filters.gather_plane(o, c, to.as_mut_ptr()));
                        }
                    }
                }
            };
            let (from, to) = (from.channels(g * e.group_in, e.group_in), to.channels(g * e.group_out, e.group_out));
            // SAFETY: the views were checked, and their extents fit together; the output is exclusively borrowed.
            done = done && unsafe { T::winograd(from, rule.padding, &filter, bias_of(g), relu, to)? };
        }
        if done {
            return Ok(());
        }
    }
    let taps = Taps::forward(rule, e.kernel);
    let kern = kernels::best::<T>();
    let columns = e.group_in * taps.len();
    let per = e.group_out * columns;
    let in_place = filters.dense().filter(|_| per > 0);
    let mut copied = Scratch::<T>::new(if in_place.is_some() { 0 } else { per })?;
    for g in 0..rule.groups {
        // SAFETY: the group's part of the filters, which are borrowed meanwhile.
        let values = unsafe {
            if let Some(start) = in_place {
                std::slice::from_raw_parts(start.add(g * per), per)
            } else {
                copy_filters(&filters, g * e.group_out..(g + 1) * e.group_out, copied.values());
                &*copied.values()
            }
        };
        let weights = Weights { values, rows: e.group_out, columns, bias: bias_of(g) };
        // SAFETY: the views were checked, and their extents fit together; the output is exclusively borrowed.
        unsafe {
            let (from, to) = (from.channels(g * e.group_in, e.group_in), to.channels(g * e.group_out, e.group_out));
            convolve(kern, from, &taps, weights, relu, to)?;
        }
    }
    Ok(())
}

fn grad_input<T: Compute>(rule: &Conv2d, grad: Erased<T>, w: Erased<T>, out: Erased<T>) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let e = rule.extents(w.layout());
    let (from, to, filters) = (Image::new(&grad), Image::new(&out), Image::new(&w));
    if winograd::suits(rule, w.layout(), out.layout()) && e.group_in >= winograd::CHANNELS {
        let mut done = true;
        for g in 0..rule.groups {
            // The kernels rotated by 180°, with input and output channels exchanged.
            let filter = |outputs: Range<usize>, inputs: Range<usize>, to: &mut [T]| {
                // In the order in which they lie in memory.
                for (i, o) in inputs.clone().enumerate() {
                    for (at, c) in outputs.clone().enumerate() {
                        let to = &mut to[(at * inputs.len() + i) * 9..][..9];
                        // SAFETY: one of the filters, which are 3×3.
                        unsafe { filters.gather_plane(g * e.group_out + o, c, to.as_mut_ptr()) };
                        to.reverse();
                    }
                }
            };
            let (from, to) = (from.channels(g * e.group_out, e.group_out), to.channels(g * e.group_in, e.group_in));
            let padding = rule.padding.map(|padding| 2 - padding);
            // SAFETY: the views were checked, and their extents fit together; the output is exclusively borrowed.
            done = done && unsafe { T::winograd(from, padding, &filter, None, false, to)? };
        }
        if done {
            return Ok(());
        }
    }
    let kern = kernels::best::<T>();
    let mut weights = Scratch::<T>::new(e.group_in * e.group_out * e.kernel[0] * e.kernel[1])?;
    for phase in (0..rule.stride[0]).flat_map(|y| (0..rule.stride[1]).map(move |x| [y, x])) {
        if phase[0] >= to.h || phase[1] >= to.w {
            continue;
        }
        let taps = Taps::backward(rule, e.kernel, phase);
        let columns = e.group_out * taps.len();
        for g in 0..rule.groups {
            let weights = &mut weights.values()[..e.group_in * columns];
            // SAFETY: the group's filters, and taps of theirs.
            unsafe {
                copy_filters_transposed(&filters, g * e.group_out..(g + 1) * e.group_out, &taps, weights);
            }
            let weights = Weights { values: weights, rows: e.group_in, columns, bias: None };
            // SAFETY: the views were checked, and their extents fit together; the output is exclusively borrowed.
            unsafe {
                let to = to.channels(g * e.group_in, e.group_in).every(phase, rule.stride);
                convolve(kern, from.channels(g * e.group_out, e.group_out), &taps, weights, false, to)?;
            }
        }
    }
    Ok(())
}

fn grad_weight<T: Compute>(rule: &Conv2d, grad: Erased<T>, x: Erased<T>, out: Erased<T>) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let e = rule.extents(out.layout());
    let (from, seen, to) = (Image::new(&grad), Image::new(&x), Image::new(&out));
    if winograd::suits(rule, out.layout(), grad.layout()) {
        let mut done = true;
        for g in 0..rule.groups {
            let store = |o: usize, c: usize, taps: &[T; 9]| {
                // SAFETY: a filter's gradient, 3×3; each is stored once.
                unsafe { to.scatter_plane(g * e.group_out + o, c, taps.as_ptr()) };
            };
            let (from, seen) = (from.channels(g * e.group_out, e.group_out), seen.channels(g * e.group_in, e.group_in));
            // SAFETY: the views were checked, and their extents fit together.
            done = done && unsafe { T::winograd_grad_weight(from, seen, rule.padding, &store)? };
        }
        if done {
            return Ok(());
        }
    }
    let taps = Taps::forward(rule, e.kernel);
    let kern = kernels::best::<T>();
    let dense = to.dense_planes();
    for g in 0..rule.groups {
        let store = |o: usize, row: &[T]| {
            let o = g * e.group_out + o;
            // SAFETY: a filter's gradient, which is this row's alone.
            unsafe {
                if dense {
                    to.ptr.offset(to.at(o, 0, 0, 0)).scatter(row.as_ptr(), 1, row.len());
                } else {
                    row.chunks_exact(taps.len()).enumerate().for_each(|(c, row)| to.scatter_plane(o, c, row.as_ptr()));
                }
            }
        };
        // SAFETY: the views were checked, and their extents fit together.
        unsafe {
            let (from, seen) = (from.channels(g * e.group_out, e.group_out), seen.channels(g * e.group_in, e.group_in));
            grad_weight::grad_weight(kern, from, seen, &taps, &store)?;
        }
    }
    Ok(())
}
