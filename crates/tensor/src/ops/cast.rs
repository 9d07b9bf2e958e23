//! Copies and conversions: `copy`, `contiguous`, `to_dtype`, `to_device`, `pin_memory`.

use kiln_backend::{Arguments, CopyArgs, DType, Element, Error, HostVec, Layout, Result, dispatch_dtype};
use kiln_derive::located;

use super::images::image_layout;
use crate::{
    autograd::{no_grad, one, record},
    captured::{refuse_read, refuse_upload},
    device::Device,
    storage::Storage,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// A new tensor with the same values in row-major order, PyTorch's `clone()` (in Rust, `clone` makes another
    /// handle). Gradients flow through it.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn copy(&self) -> Result<Tensor> {
        let out = record(self.converted(self.dtype())?, "CloneBackward0", &[self], &[], |ctx| Ok(one(ctx.grad()?)))?;
        Ok(out.described("identity", || []))
    }

    /// This tensor if its elements are in row-major order, else a [`copy`](Tensor::copy).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }

    /// The values as another dtype, converted as Rust's `as` does (nonzero is `true`, floats are truncated to
    /// integers); this tensor if it already has the dtype. Channels-last images stay in that order.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let out = self.converted_in_order(dtype)?;
        if !dtype.is_float() {
            return Ok(out.noted("cast", &[self], || []));
        }
        self.cast_to(out)
    }

    /// Records `out`, which has this tensor's values in another floating-point dtype, as [`to_dtype`](Tensor::to_dtype) does.
    pub(crate) fn cast_to(&self, out: Tensor) -> Result<Tensor> {
        let own = self.dtype();
        let out = record(out, "ToCopyBackward0", &[self], &[], move |ctx| {
            let grad = ctx.grad()?;
            Ok(one(if ctx.leaf_converts(0, grad.dtype()) { grad } else { grad.to_dtype(own)? }))
        })?;
        Ok(out.described("cast", || []))
    }

    /// The values in their compute type: `f32` for half precision, else this tensor. Gradient rules with several steps
    /// use it to round once.
    pub(crate) fn widened(&self) -> Result<Tensor> {
        if self.dtype().is_half() { self.to_dtype(DType::F32) } else { Ok(self.clone()) }
    }

    /// The operand of a product in the type to compute in: half precision in `f32` on the CPU, so that what follows rounds once,
    /// but unchanged for a GPU's tensor cores.
    pub(crate) fn computed(&self) -> Result<Tensor> {
        if self.device() == Device::Cpu { self.widened() } else { Ok(self.clone()) }
    }

    /// A copy on another device; this tensor if it is already there. Channels-last images stay in that order.
    ///
    /// # Errors
    /// If the device is not available, or memory runs out.
    pub fn to_device(&self, device: impl Into<Device>) -> Result<Tensor> {
        let device: Device = device.into();
        if device == self.device() {
            return Ok(self.clone());
        }
        // A copy to the host would have to wait.
        refuse_read(self.device(), "to_device")?;
        refuse_upload(device, "to_device")?;
        let backend = device.backend()?;
        let source = self.in_memory_order()?;
        let direct = source.with_host_bytes(|bytes| backend.import(self.dtype(), bytes)).transpose()?;
        let buffer = direct.map_or_else(|| backend.adopt(source.to_host()?), Ok)?;
        let storage = Storage::new(device, backend, buffer);
        let out = Tensor::from_storage(storage, image_layout(self, *self.shape()));
        let own = self.device();
        let out = record(out, "ToCopyBackward0", &[self], &[], move |ctx| Ok(one(ctx.grad()?.to_device(own)?)))?;
        Ok(out.described("identity", || []))
    }

    /// The elements in the order of memory, row-major or that of channels-last images; contiguous, without history.
    fn in_memory_order(&self) -> Result<Tensor> {
        no_grad(|| if self.is_channels_last() { self.permute([0, 2, 3, 1]) } else { self.contiguous() })
    }

    /// A copy in page-locked host memory, which CUDA devices read directly, so that moving it to one skips a copy. Not
    /// recorded on the tape. Channels-last images stay in that order.
    ///
    /// # Errors
    /// If the tensor is not on the CPU, there is no CUDA device, or memory runs out.
    pub fn pin_memory(&self) -> Result<Tensor> {
        const OP: &str = "pin_memory";
        if self.device() != Device::Cpu {
            return Err(Error::argument(
                OP,
                format!("only CPU tensors can be pinned, not tensors on {}", self.device()),
            ));
        }
        let (own, cuda) = (Device::Cpu.backend()?, Device::cuda(0)?.backend()?);
        let source = self.in_memory_order()?;
        let buffer = source.with_host_bytes(|bytes| {
            let mut memory = cuda.pinned(bytes.len())?;
            memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            own.wrap(self.dtype(), self.numel(), memory)
        });
        let buffer = buffer.ok_or_else(|| Error::argument(OP, "the tensor has no memory on the host"))??;
        let storage = Storage::new(Device::Cpu, own, buffer);
        Ok(Tensor::from_storage(storage, image_layout(self, *self.shape())))
    }

    /// Whether the tensor is in page-locked memory.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.read().view().buffer.is_pinned()
    }

    /// The bytes of a contiguous tensor, if they are host memory.
    fn with_host_bytes<T>(&self, f: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let reading = self.read();
        let (start, size) = (reading.layout.offset(), self.dtype().size());
        let bytes = reading.view().buffer.host_bytes()?;
        // Without elements the offset has no meaning.
        let range = if self.numel() == 0 { 0..0 } else { start * size..(start + self.numel()) * size };
        bytes.get(range).map(f)
    }

    /// The values as a vector on the host.
    fn to_host(&self) -> Result<HostVec> {
        dispatch_dtype!(self.dtype(), T => Ok(T::into_host(self.to_vec::<T>()?)))
    }

    /// The values as another dtype, without history: channels-last if they are so here, else in row-major order.
    pub(crate) fn converted_in_order(&self, dtype: DType) -> Result<Tensor> {
        self.converted_to(dtype, image_layout(self, *self.shape()))
    }

    fn converted(&self, dtype: DType) -> Result<Tensor> {
        self.converted_to(dtype, Layout::contiguous(*self.shape()))
    }

    fn converted_to(&self, dtype: DType, layout: Layout) -> Result<Tensor> {
        let reading = self.read();
        Tensor::compute_in(self.device(), dtype, layout, |backend, out| {
            backend.copy(CopyArgs { x: reading.view(), out }.checked()?)
        })
    }
}
