//! Checks operands: turns a view of the backend's contract into an address whose whole extent is inside its buffer.
//!
//! Kernels read and write through plain addresses. That is sound because of what is checked here, once per operand:
//! that the buffer belongs to the device, that the layout's span lies inside it, and that no two indices of an output
//! map to the same element. That no output overlaps an input needs no check: an output borrows its buffer exclusively.

use kiln_backend::{DType, Error, Layout, Result, View, ViewMut};

use crate::{device::Device, memory::CudaBuffer, params::Place};

/// A tensor that a kernel may read, and may write if it was made from a [`ViewMut`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) dtype: DType,
    pub(crate) layout: &'a Layout,
    /// The address of the element with index 0 everywhere.
    pub(crate) address: u64,
}

/// Checks the memory of a primitive's operands.
#[derive(Clone, Copy)]
pub(crate) struct Access<'d> {
    pub(crate) device: &'d Device,
    /// The primitive's name for errors.
    pub(crate) op: &'static str,
}

impl Access<'_> {
    pub(crate) fn read<'a>(&self, view: View<'a>) -> Result<Tensor<'a>> {
        Tensor::read(self.device, self.op, view)
    }

    pub(crate) fn write<'a>(&self, view: ViewMut<'a>) -> Result<Tensor<'a>> {
        Tensor::write(self.device, self.op, view)
    }

    /// An optional operand.
    pub(crate) fn read_if<'a>(&self, view: Option<View<'a>>) -> Result<Option<Tensor<'a>>> {
        view.map(|view| self.read(view)).transpose()
    }

    /// An optional result.
    pub(crate) fn write_if<'a>(&self, view: Option<ViewMut<'a>>) -> Result<Option<Tensor<'a>>> {
        view.map(|view| self.write(view)).transpose()
    }
}

impl<'a> Tensor<'a> {
    /// An operand to read; `op` is the name for errors.
    pub(crate) fn read(device: &Device, op: &'static str, view: View<'a>) -> Result<Tensor<'a>> {
        let buffer = view.buffer.as_any().downcast_ref::<CudaBuffer>();
        Tensor::new(device, op, buffer, view.layout)
    }

    /// An operand to write.
    pub(crate) fn write(device: &Device, op: &'static str, view: ViewMut<'a>) -> Result<Tensor<'a>> {
        let tensor = Tensor::new(device, op, view.buffer.as_any().downcast_ref::<CudaBuffer>(), view.layout)?;
        if !tensor.layout.is_contiguous() && tensor.layout.may_overlap() {
            return Err(Error::argument(op, format!("elements of the output {:?} share memory", tensor.layout)));
        }
        Ok(tensor)
    }

    fn new(device: &Device, op: &'static str, buffer: Option<&CudaBuffer>, layout: &'a Layout) -> Result<Tensor<'a>> {
        let here = || format!("cuda:{}", device.index());
        let buffer = buffer.ok_or_else(|| Error::devices(op, here(), "another device"))?;
        if buffer.device_index() != device.index() {
            return Err(Error::devices(op, here(), format!("cuda:{}", buffer.device_index())));
        }
        let (dtype, len) = (kiln_backend::Buffer::dtype(buffer), kiln_backend::Buffer::len(buffer));
        let offset = checked_offset(op, layout, len)?;
        Ok(Tensor { dtype, layout, address: buffer.address()? + (offset * dtype.size()) as u64 })
    }

    /// Its place in memory, for a kernel's grid.
    pub(crate) fn place(&self) -> Place<'a> {
        Place { address: self.address, strides: self.layout.strides() }
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

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    #[test]
    fn layouts_stay_inside() {
        let layout = |dims: &[usize], strides: &[isize], offset| {
            Layout::strided(Shape::new(dims).unwrap(), strides, offset).unwrap()
        };
        for (layout, offset) in [
            (layout(&[2, 3], &[3, 1], 0), Some(0)),
            (layout(&[2, 3], &[3, 1], 1), None),
            (layout(&[3], &[-1], 2), Some(2)),
            (layout(&[3], &[-1], 1), None),
            (layout(&[0, 3], &[3, 1], 99), Some(0)),
        ] {
            assert_eq!(checked_offset("t", &layout, 6).ok(), offset, "{layout:?}");
        }
    }
}
