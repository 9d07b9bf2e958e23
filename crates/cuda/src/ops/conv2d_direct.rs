//! Convolutions without cuDNN: the kernels for problems that it has no plan for, in any layout and size.

use kiln_backend::{Conv2d, Conv2dDirection, Result};

use super::{
    convolution::{Convolves, Operands},
    launch::{Tag, launch},
};
use crate::{
    conv::dnn::{Dnn, Outcome},
    device::Device,
    image_format::Format,
    params::Convolution,
    view::Tensor,
};

/// What the kernels of convolutions along `A` axes sum: the kernel's name, which tensors it multiplies and writes, and the
/// extents of what is summed over for each result, outermost first.
pub(super) fn parts_of_sums<'a, 't, const A: usize>(
    direction: Conv2dDirection,
    groups: usize,
    [x, w, y]: [&'a Tensor<'t>; 3],
) -> (&'static str, [&'a Tensor<'t>; 3], Vec<usize>) {
    let extent = |tensor: &Tensor, dim: usize| tensor.layout.dims().get(dim).map_or(1, |&extent| extent);
    let (op, operands, first, positions) = match direction {
        Conv2dDirection::GradInput => ("grad_input", [y, w, x], extent(w, 0) / groups.max(1), w),
        Conv2dDirection::GradWeight => ("grad_weight", [x, y, w], extent(y, 0), y),
        Conv2dDirection::Forward => ("forward", [x, w, y], extent(w, 1), w),
    };
    let terms = [first].into_iter().chain((2..A + 2).map(|dim| extent(positions, dim))).collect();
    (op, operands, terms)
}

impl Convolves<4, 2> for Device {
    fn plans(&self) -> Result<&Dnn<4, 2>> {
        self.convolutions()
    }

    fn convolve_as(&'static self, operands: &Operands<4, 2>, order: (Format, [bool; 3])) -> Result<Outcome<4, 2>> {
        self.convolve_padded_if_faster(operands, order)
    }

    fn convolve_directly(
        &'static self,
        direction: Conv2dDirection,
        rule: &Conv2d,
        operands: [&Tensor; 3],
    ) -> Result<()> {
        let (op, [a, b, out], terms) = parts_of_sums::<2>(direction, rule.groups, operands);
        let layouts = |of: [&Tensor; 3]| of.map(|tensor| *tensor.layout);
        let (all, ordered) = (layouts(operands), layouts([a, b, out]));
        let params = Convolution::new(rule, all.each_ref(), ordered.each_ref(), &terms);
        launch!(self, CONV2D, op, Tag::of(out.dtype), params.blocks(), params, a.address, b.address, out.address)
    }
}
