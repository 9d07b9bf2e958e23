//! Turns the untyped views of the backend's contract into typed pointers that are known to be in bounds.
//!
//! The loops of this crate index memory through raw pointers. That is sound because of what is checked here, once per
//! operand: that the buffer is host memory of the type's dtype, that the layout's span lies inside it, and that no two
//! indices of an output map to the same element. That no output overlaps an input needs no check: an output borrows its
//! buffer exclusively.

use std::marker::PhantomData;

use kiln_backend::{Error, Layout, Operand, Result, View, ViewMut};

use crate::{memory::buffer::CpuBuffer, numeric::stored::Stored};

/// A tensor to read, of elements `T`.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a, T> {
    ptr: *const T,
    layout: &'a Layout,
    memory: PhantomData<&'a [T]>,
}

// SAFETY: it represents a `&'a [T]` with a layout.
unsafe impl<T: Sync> Send for Source<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Source<'_, T> {}

impl<'a, T: Stored> Source<'a, T> {
    /// Checks the view; `op` is the name for the error.
    pub(crate) fn new(op: &'static str, view: View<'a>) -> Result<Source<'a, T>> {
        let buffer = view.buffer.as_any().downcast_ref::<CpuBuffer>().ok_or_else(|| foreign(op))?;
        if view.dtype() != T::DTYPE {
            return Err(Error::dtypes(op, T::DTYPE, view.dtype()));
        }
        let bytes = buffer.bytes();
        let offset = checked_offset(op, view.layout, bytes.len() / size_of::<T>())?;
        // SAFETY: `checked_offset` returns a position inside the buffer, or 0.
        let ptr = unsafe { bytes.as_ptr().cast::<T>().add(offset) };
        Ok(Source { ptr, layout: view.layout, memory: PhantomData })
    }

    /// The same tensor with its elements reinterpreted as bits.
    pub(crate) fn bits(self) -> Source<'a, T::Bits> {
        Source { ptr: self.ptr.cast(), layout: self.layout, memory: PhantomData }
    }

    /// The elements, if they are in row-major order without gaps.
    pub(crate) fn slice(&self) -> Option<&'a [T]> {
        // SAFETY: a contiguous layout describes the `numel` positions from `ptr` on, which `new` checked.
        self.layout.is_contiguous().then(|| unsafe { std::slice::from_raw_parts(self.ptr, self.numel()) })
    }
}

impl<'a, T> Source<'a, T> {
    /// The first element (at the layout's offset). Every position that the layout describes relative to it
    /// may be read for `'a`.
    pub(crate) fn ptr(&self) -> *const T {
        self.ptr
    }

    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }

    pub(crate) fn numel(&self) -> usize {
        self.layout.numel()
    }
}

/// A tensor to write, of elements `T`; no two indices map to the same element.
pub(crate) struct Target<'a, T> {
    ptr: *mut T,
    layout: &'a Layout,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: it represents a `&'a mut [T]` with a layout. Threads that share one write disjoint elements, which the
// (unsafe) code that writes through `ptr` must uphold.
unsafe impl<T: Send> Send for Target<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Target<'_, T> {}

impl<'a, T: Stored> Target<'a, T> {
    /// Checks the view; `op` is the name for the error.
    pub(crate) fn new(op: &'static str, view: ViewMut<'a>) -> Result<Target<'a, T>> {
        let ViewMut { buffer, layout } = view;
        let buffer = buffer.as_any_mut().downcast_mut::<CpuBuffer>().ok_or_else(|| foreign(op))?;
        let dtype = kiln_backend::Buffer::dtype(buffer);
        if dtype != T::DTYPE {
            return Err(Error::dtypes(op, T::DTYPE, dtype));
        }
        let bytes = buffer.bytes_mut();
        let offset = checked_offset(op, layout, bytes.len() / size_of::<T>())?;
        if !layout.is_contiguous() && layout.may_overlap() {
            return Err(Error::argument(op, format!("elements of the output {layout:?} share memory")));
        }
        // SAFETY: `checked_offset` returns a position inside the buffer, or 0.
        let ptr = unsafe { bytes.as_mut_ptr().cast::<T>().add(offset) };
        Ok(Target { ptr, layout, memory: PhantomData })
    }

    /// The same tensor with its elements reinterpreted as bits.
    pub(crate) fn bits(self) -> Target<'a, T::Bits> {
        Target { ptr: self.ptr.cast(), layout: self.layout, memory: PhantomData }
    }
}

impl<'a, T> Target<'a, T> {
    /// The first element (at the layout's offset). Every position that the layout describes relative to it
    /// may be read and written for `'a`, each by one thread at a time.
    pub(crate) fn ptr(&self) -> *mut T {
        self.ptr
    }

    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }

    pub(crate) fn numel(&self) -> usize {
        self.layout.numel()
    }
}

/// An operand of an element-wise operation.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a, T: Stored> {
    Tensor(Source<'a, T>),
    Constant(T::Compute),
}

impl<'a, T: Stored> Input<'a, T> {
    /// An operand for arithmetic: numbers are not rounded to half precision.
    pub(crate) fn new(op: &'static str, operand: Operand<'a>) -> Result<Input<'a, T>> {
        Ok(match operand {
            Operand::Tensor(view) => Input::Tensor(Source::new(op, view)?),
            Operand::Scalar(value) => Input::Constant(T::number(value)),
        })
    }

    /// An operand for comparison or selection: numbers are rounded as elements are.
    pub(crate) fn rounded(op: &'static str, operand: Operand<'a>) -> Result<Input<'a, T>> {
        Ok(match operand {
            Operand::Tensor(view) => Input::Tensor(Source::new(op, view)?),
            Operand::Scalar(value) => Input::Constant(T::from_scalar(value).load()),
        })
    }
}

/// Checks that a layout stays inside a buffer of `len` elements, and returns its offset (0 for a layout without
/// elements, whose offset has no meaning).
fn checked_offset(op: &'static str, layout: &Layout, len: usize) -> Result<usize> {
    match layout.span() {
        Some(span) if span.is_empty() => Ok(0),
        Some(span) if span.end <= len => Ok(layout.offset()),
        _ => Err(Error::argument(op, format!("{layout:?} extends beyond its buffer of {len} elements"))),
    }
}

fn foreign(op: &'static str) -> Error {
    Error::devices(op, "cpu", "another device")
}

#[cfg(test)]
mod tests {
    use kiln_backend::{DType, HostVec, Shape};

    use super::*;

    fn layout(dims: &[usize], strides: &[isize], offset: usize) -> Layout {
        Layout::strided(Shape::new(dims).unwrap(), strides, offset).unwrap()
    }

    #[test]
    fn views_are_checked() {
        let mut buffer = CpuBuffer::adopt(HostVec::F32((0..6).map(|i| i as f32).collect()));
        for (l, ok) in [
            (layout(&[2, 3], &[3, 1], 0), true),
            (layout(&[2, 3], &[3, 1], 1), false),
            (layout(&[3], &[-1], 2), true),
            (layout(&[3], &[-1], 1), false),
            (layout(&[0, 3], &[3, 1], 99), true),
        ] {
            let view = View { buffer: &buffer, layout: &l };
            assert_eq!(Source::<f32>::new("t", view).is_ok(), ok, "{l:?}");
            assert!(Source::<i32>::new("t", view).is_err());
        }
        let l = layout(&[2, 2], &[3, 1], 1);
        let view = View { buffer: &buffer, layout: &l };
        let source = Source::<f32>::new("t", view).unwrap();
        // SAFETY: the first element of a checked, non-empty layout.
        assert_eq!(unsafe { source.ptr().read() }, 1.0);
        assert!(source.slice().is_none());
        let overlapping = layout(&[2, 3], &[0, 1], 0);
        assert!(Target::<f32>::new("t", ViewMut { buffer: &mut buffer, layout: &overlapping }).is_err());
        assert_eq!(buffer.bytes().len(), 6 * DType::F32.size());
    }
}
