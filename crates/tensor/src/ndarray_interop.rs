//! Interop with the `ndarray` crate (0.17, re-exported as `kiln::ndarray`), with the feature `ndarray`. Arrays become tensors,
//! and tensors on the CPU are viewed as arrays, without copying: they share memory, as PyTorch and NumPy do.

use std::{fmt, marker::PhantomData};

use ::ndarray::{Array, ArrayD, ArrayViewD, ArrayViewMutD, Dimension, IxDyn, ShapeError};
use kiln_backend::{Element, Error, Layout, Result, Shape};
use kiln_derive::located;

use crate::{
    device::Device,
    storage::{Reading, Storage, Writing, lock_for_update},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// A tensor that takes ownership of an array: on the CPU without copying it, whatever the order of its dimensions
    /// in memory (the tensor gets the array's strides). Only an array with reversed axes is copied, because tensors
    /// have no negative strides.
    ///
    /// ```
    /// use kiln_tensor::{Device, Tensor, ndarray::array};
    /// let x = Tensor::from_ndarray(array![[1.0f32, 2.0], [3.0, 4.0]], Device::Cpu)?;
    /// x.mul_(10)?;
    /// assert_eq!(x.as_ndarray::<f32>()?.view()[[1, 0]], 30.0);
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the array has more than 8 dimensions, or the device is not available.
    pub fn from_ndarray<T: Element, D: Dimension>(array: Array<T, D>, device: impl Into<Device>) -> Result<Tensor> {
        let shape = Shape::new(array.shape())?;
        let array = if array.strides().iter().any(|&stride| stride < 0) {
            array.as_standard_layout().into_owned()
        } else {
            array
        };
        let strides = array.strides().to_vec();
        let (values, offset) = array.into_raw_vec_and_offset();
        let layout = if shape.numel() == 0 {
            Layout::contiguous(shape)
        } else {
            Layout::strided(shape, &strides, offset.unwrap_or(0))?
        };
        let all = Shape::new(&[values.len()])?;
        let memory = Tensor::from_host("from_ndarray", T::into_host(values), all, device.into())?;
        Ok(Tensor::from_storage(memory.0.storage.clone(), layout))
    }

    /// A read-only view of the tensor's memory as an array: `tensor.as_ndarray::<f32>()?.view()`.
    ///
    /// While the guard lives the tensor is locked, and operations that change its memory wait. Drop the guard before you change
    /// the tensor on the same thread.
    ///
    /// # Errors
    /// If `T` is not the element type, or the tensor is not contiguous or not on the CPU.
    pub fn as_ndarray<T: Element>(&self) -> Result<NdarrayGuard<'_, T>> {
        check::<T>(OP, self)?;
        let reading = self.read();
        // So that `view` cannot fail.
        window::<T>(OP, reading.guard.host_bytes(), self.layout())?;
        Ok(NdarrayGuard { reading, element: PhantomData })
    }

    /// A mutable view of the tensor's memory as an array: `tensor.as_ndarray_mut::<f32>()?.view_mut()`. It counts as an
    /// in-place change: tensors that autograd saved of this memory become stale.
    ///
    /// While the guard lives the tensor is locked, also for reading. Drop the guard before you use the tensor on the same
    /// thread.
    ///
    /// # Errors
    /// Those of [`as_ndarray`](Tensor::as_ndarray); or if the tensor requires gradients while recording is on, since
    /// changes through an array cannot be recorded.
    pub fn as_ndarray_mut<T: Element>(&self) -> Result<NdarrayGuardMut<'_, T>> {
        const OP: &str = "as_ndarray_mut";
        check::<T>(OP, self)?;
        if self.records_change(OP, None)? {
            let message = "changes through an array cannot be recorded; use `detach()`, or do it in `no_grad`";
            return Err(Error::autograd(OP, message));
        }
        let (writing, []) = lock_for_update((&self.0.storage, self.layout()), []);
        window::<T>(OP, writing.guard.host_bytes(), self.layout())?;
        Ok(NdarrayGuardMut { writing, storage: &self.0.storage, element: PhantomData })
    }

    /// A copy of the values as an array. Waits for the device.
    ///
    /// # Errors
    /// If `T` is not the element type, or work queued earlier failed.
    pub fn to_ndarray<T: Element>(&self) -> Result<ArrayD<T>> {
        ArrayD::from_shape_vec(IxDyn(self.dims()), self.to_vec::<T>()?).map_err(misshapen)
    }
}

/// A tensor locked for reading; see [`Tensor::as_ndarray`].
pub struct NdarrayGuard<'a, T> {
    reading: Reading<'a>,
    element: PhantomData<T>,
}

impl<T: Element> NdarrayGuard<'_, T> {
    /// The tensor's memory as an array.
    #[must_use]
    pub fn view(&self) -> ArrayViewD<'_, T> {
        let layout = self.reading.layout;
        window(OP, self.reading.guard.host_bytes(), layout)
            .and_then(|values| ArrayViewD::from_shape(IxDyn(layout.dims()), values).map_err(misshapen))
            .unwrap_or_else(|_| unreachable!("checked when the guard was made, and locked since"))
    }
}

/// A tensor locked for writing; see [`Tensor::as_ndarray_mut`].
pub struct NdarrayGuardMut<'a, T> {
    writing: Writing<'a>,
    storage: &'a std::sync::Arc<Storage>,
    element: PhantomData<T>,
}

impl<T: Element> NdarrayGuardMut<'_, T> {
    /// The tensor's memory as a mutable array.
    #[must_use]
    pub fn view_mut(&mut self) -> ArrayViewMutD<'_, T> {
        let layout = self.writing.layout;
        window_mut(self.writing.guard.host_bytes_mut(), layout)
            .and_then(|values| ArrayViewMutD::from_shape(IxDyn(layout.dims()), values).map_err(misshapen))
            .unwrap_or_else(|_| unreachable!("checked when the guard was made, and locked since"))
    }
}

/// Increments the version when the guard is dropped, so that tensors which autograd saved while it lived become stale
/// as well.
impl<T> Drop for NdarrayGuardMut<'_, T> {
    fn drop(&mut self) {
        self.storage.bump_version();
    }
}

impl<T> fmt::Debug for NdarrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NdarrayGuard({})", self.reading.layout.shape())
    }
}

impl<T> fmt::Debug for NdarrayGuardMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NdarrayGuardMut({})", self.writing.layout.shape())
    }
}

const OP: &str = "as_ndarray";

fn check<T: Element>(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() != T::DTYPE {
        let expected = format!("an array of {} was requested; convert with `to_dtype`", T::DTYPE);
        return Err(Error::dtype(op, tensor.dtype(), expected));
    }
    if !tensor.is_contiguous() {
        return Err(Error::shape(op, "a contiguous tensor; make one with `contiguous()`", tensor.shape()));
    }
    Ok(())
}

/// The bytes of the buffer that hold the elements of a contiguous layout.
fn place<T>(layout: &Layout) -> std::ops::Range<usize> {
    let size = size_of::<T>();
    let start = if layout.numel() == 0 { 0 } else { layout.offset() };
    start * size..(start + layout.numel()) * size
}

fn window<'a, T: Element>(op: &'static str, bytes: Option<&'a [u8]>, layout: &Layout) -> Result<&'a [T]> {
    let bytes = bytes.ok_or_else(|| not_on_host(op))?;
    let bytes =
        bytes.get(place::<T>(layout)).ok_or_else(|| Error::argument(op, "the view extends beyond its memory"))?;
    bytemuck::checked::try_cast_slice(bytes).map_err(|error| Error::argument(op, error.to_string()))
}

fn window_mut<'a, T: Element>(bytes: Option<&'a mut [u8]>, layout: &Layout) -> Result<&'a mut [T]> {
    let bytes = bytes.ok_or_else(|| not_on_host(OP))?;
    let bytes =
        bytes.get_mut(place::<T>(layout)).ok_or_else(|| Error::argument(OP, "the view extends beyond its memory"))?;
    bytemuck::checked::try_cast_slice_mut(bytes).map_err(|error| Error::argument(OP, error.to_string()))
}

fn not_on_host(op: &'static str) -> Error {
    Error::argument(op, "the tensor is not in host memory; move it with `to_device`")
}

fn misshapen(error: ShapeError) -> Error {
    Error::argument(OP, error.to_string())
}
