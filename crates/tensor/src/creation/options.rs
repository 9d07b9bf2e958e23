//! Options for new tensors: dtype, device, and whether they require gradients.

use kiln_backend::DType;

use crate::device::Device;

/// Dtype, device, and whether gradients are required. Converts from a [`Device`] (then `f32`), a [`DType`] (then on the
/// CPU), or both: `Tensor::zeros([2, 3], (DType::F64, device))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct TensorOptions {
    /// `None`: the constructor's default, which is `f32` for most.
    pub(crate) dtype: Option<DType>,
    pub(crate) device: Device,
    pub(crate) requires_grad: bool,
}

impl Default for TensorOptions {
    fn default() -> Self {
        TensorOptions { dtype: None, device: Device::Cpu, requires_grad: false }
    }
}

impl TensorOptions {
    /// On the CPU, without gradients, with the constructor's default dtype: `f32` for most, `i64` for integers.
    pub fn new() -> TensorOptions {
        TensorOptions::default()
    }

    pub(crate) fn dtype_or(&self, default: DType) -> DType {
        self.dtype.unwrap_or(default)
    }

    /// Sets the dtype.
    pub fn dtype(self, dtype: DType) -> TensorOptions {
        TensorOptions { dtype: Some(dtype), ..self }
    }

    /// Sets the device.
    pub fn device(self, device: impl Into<Device>) -> TensorOptions {
        TensorOptions { device: device.into(), ..self }
    }

    /// Sets whether the tensor is a leaf that requires gradients.
    pub fn requires_grad(self, requires_grad: bool) -> TensorOptions {
        TensorOptions { requires_grad, ..self }
    }
}

impl From<&Device> for Device {
    fn from(device: &Device) -> Device {
        *device
    }
}

impl From<Device> for TensorOptions {
    fn from(device: Device) -> TensorOptions {
        TensorOptions::new().device(device)
    }
}

impl From<&Device> for TensorOptions {
    fn from(device: &Device) -> TensorOptions {
        TensorOptions::new().device(device)
    }
}

impl From<DType> for TensorOptions {
    fn from(dtype: DType) -> TensorOptions {
        TensorOptions::new().dtype(dtype)
    }
}

impl<D: Into<Device>> From<(DType, D)> for TensorOptions {
    fn from((dtype, device): (DType, D)) -> TensorOptions {
        TensorOptions::new().dtype(dtype).device(device)
    }
}
