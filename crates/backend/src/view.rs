//! How backends receive tensors: a [`Buffer`] of their memory, and a layout over it.

use std::{any::Any, fmt};

use crate::{dtype::DType, layout::Layout, scalar::Scalar};

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
