//! `norm`: vector norms; `renorm`, which limits them.

use kiln_backend::{Dim, Dims, Error, MAX_RANK, Result};
use kiln_derive::located;
use smallvec::SmallVec;

use super::{check, reduce::shared_among};
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// The vector `p`-norm over all dimensions (`()`), one, or several: for 2 the square root of the sum of squares,
    /// for 1 the sum of absolute values, for `f64::INFINITY` the largest of them (for minus infinity the smallest), for
    /// 0 the number of nonzero elements. Where the norm is 0, its gradient is 0.
    ///
    /// # Errors
    /// If the tensor is not floating-point, a dimension is out of range or named twice, or an infinite norm of no
    /// elements is requested.
    pub fn norm(&self, p: impl Into<f64>, dims: impl Dims) -> Result<Tensor> {
        self.norm_over("norm", p.into(), &dims, false)
    }

    /// [`norm`](Tensor::norm) that keeps the dimensions with extent 1.
    ///
    /// # Errors
    /// Those of [`norm`](Tensor::norm).
    pub fn norm_keepdim(&self, p: impl Into<f64>, dims: impl Dims) -> Result<Tensor> {
        self.norm_over("norm_keepdim", p.into(), &dims, true)
    }

    /// The tensor, with every slice along `dim` whose `p`-norm is above `max_norm` scaled down to it
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.renorm.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point or has fewer than 2 dimensions, the dimension is out of range, `p` is not positive,
    /// or `max_norm` is negative.
    pub fn renorm(&self, p: impl Into<f64>, dim: impl Dim, max_norm: impl Into<f64>) -> Result<Tensor> {
        const OP: &str = "renorm";
        let (p, max_norm): (f64, f64) = (p.into(), max_norm.into());
        check::floats(OP, self)?;
        if self.rank() < 2 {
            return Err(Error::shape(OP, "at least 2 dimensions", self.shape()));
        }
        let dim = dim.resolve(OP, self.rank())?;
        if !(p > 0.0 && max_norm >= 0.0) {
            return Err(Error::argument(
                OP,
                format!("p is {p} and must be positive, max_norm {max_norm} and not negative"),
            ));
        }
        let others: SmallVec<[usize; MAX_RANK]> = (0..self.rank()).filter(|&other| other != dim).collect();
        cast_operands(OP, [self], [], |[x], []| {
            let wide = x.widened()?;
            let norms = wide.norm_keepdim(p, &others[..])?;
            // PyTorch's guard against a division by 0.
            let scale = norms.gt(max_norm)?.where_cond(&norms.add(1e-7)?.reciprocal()?.mul(max_norm)?, 1.0)?;
            wide.mul(&scale)?.to_dtype(x.dtype())
        })
    }

    fn norm_over(&self, op: &'static str, p: f64, dims: &impl Dims, keepdim: bool) -> Result<Tensor> {
        cast_operands("norm", [self], [], |[x], []| x.norm_no_autocast(op, p, dims, keepdim))
    }

    fn norm_no_autocast(&self, op: &'static str, p: f64, dims: &impl Dims, keepdim: bool) -> Result<Tensor> {
        check::floats(op, self)?;
        if p.is_nan() {
            return Err(Error::argument(op, "p must not be NaN"));
        }
        let mask = dims.resolve(op, self.rank())?;
        let dims: SmallVec<[usize; MAX_RANK]> = (0..self.rank()).filter(|&dim| mask[dim]).collect();
        // Half precision would overflow when squares are summed.
        let exact = no_grad(|| norm_of(&self.detach().widened()?, p, &dims)).map_err(|error| error.of_op(op))?;
        let kept = no_grad(|| exact.to_dtype(self.dtype()))?;
        let shape: SmallVec<[usize; MAX_RANK]> =
            (0..self.rank()).filter(|&dim| keepdim || !mask[dim]).map(|dim| kept.dims()[dim]).collect();
        let (kept_shape, shape) = (*kept.shape(), kiln_backend::Shape::new(&shape)?);
        let out = kept.with_shape(shape);
        record(out, "LinalgVectorNormBackward0", &[self], &[self, &exact], move |ctx| {
            let x = ctx.saved(0)?;
            let norm =
                if ctx.create_graph { norm_of(&x.widened()?, p, &dims)? } else { ctx.saved(1)?.reshape(kept_shape)? };
            let grad = ctx.grad()?.reshape(kept_shape)?;
            let of_x = gradient(&x.widened()?, &norm, &grad.widened()?, p)?;
            Ok(one(of_x.to_dtype(grad.dtype())?))
        })
    }
}

fn norm_of(x: &Tensor, p: f64, dims: &[usize]) -> Result<Tensor> {
    // A scalar has no dimensions to reduce.
    let sum = |x: Tensor| if dims.is_empty() { Ok(x) } else { x.sum_keepdim(dims) };
    if p == 0.0 {
        return sum(x.ne(0)?.to_dtype(x.dtype())?);
    }
    let size = x.abs()?;
    if p == 1.0 {
        sum(size)
    } else if p == 2.0 {
        sum(x.square()?)?.sqrt()
    } else if dims.is_empty() {
        Ok(size)
    } else if p == f64::INFINITY {
        size.amax_keepdim(dims)
    } else if p == f64::NEG_INFINITY {
        size.amin_keepdim(dims)
    } else {
        // The root has no finite slope at 0, which gradients of gradients would multiply by 0.
        let total = sum(size.pow(p)?)?;
        let zero = no_grad(|| total.eq(0))?;
        zero.where_cond(0.0, &zero.where_cond(1.0, &total)?.pow(1.0 / p)?)
    }
}

/// PyTorch's formulas (`norm_backward`), which avoid divisors of 0 where they can; the remaining ones are masked.
fn gradient(x: &Tensor, norm: &Tensor, grad: &Tensor, p: f64) -> Result<Tensor> {
    if p == 0.0 {
        return x.zeros_like();
    }
    let sign = x.sign()?;
    if p == 1.0 {
        return sign.mul(grad);
    }
    let at_zero = norm.eq(0)?;
    if p.is_infinite() {
        return sign.mul(&shared_among(&x.abs()?.eq(norm)?, grad)?);
    }
    if p == 2.0 {
        return x.mul(&grad.div(norm)?.masked_fill(&at_zero, 0)?);
    }
    if p < 1.0 {
        let slope = sign.mul(&x.abs()?.pow(p - 1.0)?)?.masked_fill(&x.eq(0)?, 0)?;
        return slope.mul(&grad.mul(&norm.pow(1.0 - p)?)?.masked_fill(&at_zero, 0)?);
    }
    let slope = sign.mul(&x.abs()?.pow(p - 1.0)?)?;
    let divisor = at_zero.where_cond(1.0, norm)?.pow(p - 1.0)?;
    slope.mul(&grad.div(&divisor)?.masked_fill(&at_zero, 0)?)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn value_and_gradient(values: &[f32], p: f64) -> Result<(f32, Vec<f32>)> {
        let x = Tensor::new(values, Device::Cpu)?.requires_grad_(true)?;
        let y = x.norm(p, ())?;
        assert_eq!(y.grad_fn().unwrap().name(), "LinalgVectorNormBackward0");
        y.backward()?;
        Ok((y.item()?, x.grad().unwrap().to_vec()?))
    }

    #[test]
    fn norms_and_their_gradients() -> Result<()> {
        assert_eq!(value_and_gradient(&[3., -4.], 2.)?, (5., vec![0.6, -0.8]));
        assert_eq!(value_and_gradient(&[0., 0.], 2.)?, (0., vec![0., 0.]));
        assert_eq!(value_and_gradient(&[0., -4.], 1.)?, (4., vec![0., -1.]));
        assert_eq!(value_and_gradient(&[3., -3., 1.], f64::INFINITY)?, (3., vec![0.5, -0.5, 0.]));
        assert_eq!(value_and_gradient(&[0., 0.], f64::INFINITY)?, (0., vec![0., 0.]));
        assert_eq!(value_and_gradient(&[3., -3., 1.], f64::NEG_INFINITY)?, (1., vec![0., 0., 1.]));
        assert_eq!(value_and_gradient(&[0., 4.], 0.5)?, (4., vec![0., 1.]));
        assert_eq!(value_and_gradient(&[0., 0.], 3.)?, (0., vec![0., 0.]));
        assert_eq!(value_and_gradient(&[0., 2., -1.], 0.)?, (2., vec![0., 0., 0.]));
        Ok(())
    }

    #[test]
    fn shapes() -> Result<()> {
        let x = Tensor::ones([2, 3, 4], Device::Cpu)?;
        assert_eq!(x.norm(2, [0, 2])?.dims(), [3]);
        assert_eq!(x.norm_keepdim(1, -1)?.dims(), [2, 3, 1]);
        assert_eq!(Tensor::new(-2f32, Device::Cpu)?.norm(3, ())?.item::<f32>()?, 2.);
        let empty = Tensor::zeros([0, 3], Device::Cpu)?;
        assert_eq!(empty.norm(2, ())?.item::<f32>()?, 0.);
        assert!(empty.norm(f64::INFINITY, ()).is_err() && empty.norm(f64::NAN, ()).is_err());
        Ok(())
    }
}
