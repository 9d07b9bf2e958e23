//! Positions of the largest and smallest elements: `argmax`, `argmin`, `max_dim`, `min_dim`. (`max`, `min`, `amax`,
//! `amin` are reductions.)

use kiln_backend::{ArgReduceArgs, ArgReduceOp, Arguments, DType, Dim, Error, Result, Shape};
use kiln_derive::located;

use super::{gather::lifted, one_or_all::OneOrAll};
use crate::tensor::Tensor;

macro_rules! extremes {
    ($($name:ident $keepdim:ident $arg:ident $arg_keepdim:ident $op:ident $node:literal $what:literal;)*) => {
        #[located]
        impl Tensor {$(
            #[doc = concat!("The ", $what, " element along a dimension, which is dropped, and its position (`i64`).")]
            /// Of equal ones, it is the first; NaN is the result if there is one. The gradient goes to the position
            /// returned. PyTorch's `max(dim)` and `min(dim)`.
            ///
            /// # Errors
            /// If the dimension is out of range, or empty.
            pub fn $name(&self, dim: impl Dim) -> Result<(Tensor, Tensor)> {
                self.extreme_along(stringify!($name), $node, dim, ArgReduceOp::$op, false)
            }

            #[doc = concat!("[`", stringify!($name), "`](Tensor::", stringify!($name), ") that keeps the dimension with extent 1.")]
            ///
            /// # Errors
            /// If the dimension is out of range, or empty.
            pub fn $keepdim(&self, dim: impl Dim) -> Result<(Tensor, Tensor)> {
                self.extreme_along(stringify!($keepdim), $node, dim, ArgReduceOp::$op, true)
            }

            #[doc = concat!("The position of the ", $what, " element (`i64`; the first of equal ones, the first NaN if")]
            /// there is one): along a dimension, which is dropped, or for `()` in the tensor's elements in row-major
            /// order.
            ///
            /// # Errors
            /// If the dimension is out of range, or there are no elements to choose from.
            pub fn $arg(&self, dim: impl OneOrAll) -> Result<Tensor> {
                self.arg_extreme(stringify!($arg), dim.dim(), ArgReduceOp::$op, false)
            }

            #[doc = concat!("[`", stringify!($arg), "`](Tensor::", stringify!($arg), ") that keeps the dimensions with extent 1.")]
            ///
            /// # Errors
            /// If the dimension is out of range, or there are no elements to choose from.
            pub fn $arg_keepdim(&self, dim: impl OneOrAll) -> Result<Tensor> {
                self.arg_extreme(stringify!($arg_keepdim), dim.dim(), ArgReduceOp::$op, true)
            }
        )*}
    };
}

extremes! {
    max_dim max_dim_keepdim argmax argmax_keepdim Max "MaxBackward0" "largest";
    min_dim min_dim_keepdim argmin argmin_keepdim Min "MinBackward0" "smallest";
}

#[located]
impl Tensor {
    fn extreme_along(
        &self,
        op: &'static str,
        node: &'static str,
        dim: impl Dim,
        arg: ArgReduceOp,
        keepdim: bool,
    ) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve(op, self.rank())?;
        let (values, indices) = self.arg_reduced(op, dim, arg)?;
        let shape = if keepdim { *values.shape() } else { without(values.shape(), dim)? };
        self.picked(node, dim, values, indices, shape)
    }

    fn arg_extreme(&self, op: &'static str, dim: Option<i64>, arg: ArgReduceOp, keepdim: bool) -> Result<Tensor> {
        let Some(dim) = dim else {
            let found = self.detach().flatten_all()?.arg_extreme(op, Some(0), arg, false)?;
            return if keepdim { Ok(found.with_shape(Shape::new(&vec![1; self.rank()])?)) } else { Ok(found) };
        };
        let dim = dim.resolve(op, self.rank())?;
        let (_, indices) = self.arg_reduced(op, dim, arg)?;
        let shape = if keepdim { *indices.shape() } else { without(indices.shape(), dim)? };
        Ok(indices.with_shape(shape))
    }

    /// Values and indices with the dimension kept, not recorded on the tape.
    fn arg_reduced(&self, op: &'static str, dim: usize, arg: ArgReduceOp) -> Result<(Tensor, Tensor)> {
        let (reading, layout) = (self.read(), lifted(self.layout())?);
        let kept = layout.shape().with_dim(dim, 1)?;
        if layout.dims()[dim] == 0 && kept.numel() > 0 {
            return Err(Error::shape(op, format!("elements in dimension {dim}"), self.shape()));
        }
        let mut values = None;
        let indices = Tensor::compute(self.device(), DType::I64, kept, |backend, indices| {
            values = Some(Tensor::compute(self.device(), self.dtype(), kept, |_, out| {
                backend.arg_reduce(
                    ArgReduceArgs { op: arg, x: reading.through(&layout), dim, values: Some(out), indices }
                        .checked()?,
                )
            })?);
            Ok(())
        })?;
        let values = values.map_or_else(|| self.detach().copy(), Ok)?;
        if self.rank() == 0 {
            let (values, indices) = (values.with_shape(Shape::SCALAR), indices.with_shape(Shape::SCALAR));
            return Ok((values.noted("identity", &[self], || []), indices.noted("constant", &[], || [])));
        }
        let [value_op, index_op] = match arg {
            ArgReduceOp::Max => ["amax", "argmax"],
            ArgReduceOp::Min => ["amin", "argmin"],
        };
        let values = values.noted(value_op, &[self], || [("dims", (&[dim][..]).into()), ("keepdim", true.into())]);
        Ok((values, indices.noted(index_op, &[self], || [("dim", dim.into())])))
    }
}

/// The shape without one dimension; a scalar's shape is unchanged.
pub(super) fn without(shape: &Shape, dim: usize) -> Result<Shape> {
    let kept: smallvec::SmallVec<[usize; 8]> =
        shape.iter().enumerate().filter(|&(d, _)| d != dim).map(|(_, &extent)| extent).collect();
    Shape::new(&kept)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn x() -> Result<Tensor> {
        Tensor::new(&[[1f32, 3., 3.], [3., 1., 2.]], Device::Cpu)?.requires_grad_(true)
    }

    #[test]
    fn ties_share_or_the_first_wins() -> Result<()> {
        let x = x()?;
        let y = x.max(())?;
        assert_eq!((y.item::<f32>()?, y.grad_fn().unwrap().name()), (3., "MaxBackward1"));
        y.mul(3)?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0., 1., 1., 1., 0., 0.]);
        x.zero_grad();
        let (values, indices) = x.max_dim(1)?;
        assert_eq!(indices.to_vec::<i64>()?, [1, 0]);
        assert_eq!(values.grad_fn().unwrap().name(), "MaxBackward0");
        values.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0., 1., 0., 1., 0., 0.]);
        let (values, indices) = x.min_dim_keepdim(-2)?;
        assert_eq!((values.to_vec::<f32>()?, indices.dims()), (vec![1., 1., 2.], &[1, 3][..]));
        Ok(())
    }

    #[test]
    fn positions() -> Result<()> {
        let x = x()?;
        assert_eq!(x.argmax(1)?.to_vec::<i64>()?, [1, 0]);
        assert_eq!(x.argmin(())?.item::<i64>()?, 0);
        assert_eq!(x.t()?.argmax(())?.item::<i64>()?, 1);
        assert_eq!(x.argmax_keepdim(())?.dims(), [1, 1]);
        assert_eq!(x.argmin_keepdim(0)?.dims(), [1, 3]);
        let s = Tensor::new(5i64, Device::Cpu)?;
        assert_eq!((s.argmax(0)?.item::<i64>()?, s.max_dim(-1)?.0.item::<i64>()?), (0, 5));
        Ok(())
    }

    #[test]
    fn nothing_has_no_largest() -> Result<()> {
        let x = Tensor::zeros([0, 3], Device::Cpu)?;
        assert!(x.max(()).is_err() && x.max_dim(0).is_err() && x.argmin(()).is_err());
        assert_eq!(x.max_dim(1)?.0.dims(), [0]);
        assert!(x.max_dim(2).is_err());
        Ok(())
    }
}
