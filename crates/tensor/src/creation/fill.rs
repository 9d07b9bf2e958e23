//! Tensors of constants and arithmetic sequences: `zeros`, `ones`, `full`, `empty`, `eye`, `arange`, `linspace`.

use kiln_backend::{Arange, DType, Error, Result, Scalar, Shape, ViewMut};
use kiln_derive::located;

use super::{extents::Extents, options::TensorOptions};
use crate::{ops::Rhs, tensor::Tensor};

macro_rules! constant {
    ($($(#[$doc:meta])* $name:ident, $like:ident, $value:expr;)*) => {
        #[located]
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// If the shape is too large, or the device is not available.
            pub fn $name(shape: impl Extents, options: impl Into<TensorOptions>) -> Result<Tensor> {
                Self::filled(shape.to_shape(stringify!($name))?, Scalar::Int($value), options.into())
            }

            #[doc = concat!("[`", stringify!($name), "`](Tensor::", stringify!($name), ") with this tensor's shape, dtype and device.")]
            ///
            /// # Errors
            /// If memory runs out.
            pub fn $like(&self) -> Result<Tensor> {
                Self::filled(*self.shape(), Scalar::Int($value), self.options())
            }
        )*}
    };
}

constant! {
    /// A tensor of zeros.
    zeros, zeros_like, 0;
    /// A tensor of ones.
    ones, ones_like, 1;
}

#[located]
impl Tensor {
    /// The dtype and device of this tensor, to make similar ones: `Tensor::rand(x.shape(),
    /// x.options().dtype(DType::F64))`.
    pub fn options(&self) -> TensorOptions {
        TensorOptions::new().dtype(self.dtype()).device(self.device())
    }

    /// Zeros of this shape, with this tensor's dtype and device.
    ///
    /// # Errors
    /// If the shape is too large, or memory runs out.
    pub fn new_zeros(&self, shape: impl Extents) -> Result<Tensor> {
        Self::filled(shape.to_shape("new_zeros")?, Scalar::Int(0), self.options())
    }

    /// Ones of this shape, with this tensor's dtype and device.
    ///
    /// # Errors
    /// If the shape is too large, or memory runs out.
    pub fn new_ones(&self, shape: impl Extents) -> Result<Tensor> {
        Self::filled(shape.to_shape("new_ones")?, Scalar::Int(1), self.options())
    }

    /// A tensor of this shape filled with one value, with this tensor's dtype and device.
    ///
    /// # Errors
    /// If the shape is too large, or memory runs out.
    pub fn new_full(&self, shape: impl Extents, value: impl Into<Scalar>) -> Result<Tensor> {
        Self::filled(shape.to_shape("new_full")?, value.into(), self.options())
    }

    fn filled(shape: Shape, value: Scalar, options: TensorOptions) -> Result<Tensor> {
        let TensorOptions { device, requires_grad, .. } = options;
        Tensor::compute(device, options.dtype_or(DType::F32), shape, |backend, out| backend.fill(value, out))?
            .noted("constant", &[], || [("fill", value.into())])
            .requires_grad_(requires_grad)
    }

    /// A tensor filled with one value. As with the other constructors, the dtype is `f32` unless the options say
    /// otherwise.
    ///
    /// # Errors
    /// If the shape is too large, or the device is not available.
    pub fn full(shape: impl Extents, value: impl Into<Scalar>, options: impl Into<TensorOptions>) -> Result<Tensor> {
        Self::filled(shape.to_shape("full")?, value.into(), options.into())
    }

    /// [`full`](Tensor::full) with this tensor's shape, dtype and device.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn full_like(&self, value: impl Into<Scalar>) -> Result<Tensor> {
        Self::filled(*self.shape(), value.into(), self.options())
    }

    /// A tensor with unspecified contents.
    ///
    /// # Errors
    /// If the shape is too large, or the device is not available.
    pub fn empty(shape: impl Extents, options: impl Into<TensorOptions>) -> Result<Tensor> {
        let (shape, options): (_, TensorOptions) = (shape.to_shape("empty")?, options.into());
        // Recycled memory may hold any byte, but a `bool` must be 0 or 1.
        let dtype = options.dtype_or(DType::F32);
        if dtype == DType::Bool {
            return Self::filled(shape, Scalar::Bool(false), options);
        }
        Tensor::compute(options.device, dtype, shape, |_, _| Ok(()))?.requires_grad_(options.requires_grad)
    }

    /// [`empty`](Tensor::empty) with this tensor's shape, dtype and device.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn empty_like(&self) -> Result<Tensor> {
        Tensor::empty(self.shape(), self.options())
    }

    /// A matrix with ones on its diagonal: `eye(5, ..)` is the identity matrix of 5 rows, `eye([4, 5], ..)` has 4
    /// rows and 5 columns (`torch.eye(4, 5)`).
    ///
    /// # Errors
    /// If there are more than two extents, it is too large, or the device is not available.
    pub fn eye(extents: impl Extents, options: impl Into<TensorOptions>) -> Result<Tensor> {
        let options: TensorOptions = options.into();
        let shape = extents.to_shape("eye")?;
        let (rows, columns) = match *shape.dims() {
            [n] => (n, n),
            [rows, columns] => (rows, columns),
            _ => return Err(Error::argument("eye", format!("{shape} is not a matrix shape"))),
        };
        let out = Self::filled(Shape::new(&[rows, columns])?, Scalar::Int(0), options.requires_grad(false))?;
        let diagonal = kiln_backend::Layout::strided(Shape::new(&[rows.min(columns)])?, &[columns as isize + 1], 0)?;
        out.alias(diagonal).fill_(1)?;
        out.noted("constant", &[], || []).requires_grad_(options.requires_grad)
    }

    /// The numbers from `start` up to (but not including) `end` in steps of `step`. The dtype is `i64` if all three are
    /// integers, else `f32`, unless the options name one. As in PyTorch, for an integer dtype start and step are
    /// truncated to integers, but the number of elements is computed from the original three numbers.
    ///
    /// # Errors
    /// If the step is 0 or leads away from `end`, a bound is not finite, or the device is not available.
    pub fn arange_step(
        start: impl Into<Scalar>,
        end: impl Into<Scalar>,
        step: impl Into<Scalar>,
        options: impl Into<TensorOptions>,
    ) -> Result<Tensor> {
        let (start, end, step): (Scalar, Scalar, Scalar) = (start.into(), end.into(), step.into());
        let options: TensorOptions = options.into();
        let is_float = start.is_float() || end.is_float() || step.is_float();
        let options = options.dtype(options.dtype_or(if is_float { DType::F32 } else { DType::I64 }));
        let refuse =
            |why: &str| Err(Error::argument("arange", format!("{why} (start {start}, end {end}, step {step})")));
        let (from, to, by) = (start.to_f64(), end.to_f64(), step.to_f64());
        if by == 0.0 || !(from.is_finite() && to.is_finite() && by.is_finite()) {
            return refuse("the step must not be 0, and all must be finite");
        }
        if (to - from) * by.signum() < 0.0 {
            return refuse("the step leads away from the end");
        }
        let len = if is_float {
            ((to - from) / by).ceil() as usize
        } else {
            let (distance, step) = (i128::from(end.to_i64()) - i128::from(start.to_i64()), i128::from(step.to_i64()));
            usize::try_from((distance + step - step.signum()) / step).unwrap_or(usize::MAX)
        };
        let range = match options.dtype_or(DType::F32) {
            DType::Bool => return refuse("the dtype must not be bool"),
            dtype if dtype.is_float() => Arange { start, step },
            _ => Arange { start: Scalar::Int(start.to_i64()), step: Scalar::Int(step.to_i64()) },
        };
        Self::sequence(len, range, options)
    }

    /// The numbers from `start` up to (but not including) `end`.
    ///
    /// # Errors
    /// Those of [`arange_step`](Tensor::arange_step).
    pub fn arange(
        start: impl Into<Scalar>,
        end: impl Into<Scalar>,
        options: impl Into<TensorOptions>,
    ) -> Result<Tensor> {
        Self::arange_step(start, end, 1, options)
    }

    /// `steps` evenly spaced numbers from `start` to `end`, both included. Each bound is a number or a tensor with one
    /// element. As in PyTorch, for an integer dtype the bounds and the numbers in between are truncated to integers.
    ///
    /// # Errors
    /// If a bound is a tensor with more or fewer elements, or the device is not available.
    pub fn linspace(
        start: impl Into<Rhs>,
        end: impl Into<Rhs>,
        steps: usize,
        options: impl Into<TensorOptions>,
    ) -> Result<Tensor> {
        let options: TensorOptions = options.into();
        let bound = |bound: Rhs| match bound {
            Rhs::Scalar(value) => Ok(value.to_f64()),
            Rhs::Tensor(tensor) => tensor.item::<f64>().map_err(|error| error.of_op("linspace")),
        };
        let (start, end) = (bound(start.into())?, bound(end.into())?);
        let dtype = options.dtype_or(DType::F32);
        if !dtype.is_float() {
            let exact =
                Self::linspace(start.trunc(), end.trunc(), steps, options.dtype(DType::F64).requires_grad(false))?;
            return exact.trunc()?.to_dtype(dtype)?.requires_grad_(options.requires_grad);
        }
        let step = if steps > 1 { (end - start) / (steps - 1) as f64 } else { 0.0 };
        // Each half counts from its own end, so that both bounds are exact and symmetric ranges stay symmetric.
        let half = if steps > 1 { steps / 2 } else { steps };
        let out = Tensor::compute(options.device, dtype, Shape::new(&[steps])?, |backend, out| {
            let halves = [
                (out.layout.slice(0, 0, half, 1), Arange { start: Scalar::Float(start), step: Scalar::Float(step) }),
                (
                    out.layout.slice(0, half, steps, 1).flip(0),
                    Arange { start: Scalar::Float(end), step: Scalar::Float(-step) },
                ),
            ];
            for (layout, range) in halves {
                if layout.numel() > 0 {
                    backend.arange(range, ViewMut { buffer: &mut *out.buffer, layout: &layout })?;
                }
            }
            Ok(())
        })?;
        out.noted("constant", &[], || []).requires_grad_(options.requires_grad)
    }

    fn sequence(len: usize, range: Arange, options: TensorOptions) -> Result<Tensor> {
        let TensorOptions { device, requires_grad, .. } = options;
        Tensor::compute(device, options.dtype_or(DType::F32), Shape::new(&[len])?, |backend, out| {
            backend.arange(range, out)
        })?
        .noted("constant", &[], || [("start", range.start.into()), ("step", range.step.into())])
        .requires_grad_(requires_grad)
    }
}
