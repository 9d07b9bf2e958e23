//! Three-dimensional convolution and its gradients.

use super::{conv2d_rule::Conv3d, memory::MemoryBackend};
use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape},
    error::Result,
    view::{View, ViewMut},
};

/// Arguments of [`conv3d`](Conv3dBackend::conv3d).
#[derive(Debug)]
pub struct Conv3dArgs<'a> {
    /// How the kernel moves.
    pub rule: Conv3d,
    /// The volumes, `[N, C, D, H, W]`.
    pub x: View<'a>,
    /// The weight, `[O, C / groups, kd, kh, kw]`.
    pub w: View<'a>,
    /// The bias, `[O]`.
    pub bias: Option<View<'a>>,
    /// The result, `[N, O, D', H', W']` of [`Conv3d::output`](super::Convolution::output)'s size.
    pub out: ViewMut<'a>,
}

impl Checked<Conv3dArgs<'_>> {
    /// The same arguments, for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> Checked<Conv3dArgs<'_>> {
        let Conv3dArgs { rule, x, w, bias, out } = &mut self.0;
        Checked(Conv3dArgs { rule: *rule, x: *x, w: *w, bias: *bias, out: out.reborrow() })
    }
}

/// Arguments of [`conv3d_grad_input`](Conv3dBackend::conv3d_grad_input).
#[derive(Debug)]
pub struct Conv3dGradInputArgs<'a> {
    /// How the kernel moves.
    pub rule: Conv3d,
    /// The gradient of the result, `[N, O, D', H', W']`.
    pub grad: View<'a>,
    /// The weight, `[O, C / groups, kd, kh, kw]`.
    pub w: View<'a>,
    /// Receives the gradient of the volumes, `[N, C, D, H, W]` of any size that `rule` maps to `grad`'s.
    pub out: ViewMut<'a>,
}

/// Arguments of [`conv3d_grad_weight`](Conv3dBackend::conv3d_grad_weight).
#[derive(Debug)]
pub struct Conv3dGradWeightArgs<'a> {
    /// How the kernel moves.
    pub rule: Conv3d,
    /// The gradient of the result, `[N, O, D', H', W']`.
    pub grad: View<'a>,
    /// The volumes, `[N, C, D, H, W]`.
    pub x: View<'a>,
    /// Receives the gradient of the weight, `[O, C / groups, kd, kh, kw]`.
    pub out: ViewMut<'a>,
}

impl Arguments for Conv3dArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "conv3d";
        let Conv3dArgs { rule, x, w, bias, out } = self;
        rule.check(OP, (x.layout, x.dtype()), (w.layout, w.dtype()), (out.layout, out.dtype()))?;
        if let Some(bias) = bias {
            has_dtype(OP, x.dtype(), bias.dtype())?;
            has_shape(OP, "a bias [O]", bias.layout, &w.layout.dims()[..1])?;
        }
        Ok(())
    }
}

impl Arguments for Conv3dGradInputArgs<'_> {
    fn check(&self) -> Result<()> {
        let Conv3dGradInputArgs { rule, grad, w, out } = self;
        let y = (grad.layout, grad.dtype());
        rule.check("conv3d_grad_input", (out.layout, out.dtype()), (w.layout, w.dtype()), y)
    }
}

impl Arguments for Conv3dGradWeightArgs<'_> {
    fn check(&self) -> Result<()> {
        let Conv3dGradWeightArgs { rule, grad, x, out } = self;
        let y = (grad.layout, grad.dtype());
        rule.check("conv3d_grad_weight", (x.layout, x.dtype()), (out.layout, out.dtype()), y)
    }
}

/// Three-dimensional convolution. Volumes are `[N, C, D, H, W]` with any strides.
pub trait Conv3dBackend: MemoryBackend {
    /// The convolution, plus bias. Half precision is summed in `f32`, and may be rounded before the bias is added. With no
    /// channels (`C = 0`) the sums are 0.
    fn conv3d(&self, args: Checked<Conv3dArgs>) -> Result<()>;
    /// Its gradient with respect to the volumes, which is also the transposed convolution.
    fn conv3d_grad_input(&self, args: Checked<Conv3dGradInputArgs>) -> Result<()>;
    /// Its gradient with respect to the weight. (That of the bias is a sum.)
    fn conv3d_grad_weight(&self, args: Checked<Conv3dGradWeightArgs>) -> Result<()>;
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
        let two = Conv3d { stride: [1, 2, 1], groups: 2, ..Conv3d::default() };
        let memory = Memory(DType::F32);
        let (x, w, short) = (layout(&[1, 4, 5, 7, 6]), layout(&[6, 2, 3, 3, 2]), layout(&[5]));
        let all = |rule: Conv3d, y: &[usize], dtype| {
            let (y, mut to, grad) = (layout(y), Memory(dtype), Memory(dtype));
            let (xv, wv, grad) = (memory.view(&x), memory.view(&w), grad.view(&y));
            let forward = Conv3dArgs { rule, x: xv, w: wv, bias: None, out: to.view_mut(&y) }.check().is_ok();
            let input = Conv3dGradInputArgs { rule, grad, w: wv, out: to.view_mut(&x) }.check().is_ok();
            let weight = Conv3dGradWeightArgs { rule, grad, x: xv, out: to.view_mut(&w) }.check().is_ok();
            assert_eq!((forward, input), (weight, weight), "{rule:?} {y:?}");
            forward
        };
        let y = [1, 6, 3, 3, 5];
        assert!(all(two, &y, DType::F32));
        assert!(!all(two, &y, DType::F64));
        for (rule, y) in [
            (two, &[1, 6, 3, 5, 5][..]),
            (two, &[1, 6, 3, 3, 4]),
            (two, &[1, 6, 4, 3, 5]),
            (two, &[1, 5, 3, 3, 5]),
            (two, &[2, 6, 3, 3, 5]),
            (two, &[6, 3, 3, 5]),
            (Conv3d::default(), &y),
            (Conv3d { groups: 0, ..two }, &y),
            (Conv3d { stride: [0, 2, 1], ..two }, &y),
            (Conv3d { dilation: [usize::MAX, 1, 1], ..two }, &y),
            (Conv3d { padding: [1, 1, usize::MAX / 2], ..two }, &y),
        ] {
            assert!(!all(rule, y, DType::F32), "{rule:?} {y:?}");
        }
        let (y, fits, mut to, ints) = (layout(&y), layout(&[6]), Memory(DType::F32), Memory(DType::I32));
        let mut with = |memory: &Memory, bias: Option<View>| {
            let (x, w, out) = (memory.view(&x), memory.view(&w), to.view_mut(&y));
            Conv3dArgs { rule: two, x, w, bias, out }.check().is_ok()
        };
        assert!(with(&memory, Some(memory.view(&fits))) && !with(&memory, Some(memory.view(&short))));
        assert!(!with(&ints, None) && !with(&memory, Some(ints.view(&fits))));
    }
}
