//! The [`Backend`] trait: the primitives that a device implements.

use std::{any::Any, fmt};

use crate::{
    capture::CaptureBackend,
    dtype::DType,
    layout::Layout,
    ops::{
        ArgReduceBackend, BatchNormBackend, BinaryBackend, ClassLossBackend, Conv2dBackend, CopyBackend,
        DropoutBackend, FillBackend, IndexBackend, LayerNormBackend, LinearBackend, MatmulBackend, MemoryBackend,
        OptimBackend, PointwiseLossBackend, Pool2dBackend, RandomBackend, ReduceBackend, ReluBiasGradBackend,
        ScanBackend, SoftmaxBackend, SortBackend, TrilTriuBackend, UnaryBackend, WhereCondBackend,
    },
    scalar::Scalar,
};

/// A piece of a device's memory that holds elements of one dtype.
pub trait Buffer: Any + Send + Sync + fmt::Debug {
    /// The element type.
    fn dtype(&self) -> DType;
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether there are no elements.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The contents as bytes, if the buffer is host memory.
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }
    /// Whether the buffer is host memory that a device reads directly
    /// ([`MemoryBackend::pinned`](crate::MemoryBackend::pinned)).
    fn is_pinned(&self) -> bool {
        false
    }
    /// The contents as bytes to write to, if the buffer is host memory. For `bool` only 0 and 1 may be written.
    fn host_bytes_mut(&mut self) -> Option<&mut [u8]> {
        None
    }
    /// For downcasting by the backend that made the buffer.
    fn as_any(&self) -> &dyn Any;
    /// For downcasting by the backend that made the buffer.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A tensor to read: a buffer and a layout over it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The memory.
    pub buffer: &'a dyn Buffer,
    /// Where the elements lie in it.
    pub layout: &'a Layout,
}

impl View<'_> {
    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }
}

/// A tensor to write. No two indices of the layout map to the same element of the buffer.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// The memory.
    pub buffer: &'a mut dyn Buffer,
    /// Where the elements lie in it.
    pub layout: &'a Layout,
}

impl ViewMut<'_> {
    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// The tensor as a view to read.
    #[must_use]
    pub fn as_view(&self) -> View<'_> {
        View { buffer: &*self.buffer, layout: self.layout }
    }

    /// The same tensor, borrowed for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut *self.buffer, layout: self.layout }
    }
}

/// An operand of an element-wise operation: a tensor or a number. A number is converted to the type that the tensor is
/// computed in, `f32` for half precision; only comparisons and `where` round it to the tensor's dtype.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// A tensor, broadcast by its strides.
    Tensor(View<'a>),
    /// A number.
    Scalar(Scalar),
}

/// Host memory owned by something other than the CPU backend, which takes it back when it is dropped.
pub trait HostMemory: Send + Sync + fmt::Debug {
    /// The whole memory, aligned to 64 bytes.
    fn bytes(&self) -> &[u8];
    /// The whole memory, to write to.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// The primitives of one device. Object-safe: tensors call them through `&'static dyn Backend`.
///
/// # Contract
/// The caller (`kiln-tensor`) has checked shapes, dtypes and devices, has broadcast operands to the output's
/// shape by strides, and hands outputs that overlap no input. A backend checks that layouts stay inside
/// their buffers before it touches memory, and values that only it sees (indices, labels); it returns a
/// typed error for both and never panics. Work may be asynchronous; [`download`](MemoryBackend::download) and
/// [`synchronize`](MemoryBackend::synchronize) wait.
///
/// Unless a method says otherwise, all operands have the output's shape, any strides, and one dtype.
/// Half precision is computed in `f32` and rounded once at the end of a primitive. Zero elements are no
/// error and no work.
pub trait Backend:
    MemoryBackend
    + FillBackend
    + RandomBackend
    + CopyBackend
    + UnaryBackend
    + BinaryBackend
    + WhereCondBackend
    + DropoutBackend
    + TrilTriuBackend
    + ReduceBackend
    + ArgReduceBackend
    + ScanBackend
    + SortBackend
    + SoftmaxBackend
    + IndexBackend
    + MatmulBackend
    + LinearBackend
    + ReluBiasGradBackend
    + Conv2dBackend
    + Pool2dBackend
    + BatchNormBackend
    + LayerNormBackend
    + ClassLossBackend
    + PointwiseLossBackend
    + OptimBackend
    + CaptureBackend
{
}
