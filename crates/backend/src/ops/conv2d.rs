//! Two-dimensional convolution and its gradients.

use super::{
    conv2d_calls::{Conv2dDirection, Conv2dFusion, note},
    conv2d_rule::Conv2d,
    memory::MemoryBackend,
    relu_bias_grad::{ReluBiasGradArgs, ReluBiasGradBackend},
    unary::UnaryGradArgs,
};
use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, same_shape},
    error::Result,
    layout::Layout,
    op::UnaryOp,
    view::{View, ViewMut},
};

/// Extents of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dExtents {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Input channels per group.
    pub group_in: usize,
    /// Output channels per group.
    pub group_out: usize,
}

impl Conv2d {
    /// The extents for a weight `[O, C / groups, kh, kw]` that was [`checked`](Arguments::checked).
    #[must_use]
    pub fn extents(&self, w: &Layout) -> Conv2dExtents {
        let [o, group_in, kh, kw] = [0, 1, 2, 3].map(|dim| w.dims().get(dim).map_or(1, |&extent| extent));
        Conv2dExtents { kernel: [kh, kw], group_in, group_out: o / self.groups.max(1) }
    }
}

/// Arguments of [`conv2d`](Conv2dBackend::conv2d).
#[derive(Debug)]
pub struct Conv2dArgs<'a> {
    /// How the kernel moves.
    pub rule: Conv2d,
    /// The images, `[N, C, H, W]`.
    pub x: View<'a>,
    /// The weight, `[O, C / groups, kh, kw]`.
    pub w: View<'a>,
    /// The bias, `[O]`.
    pub bias: Option<View<'a>>,
    /// A tensor to add to the result, `[N, O, H', W']`.
    pub residual: Option<View<'a>>,
    /// Whether to apply ReLU to the result.
    pub relu: bool,
    /// The result, `[N, O, H', W']` of [`Conv2d::output`]'s size.
    pub out: ViewMut<'a>,
}

impl Checked<Conv2dArgs<'_>> {
    /// The same arguments, for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> Checked<Conv2dArgs<'_>> {
        let Conv2dArgs { rule, x, w, bias, residual, relu, out } = &mut self.0;
        let (rule, x, w, bias, residual, relu) = (*rule, *x, *w, *bias, *residual, *relu);
        Checked(Conv2dArgs { rule, x, w, bias, residual, relu, out: out.reborrow() })
    }
}

/// Arguments of [`conv2d_grad_input`](Conv2dBackend::conv2d_grad_input).
#[derive(Debug)]
pub struct Conv2dGradInputArgs<'a> {
    /// How the kernel moves.
    pub rule: Conv2d,
    /// The gradient of the result, `[N, O, H', W']`.
    pub grad: View<'a>,
    /// The weight, `[O, C / groups, kh, kw]`.
    pub w: View<'a>,
    /// Receives the gradient of the images, `[N, C, H, W]` of any size that `rule` maps to `grad`'s.
    pub out: ViewMut<'a>,
}

/// Arguments of [`conv2d_relu_grad_input`](Conv2dBackend::conv2d_relu_grad_input).
#[derive(Debug)]
pub struct Conv2dReluGradInputArgs<'a> {
    /// How the kernel moves.
    pub rule: Conv2d,
    /// The gradient of the result, `[N, O, H', W']`.
    pub grad: View<'a>,
    /// The weight, `[O, C / groups, kh, kw]`.
    pub w: View<'a>,
    /// The images, `[N, C, H, W]`: the output of the previous layer's ReLU.
    pub y: View<'a>,
    /// The gradient of what that ReLU read, `[N, C, H, W]`.
    pub out: ViewMut<'a>,
    /// The gradient of the previous layer's bias, `[C]`.
    pub bias: Option<ViewMut<'a>>,
}

impl Checked<Conv2dReluGradInputArgs<'_>> {
    /// The same arguments, for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> Checked<Conv2dReluGradInputArgs<'_>> {
        let Conv2dReluGradInputArgs { rule, grad, w, y, out, bias } = &mut self.0;
        let (out, bias) = (out.reborrow(), bias.as_mut().map(ViewMut::reborrow));
        Checked(Conv2dReluGradInputArgs { rule: *rule, grad: *grad, w: *w, y: *y, out, bias })
    }
}

/// Arguments of [`conv2d_grad_weight`](Conv2dBackend::conv2d_grad_weight).
#[derive(Debug)]
pub struct Conv2dGradWeightArgs<'a> {
    /// How the kernel moves.
    pub rule: Conv2d,
    /// The gradient of the result, `[N, O, H', W']`.
    pub grad: View<'a>,
    /// The images, `[N, C, H, W]`.
    pub x: View<'a>,
    /// Receives the gradient of the weight, `[O, C / groups, kh, kw]`.
    pub out: ViewMut<'a>,
}

impl Arguments for Conv2dArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "conv2d";
        let Conv2dArgs { rule, x, w, bias, residual, relu, out } = self;
        rule.check(OP, (x.layout, x.dtype()), (w.layout, w.dtype()), (out.layout, out.dtype()))?;
        if let Some(bias) = bias {
            has_dtype(OP, x.dtype(), bias.dtype())?;
            has_shape(OP, "a bias [O]", bias.layout, &w.layout.dims()[..1])?;
        }
        if let Some(residual) = residual {
            has_dtype(OP, x.dtype(), residual.dtype())?;
            same_shape(OP, &[residual.layout, out.layout])?;
        }
        let fusion = bias.and(match (residual, relu) {
            (None, false) => Some(Conv2dFusion::Bias),
            (None, true) => Some(Conv2dFusion::BiasRelu),
            (Some(_), true) => Some(Conv2dFusion::ResidualBiasRelu),
            (Some(_), false) => None,
        });
        note(Conv2dDirection::Forward, *rule, x.dtype(), [x.layout, w.layout, out.layout], fusion);
        Ok(())
    }
}

impl Arguments for Conv2dGradInputArgs<'_> {
    fn check(&self) -> Result<()> {
        let Conv2dGradInputArgs { rule, grad, w, out } = self;
        let y = (grad.layout, grad.dtype());
        rule.check("conv2d_grad_input", (out.layout, out.dtype()), (w.layout, w.dtype()), y)?;
        note(Conv2dDirection::GradInput, *rule, w.dtype(), [out.layout, w.layout, grad.layout], None);
        Ok(())
    }
}

impl Arguments for Conv2dReluGradInputArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "conv2d_relu_grad_input";
        let Conv2dReluGradInputArgs { rule, grad, w, y, out, bias } = self;
        rule.check(OP, (out.layout, out.dtype()), (w.layout, w.dtype()), (grad.layout, grad.dtype()))?;
        has_dtype(OP, out.dtype(), y.dtype())?;
        same_shape(OP, &[y.layout, out.layout])?;
        if let Some(bias) = bias {
            has_dtype(OP, out.dtype(), bias.dtype())?;
            has_shape(OP, "a bias [C]", bias.layout, &out.layout.dims()[1..2])?;
        }
        let fusion = if bias.is_some() { Conv2dFusion::ReluBiasGrad } else { Conv2dFusion::ReluGrad };
        note(Conv2dDirection::GradInput, *rule, w.dtype(), [out.layout, w.layout, grad.layout], Some(fusion));
        Ok(())
    }
}

impl Arguments for Conv2dGradWeightArgs<'_> {
    fn check(&self) -> Result<()> {
        let Conv2dGradWeightArgs { rule, grad, x, out } = self;
        let y = (grad.layout, grad.dtype());
        rule.check("conv2d_grad_weight", (x.layout, x.dtype()), (out.layout, out.dtype()), y)?;
        note(Conv2dDirection::GradWeight, *rule, x.dtype(), [x.layout, out.layout, grad.layout], None);
        Ok(())
    }
}

/// Two-dimensional convolution. Images are `[N, C, H, W]` with any strides, channels-last ones included.
pub trait Conv2dBackend: ReluBiasGradBackend + MemoryBackend {
    /// The convolution, plus bias and residual, then ReLU if asked. Half precision is summed in `f32`, and may be rounded
    /// before the residual is added. With no channels (`C = 0`) the
    /// sums are 0.
    fn conv2d(&self, args: Checked<Conv2dArgs>) -> Result<()>;
    /// Its gradient with respect to the images, which is also the transposed convolution.
    fn conv2d_grad_input(&self, args: Checked<Conv2dGradInputArgs>) -> Result<()>;
    /// Backward through a convolution and the ReLU (and bias) of the previous layer, whose output `y` was its input:
    /// `out` is [`conv2d_grad_input`](Conv2dBackend::conv2d_grad_input) where `y` is above 0 and 0 elsewhere, and `bias` the
    /// sums of `out` over images and pixels. Where `y` is NaN, `out` is either.
    fn conv2d_relu_grad_input(&self, args: Checked<Conv2dReluGradInputArgs>) -> Result<()> {
        conv2d_relu_grad_input_in_parts(self, args)
    }
    /// Its gradient with respect to the weight. (That of the bias is a sum.)
    fn conv2d_grad_weight(&self, args: Checked<Conv2dGradWeightArgs>) -> Result<()>;
}

/// [`conv2d_relu_grad_input`](Conv2dBackend::conv2d_relu_grad_input) as a convolution, and ReLU's gradient after it.
///
/// # Errors
/// Those of the device.
pub fn conv2d_relu_grad_input_in_parts<B: Conv2dBackend + ?Sized>(
    on: &B,
    args: Checked<Conv2dReluGradInputArgs>,
) -> Result<()> {
    let Conv2dReluGradInputArgs { rule, grad, w, y, out, bias } = args.into_inner();
    // In the order of the images, which may be channels-last.
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|&dim| std::cmp::Reverse(y.layout.strides()[dim]));
    let mut inverse = [0; 4];
    order.iter().enumerate().for_each(|(i, &dim)| inverse[dim] = i);
    let layout = Layout::contiguous(*y.layout.permute(&order).shape()).permute(&inverse);
    let mut whole = on.alloc(grad.dtype(), layout.numel())?;
    let to = ViewMut { buffer: &mut *whole, layout: &layout };
    on.conv2d_grad_input(Conv2dGradInputArgs { rule, grad, w, out: to }.checked()?)?;
    let whole = View { buffer: &*whole, layout: &layout };
    match bias {
        Some(bias) => on.relu_bias_grad(ReluBiasGradArgs { grad: whole, y, dim: 1, out, bias }.checked()?),
        None => on.unary_grad(UnaryGradArgs { op: UnaryOp::Relu, grad: whole, saved: Some(y), out }.checked()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked_in_all_directions() {
        let (two, memory) = (Conv2d { groups: 2, ..Conv2d::default() }, Memory(DType::F32));
        let (x, w, short) = (layout(&[1, 4, 5, 5]), layout(&[6, 2, 3, 3]), layout(&[5]));
        let all = |rule: Conv2d, y: &[usize], dtype| {
            let (y, mut to, grad) = (layout(y), Memory(dtype), Memory(dtype));
            let (xv, wv, grad) = (memory.view(&x), memory.view(&w), grad.view(&y));
            let out = to.view_mut(&y);
            let forward = Conv2dArgs { rule, x: xv, w: wv, bias: None, residual: None, relu: false, out };
            let forward = forward.check().is_ok();
            let input = Conv2dGradInputArgs { rule, grad, w: wv, out: to.view_mut(&x) }.check().is_ok();
            let mut through = |y: View, bias: &[usize]| {
                let (bias, mut sums) = (layout(bias), Memory(DType::F32));
                let bias = Some(sums.view_mut(&bias));
                let out = to.view_mut(&x);
                Conv2dReluGradInputArgs { rule, grad, w: wv, y, out, bias }.check().is_ok()
            };
            assert_eq!(through(xv, &[4]), input);
            assert!(!through(xv, &[6]) && !through(wv, &[4]));
            let weight = Conv2dGradWeightArgs { rule, grad, x: xv, out: to.view_mut(&w) }.check().is_ok();
            assert_eq!((forward, input), (weight, weight), "{rule:?} {y:?}");
            forward
        };
        assert!(all(two, &[1, 6, 3, 3], DType::F32));
        assert_eq!(two.extents(&w), Conv2dExtents { kernel: [3, 3], group_in: 2, group_out: 3 });
        assert!(!all(two, &[1, 6, 3, 3], DType::F64));
        for (rule, y) in [
            (two, &[1, 6, 3, 4][..]),
            (two, &[1, 5, 3, 3]),
            (two, &[2, 6, 3, 3]),
            (two, &[6, 3, 3]),
            (Conv2d::default(), &[1, 6, 3, 3]),
            (Conv2d { groups: 0, ..two }, &[1, 6, 3, 3]),
            (Conv2d { stride: [0, 1], ..two }, &[1, 6, 3, 3]),
            (Conv2d { dilation: [usize::MAX, 1], ..two }, &[1, 6, 3, 3]),
            (Conv2d { padding: [usize::MAX / 2, 1], ..two }, &[1, 6, 3, 3]),
        ] {
            assert!(!all(rule, y, DType::F32), "{rule:?} {y:?}");
        }
        let (y, mut to, ints) = (layout(&[1, 6, 3, 3]), memory, Memory(DType::I32));
        let mut with = |memory: &Memory, bias: Option<View>, residual: Option<View>| {
            let (x, w, out) = (memory.view(&x), memory.view(&w), to.view_mut(&y));
            Conv2dArgs { rule: two, x, w, bias, residual, relu: false, out }.check().is_ok()
        };
        assert!(!with(&memory, Some(memory.view(&short)), None) && !with(&ints, None, None));
        assert!(with(&memory, None, Some(memory.view(&y))) && !with(&memory, None, Some(memory.view(&x))));
        assert!(!with(&memory, None, Some(ints.view(&y))));
    }

    #[test]
    fn output_sizes() {
        let rule = Conv2d { stride: [2, 1], padding: [3, 0], dilation: [1, 2], groups: 1 };
        assert_eq!(rule.output([224, 9], [7, 3]), Some([112, 5]));
        assert_eq!(rule.output([224, 4], [7, 3]), None);
        assert_eq!(rule.output([1, 5], [7, 3]), Some([1, 1]));
        assert_eq!(rule.transposed_output([112, 5], [7, 3], [1, 0]), Some([224, 9]));
        assert_eq!(Conv2d { padding: [5; 2], ..Conv2d::default() }.transposed_output([2; 2], [3; 2], [0; 2]), None);
        for bad in [Conv2d { stride: [0; 2], ..rule }, Conv2d { dilation: [0; 2], ..rule }] {
            assert_eq!((bad.output([9; 2], [3; 2]), bad.transposed_output([9; 2], [3; 2], [0; 2])), (None, None));
        }
        assert_eq!(Conv2d { padding: [usize::MAX; 2], ..rule }.output([9; 2], [3; 2]), None);
        assert_eq!(rule.output([9; 2], [0; 2]), None);
    }
}
