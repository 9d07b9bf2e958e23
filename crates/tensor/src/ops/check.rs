//! Checks of operands that many operations share.

use kiln_backend::{DType, Error, Result};

use crate::{autograd::no_grad, tensor::Tensor};

/// Checks that all tensors are on one device.
pub(crate) fn same_device(op: &'static str, first: &Tensor, others: &[&Tensor]) -> Result<()> {
    others.iter().try_for_each(|other| {
        if other.device() == first.device() {
            return Ok(());
        }
        Err(Error::devices(op, first.device(), other.device()))
    })
}

/// Checks that all tensors have the same device and dtype.
pub(crate) fn same_kind(op: &'static str, first: &Tensor, others: &[&Tensor]) -> Result<()> {
    same_device(op, first, others)?;
    others.iter().try_for_each(|other| {
        if other.dtype() == first.dtype() {
            return Ok(());
        }
        Err(Error::dtypes(op, first.dtype(), other.dtype()))
    })
}

/// Checks that the tensor is floating-point.
pub(crate) fn floats(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype().is_float() {
        return Ok(());
    }
    Err(Error::dtype(op, tensor.dtype(), "it takes floats; convert with `to_dtype`"))
}

/// The tensor's elements as `i64` indices or labels; they must be integers.
pub(crate) fn indices(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::I64 => Ok(tensor.clone()),
        dtype if dtype.is_int() => no_grad(|| tensor.to_dtype(DType::I64)),
        dtype => Err(Error::dtype(op, dtype, "indices are integers; convert with `to_dtype`")),
    }
}

/// Checks that the tensor is a mask.
pub(crate) fn mask(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() == DType::Bool {
        return Ok(());
    }
    Err(Error::dtype(op, tensor.dtype(), "masks are bool; compare, or convert with `to_dtype`"))
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use kiln_backend::{ErrorKind, Layout, Result, Shape};

    use crate::{device::Device, storage::Storage, tensor::Tensor};

    /// A tensor that claims to be on a GPU, so that machines without one can test these errors too.
    fn elsewhere() -> Result<Tensor> {
        let backend = Device::Cpu.backend()?;
        let buffer = backend.adopt(kiln_backend::HostVec::F32(vec![1.0, 2.0]))?;
        let layout = Layout::contiguous(Shape::new(&[2])?);
        Ok(Tensor::from_storage(Storage::new(Device::Cuda(0), backend, buffer), layout))
    }

    #[test]
    fn operands_on_two_devices_are_an_error_that_names_both() -> Result<()> {
        let (here, there) = (Tensor::ones([2], Device::Cpu)?, elsewhere()?);
        let mask = here.gt(0)?;
        for result in [
            here.add(&there),
            here.matmul(&there),
            here.linear(&there.reshape([1, 2])?, None),
            mask.where_cond(&here, &there),
            here.add_(&there).map(|()| here.clone()),
        ] {
            let error = result.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("cpu and cuda:0"), "{error}");
        }
        let error = here.eq(&there).err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::DeviceMismatch { op: "eq", .. }));
        Ok(())
    }
}
