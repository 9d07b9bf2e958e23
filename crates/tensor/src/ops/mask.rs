//! Selecting elements by a mask: `masked_fill`, `masked_select`, `nonzero`.

use kiln_backend::{DType, Error, Result, Scalar, Shape};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{check, rhs::Rhs};
use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `value`, a number or a tensor without dimensions, where `mask` (`bool`) is true; this tensor elsewhere. Mask and
    /// tensor broadcast.
    ///
    /// # Errors
    /// If the mask is not `bool`, the shapes do not broadcast, the value has dimensions, or devices differ.
    pub fn masked_fill(&self, mask: &Tensor, value: impl Into<Rhs>) -> Result<Tensor> {
        self.masked_fill_as("masked_fill", mask, value.into())
    }

    fn masked_fill_as(&self, op: &'static str, mask: &Tensor, value: Rhs) -> Result<Tensor> {
        check::mask(op, mask)?;
        check::same_device(op, self, &[mask])?;
        Shape::broadcast(op, self.shape(), mask.shape())?;
        let own = *self.shape();
        match value {
            Rhs::Scalar(number) => {
                // The value is converted to the tensor's dtype, whatever its own.
                let number = match self.dtype() {
                    DType::Bool => Scalar::Bool(number.to_bool()),
                    dtype if dtype.is_int() => Scalar::Int(number.to_i64()),
                    _ => number,
                };
                let out = no_grad(|| mask.where_cond(number, self))?;
                record(out, "MaskedFillBackward0", &[self], &[mask], move |ctx| {
                    Ok(one(ctx.saved(0)?.where_cond(0, ctx.grad()?)?.sum_to(&own)?))
                })
            }
            Rhs::Tensor(value) => {
                check::same_device(op, self, &[&value])?;
                if value.rank() != 0 {
                    return Err(Error::shape(op, "a number, or a tensor without dimensions", value.shape()));
                }
                let value = value.to_dtype(self.dtype())?;
                let out = no_grad(|| mask.where_cond(&value, self))?;
                record(out, "MaskedFillBackward1", &[self, &value], &[mask], move |ctx| {
                    let (grad, mask) = (ctx.grad()?, ctx.saved(0)?);
                    Ok(smallvec![
                        ctx.when(0, || mask.where_cond(0, &grad)?.sum_to(&own))?,
                        ctx.when(1, || grad.keep_where(&mask)?.sum(()))?
                    ])
                })
            }
        }
    }

    /// [`masked_fill`](Tensor::masked_fill) in place.
    ///
    /// # Errors
    /// Those of [`masked_fill`](Tensor::masked_fill); or if the mask does not broadcast to this shape, or the tensor is
    /// a leaf that requires gradients while recording is on.
    pub fn masked_fill_(&self, mask: &Tensor, value: impl Into<Rhs>) -> Result<()> {
        const OP: &str = "masked_fill_";
        let value: Rhs = value.into();
        mask.layout().expand(OP, self.shape())?;
        let recorded = self.records_change(OP, value.tensor())?;
        let new = self.masked_fill_as(OP, mask, value)?;
        if recorded { self.replace_by(OP, &new) } else { self.copy_(&new) }
    }

    /// This tensor where `mask` is true, 0 elsewhere.
    pub(crate) fn keep_where(&self, mask: &Tensor) -> Result<Tensor> {
        mask.where_cond(self, if self.dtype() == DType::Bool { Scalar::Bool(false) } else { Scalar::Int(0) })
    }

    /// The elements where `mask` (`bool`) is true, as a vector in row-major order. Mask and tensor broadcast. Waits for
    /// the device, which alone knows how many there are.
    ///
    /// # Errors
    /// If the mask is not `bool`, the shapes do not broadcast, or the devices differ.
    pub fn masked_select(&self, mask: &Tensor) -> Result<Tensor> {
        const OP: &str = "masked_select";
        check::mask(OP, mask)?;
        check::same_device(OP, self, &[mask])?;
        let shape = Shape::broadcast(OP, self.shape(), mask.shape())?;
        let positions = mask.expand(shape)?.true_positions(OP)?;
        let out = no_grad(|| self.expand(shape)?.flatten_all()?.index_select(0, &positions))?;
        let own = *self.shape();
        record(out, "MaskedSelectBackward0", &[self], &[&positions], move |ctx| {
            let grad = ctx.grad()?;
            let spread = Tensor::zeros([shape.numel()], grad.options())?;
            spread.scatter_(0, &ctx.saved(0)?, &grad)?;
            Ok(one(spread.reshape(shape)?.sum_to(&own)?))
        })
    }

    /// The indices of the nonzero elements, in row-major order: an `i64` matrix with a row for each element and a
    /// column for each dimension. Waits for the device, which alone knows how many there are.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn nonzero(&self) -> Result<Tensor> {
        let mut rest = self.ne(0)?.true_positions("nonzero")?;
        let mut columns: SmallVec<[Tensor; 8]> = SmallVec::new();
        for &extent in self.dims().iter().rev() {
            let extent = extent.max(1);
            columns.push(rest.remainder(extent)?);
            rest = rest.floor_divide(extent)?;
        }
        columns.reverse();
        if columns.is_empty() {
            return Tensor::zeros([rest.numel(), 0], rest.options());
        }
        Tensor::stack(&columns, 1)
    }

    /// The positions of the true elements of this mask, in row-major order. Waits for the device.
    pub(super) fn true_positions(&self, op: &'static str) -> Result<Tensor> {
        check::mask(op, self)?;
        let options = self.options().dtype(DType::I64);
        if self.numel() == 0 {
            return Tensor::zeros([0], options);
        }
        // Counts the true elements up to and including each element: the k-th true element is the first with count k.
        let counts = self.flatten_all()?.cumsum(0)?;
        let total = counts.narrow(0, self.numel() - 1, 1)?.item::<i64>()?;
        counts.searchsorted(&Tensor::arange(1, total + 1, options)?, false)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn masked_select_and_its_gradient() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2., 3.], [4., 5., 6.]], Device::Cpu)?.requires_grad_(true)?;
        let y = x.masked_select(&Tensor::new(&[true, false, true], Device::Cpu)?)?;
        assert_eq!(y.to_vec::<f32>()?, [1., 3., 4., 6.]);
        y.mul(&y)?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [2., 0., 6., 8., 0., 12.]);
        let s = Tensor::new(1f32, Device::Cpu)?;
        assert_eq!(s.masked_select(&s.eq(1)?)?.to_vec::<f32>()?, [1.]);
        assert_eq!(s.masked_select(&s.eq(0)?)?.dims(), [0]);
        assert!(x.masked_select(&x).is_err());
        Ok(())
    }

    #[test]
    fn nonzero_gives_rows_of_indices() -> Result<()> {
        let x = Tensor::new(&[[0f32, 2.], [3., 0.]], Device::Cpu)?;
        assert_eq!(x.nonzero()?.to_vec::<i64>()?, [0, 1, 1, 0]);
        assert_eq!(Tensor::new(1f32, Device::Cpu)?.nonzero()?.dims(), [1, 0]);
        assert_eq!(Tensor::zeros([0, 3], Device::Cpu)?.nonzero()?.dims(), [0, 2]);
        Ok(())
    }

    #[test]
    fn masked_fill_stops_the_gradient() -> Result<()> {
        let x = Tensor::new(&[1f32, 2.], Device::Cpu)?.requires_grad_(true)?;
        let mask = x.gt(1)?;
        let y = x.masked_fill(&mask, f64::NEG_INFINITY)?;
        assert_eq!(y.grad_fn().unwrap().name(), "MaskedFillBackward0");
        let z = x.mul(3)?;
        z.masked_fill_(&mask, 0)?;
        z.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [3., 0.]);
        Ok(())
    }
}
