//! Linear layers with bias and ReLU, and their gradients.

use std::{any::Any, fmt};

use super::matmul::check_matmul;
use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, is_float, same_shape},
    error::{Error, Result},
    layout::Layout,
    op::UnaryOp,
    ops::{
        matmul::{MatmulArgs, MatmulBackend},
        memory::MemoryBackend,
        reduce::{ReduceArgs, ReduceBackend, ReduceOp},
        relu_bias_grad::{ReluBiasGradArgs, ReluBiasGradBackend},
        unary::UnaryGradArgs,
    },
    view::{View, ViewMut},
};

/// What a linear layer applies to its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// ReLU.
    Relu,
    /// ReLU whose gradient will be needed: the device may store a mask of the elements that passed it.
    ReluWithMask,
}

impl Activation {
    /// ReLU if `relu` is set.
    #[must_use]
    pub fn relu(relu: bool) -> Activation {
        if relu { Activation::Relu } else { Activation::Identity }
    }

    /// Whether it is ReLU, with or without a mask.
    #[must_use]
    pub fn is_relu(self) -> bool {
        self != Activation::Identity
    }
}

/// Arguments of [`linear`](LinearBackend::linear).
#[derive(Debug)]
pub struct LinearArgs<'a> {
    /// The input, `[M, K]`.
    pub x: View<'a>,
    /// The weight, `[N, K]`.
    pub w: View<'a>,
    /// The bias, `[N]`.
    pub bias: Option<View<'a>>,
    /// What is applied to the sum.
    pub activation: Activation,
    /// The result, `[M, N]`.
    pub out: ViewMut<'a>,
}

/// Arguments of [`linear_grad`](LinearBackend::linear_grad).
#[derive(Debug)]
pub struct LinearGradArgs<'a> {
    /// The gradient of the result, `[M, N]`.
    pub grad: View<'a>,
    /// The input, `[M, K]`.
    pub x: View<'a>,
    /// Receives the gradient of the weight, `[N, K]`.
    pub weight: ViewMut<'a>,
    /// Receives the gradient of the bias, `[N]`.
    pub bias: ViewMut<'a>,
}

/// Arguments of [`linear_relu_grad`](LinearBackend::linear_relu_grad).
#[derive(Debug)]
pub struct LinearReluGradArgs<'a> {
    /// The gradient of the linear layer's result, `[M, N]`.
    pub grad: View<'a>,
    /// Its weight, `[N, K]`.
    pub w: View<'a>,
    /// Its input, the output `[M, K]` of the previous layer's ReLU.
    pub y: View<'a>,
    /// The mask that the device kept of that ReLU.
    pub mask: Option<&'a ReluMask>,
    /// Receives the gradient of that ReLU's input, `[M, K]`.
    pub out: ViewMut<'a>,
    /// Receives the gradient of the previous layer's bias, `[K]`.
    pub bias: Option<ViewMut<'a>>,
}

impl Checked<LinearReluGradArgs<'_>> {
    /// The same arguments, borrowed for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> Checked<LinearReluGradArgs<'_>> {
        let LinearReluGradArgs { grad, w, y, mask, out, bias } = &mut self.0;
        let (out, bias) = (out.reborrow(), bias.as_mut().map(ViewMut::reborrow));
        Checked(LinearReluGradArgs { grad: *grad, w: *w, y: *y, mask: *mask, out, bias })
    }
}

impl LinearArgs<'_> {
    /// `[M, N, K]` of arguments that were [`checked`](Arguments::checked).
    #[must_use]
    pub fn extents(&self) -> [usize; 3] {
        let extent = |layout: &Layout, dim: usize| layout.dims().get(dim).map_or(1, |&n| n);
        [extent(self.x.layout, 0), extent(self.w.layout, 0), extent(self.x.layout, 1)]
    }
}

impl Arguments for LinearArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "linear";
        let LinearArgs { x, w, bias, out, .. } = self;
        is_float(OP, out.dtype())?;
        for operand in [Some(*x), Some(*w), *bias].into_iter().flatten() {
            has_dtype(OP, out.dtype(), operand.dtype())?;
        }
        let [m, n, k] = match (x.layout.dims(), w.layout.dims()) {
            (&[m, k], &[n, inner]) if k == inner => [m, n, k],
            _ => return Err(Error::shapes(OP, x.layout.shape(), w.layout.shape(), "they must be [M, K] and [N, K]")),
        };
        debug_assert_eq!(self.extents(), [m, n, k]);
        has_shape(OP, "an output [M, N]", out.layout, &[m, n])?;
        bias.map_or(Ok(()), |bias| has_shape(OP, "a bias [N]", bias.layout, &[n]))
    }
}

impl Arguments for LinearGradArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "linear_grad";
        let LinearGradArgs { grad, x, weight, bias } = self;
        for dtype in [grad.dtype(), x.dtype(), bias.dtype()] {
            has_dtype(OP, weight.dtype(), dtype)?;
        }
        is_float(OP, weight.dtype())?;
        has_rank_2(OP, grad.layout)?;
        check_matmul(OP, &grad.layout.transpose(0, 1), x.layout, weight.layout)?;
        has_shape(OP, "a bias [N]", bias.layout, &grad.layout.dims()[1..])
    }
}

impl Arguments for LinearReluGradArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "linear_relu_grad";
        let LinearReluGradArgs { grad, w, y, out, bias, .. } = self;
        for dtype in [grad.dtype(), w.dtype(), y.dtype()] {
            has_dtype(OP, out.dtype(), dtype)?;
        }
        is_float(OP, out.dtype())?;
        has_rank_2(OP, out.layout)?;
        check_matmul(OP, grad.layout, w.layout, out.layout)?;
        same_shape(OP, &[y.layout, out.layout])?;
        let Some(bias) = bias else { return Ok(()) };
        has_dtype(OP, out.dtype(), bias.dtype())?;
        has_shape(OP, "a bias [K]", bias.layout, &out.layout.dims()[1..])
    }
}

fn has_rank_2(op: &'static str, layout: &Layout) -> Result<()> {
    if layout.rank() == 2 { Ok(()) } else { Err(Error::shape(op, "a matrix", layout.shape())) }
}

/// Which elements a ReLU let through, in a form that only the device that made it can read.
pub struct ReluMask(Box<dyn Any + Send + Sync>);

impl ReluMask {
    /// A mask in the device's form.
    pub fn new(mask: impl Any + Send + Sync) -> ReluMask {
        ReluMask(Box::new(mask))
    }

    /// The mask, for the device that made it.
    #[must_use]
    pub fn get<M: Any>(&self) -> Option<&M> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for ReluMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReluMask")
    }
}

/// Linear layers: matrix products fused with the operations right after or before them.
pub trait LinearBackend: MatmulBackend + ReduceBackend + ReluBiasGradBackend + MemoryBackend {
    /// `out = activation(x · wᵀ + bias)`. Returns a mask for [`linear_relu_grad`](LinearBackend::linear_relu_grad) if one
    /// was requested and the device has written it.
    fn linear(&self, args: Checked<LinearArgs>) -> Result<Option<ReluMask>>;
    /// The gradients of a linear layer's parameters: `weight = gradᵀ · x`, and `bias` the sum of `grad`'s rows.
    fn linear_grad(&self, args: Checked<LinearGradArgs>) -> Result<()> {
        let LinearGradArgs { grad, x, weight, bias } = args.into_inner();
        let turned = grad.layout.transpose(0, 1);
        self.matmul(MatmulArgs { a: View { layout: &turned, ..grad }, b: x, out: weight }.checked()?)?;
        let row = bias.layout.unsqueeze(0)?;
        self.reduce(ReduceArgs { op: ReduceOp::Sum, x: grad, out: ViewMut { layout: &row, ..bias } }.checked()?)
    }
    /// Backward through a linear layer and through the ReLU (and bias) of the previous layer, whose output `y` is its
    /// input: `out = grad · w` where `y` is above 0 and 0 elsewhere, and `bias` the sum of `out`'s rows.
    fn linear_relu_grad(&self, args: Checked<LinearReluGradArgs>) -> Result<()> {
        linear_relu_grad_in_parts(self, args)
    }
}

/// [`linear_relu_grad`](LinearBackend::linear_relu_grad) in two steps: a product, and then ReLU's gradient.
///
/// # Errors
/// The device's errors.
pub fn linear_relu_grad_in_parts<B: LinearBackend + ?Sized>(on: &B, args: Checked<LinearReluGradArgs>) -> Result<()> {
    let LinearReluGradArgs { grad, w, y, out, bias, .. } = args.into_inner();
    let layout = Layout::contiguous(*out.layout.shape());
    let mut whole = on.alloc(grad.dtype(), layout.numel())?;
    on.matmul(MatmulArgs { a: grad, b: w, out: ViewMut { buffer: &mut *whole, layout: &layout } }.checked()?)?;
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
    fn operands_are_checked() {
        let memory = Memory(DType::F32);
        let forward = |x: &[usize], w: &[usize], bias: &[usize], out: &[usize], dtype| {
            let (x, w, bias, out) = (layout(x), layout(w), layout(bias), layout(out));
            let (mut to, other) = (memory, Memory(dtype));
            let (x, w, bias, out) = (memory.view(&x), other.view(&w), Some(memory.view(&bias)), to.view_mut(&out));
            LinearArgs { x, w, bias, activation: Activation::Identity, out }.check().is_ok()
        };
        assert!(forward(&[2, 3], &[4, 3], &[4], &[2, 4], DType::F32));
        assert!(!forward(&[2, 3], &[4, 3], &[3], &[2, 4], DType::F32));
        assert!(!forward(&[2, 3], &[4, 2], &[4], &[2, 4], DType::F32));
        assert!(!forward(&[2, 3], &[4, 3], &[4], &[4, 2], DType::F32));
        assert!(!forward(&[2, 3], &[4, 3], &[4], &[2, 4], DType::F64));
        let backward = |grad: &[usize], x: &[usize], weight: &[usize], bias: &[usize]| {
            let (grad, x, weight, bias) = (layout(grad), layout(x), layout(weight), layout(bias));
            let (mut to, mut sums) = (memory, memory);
            let (weight, bias) = (to.view_mut(&weight), sums.view_mut(&bias));
            LinearGradArgs { grad: memory.view(&grad), x: memory.view(&x), weight, bias }.check().is_ok()
        };
        assert!(backward(&[2, 4], &[2, 3], &[4, 3], &[4]) && !backward(&[2, 4], &[2, 3], &[4, 3], &[3]));
        assert!(!backward(&[2, 4], &[3, 3], &[4, 3], &[4]) && !backward(&[8], &[2, 3], &[4, 3], &[4]));
        let through = |grad: &[usize], w: &[usize], y: &[usize], out: &[usize], bias: &[usize]| {
            let (grad, w, y, out, bias) = (layout(grad), layout(w), layout(y), layout(out), layout(bias));
            let (mut to, mut sums) = (memory, memory);
            let (grad, w, y, out) = (memory.view(&grad), memory.view(&w), memory.view(&y), to.view_mut(&out));
            let bias = Some(sums.view_mut(&bias));
            LinearReluGradArgs { grad, w, y, mask: None, out, bias }.check().is_ok()
        };
        assert!(through(&[2, 4], &[4, 3], &[2, 3], &[2, 3], &[3]));
        assert!(!through(&[2, 4], &[4, 3], &[3, 2], &[2, 3], &[3]));
        assert!(!through(&[2, 4], &[4, 3], &[2, 3], &[2, 3], &[2]));
        assert!(!through(&[2, 4], &[3, 3], &[2, 3], &[2, 3], &[3]));
    }
}
