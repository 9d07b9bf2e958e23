//! `ToDevice`: moves whole batches to a device.

use std::collections::{BTreeMap, HashMap};

use kiln_tensor::{Device, Result, Tensor};

/// Batches whose tensors can be moved to a device: tensors, and tuples, vectors and maps of them. Text stays unchanged.
/// A user's own batch type implements it field by field.
pub trait ToDevice: Sized {
    /// The same batch with its tensors on `device`.
    ///
    /// # Errors
    /// If the device is not available, or memory runs out.
    fn to_device(self, device: Device) -> Result<Self>;

    /// The same batch with its tensors in page-locked memory ([`Tensor::pin_memory`]). By default it is unchanged.
    ///
    /// # Errors
    /// If a tensor is not on the CPU, there is no CUDA device, or memory runs out.
    fn pin_memory(self) -> Result<Self> {
        Ok(self)
    }
}

impl ToDevice for Tensor {
    fn to_device(self, device: Device) -> Result<Tensor> {
        Tensor::to_device(&self, device)
    }

    fn pin_memory(self) -> Result<Tensor> {
        Tensor::pin_memory(&self)
    }
}

impl ToDevice for String {
    fn to_device(self, _: Device) -> Result<String> {
        Ok(self)
    }
}

impl ToDevice for &'static str {
    fn to_device(self, _: Device) -> Result<&'static str> {
        Ok(self)
    }
}

impl<T: ToDevice> ToDevice for Vec<T> {
    fn to_device(self, device: Device) -> Result<Vec<T>> {
        self.into_iter().map(|value| value.to_device(device)).collect()
    }

    fn pin_memory(self) -> Result<Vec<T>> {
        self.into_iter().map(ToDevice::pin_memory).collect()
    }
}

impl<K: Ord, V: ToDevice> ToDevice for BTreeMap<K, V> {
    fn to_device(self, device: Device) -> Result<Self> {
        self.into_iter().map(|(key, value)| Ok((key, value.to_device(device)?))).collect()
    }

    fn pin_memory(self) -> Result<Self> {
        self.into_iter().map(|(key, value)| Ok((key, value.pin_memory()?))).collect()
    }
}

impl<K: Eq + std::hash::Hash, V: ToDevice> ToDevice for HashMap<K, V> {
    fn to_device(self, device: Device) -> Result<Self> {
        self.into_iter().map(|(key, value)| Ok((key, value.to_device(device)?))).collect()
    }

    fn pin_memory(self) -> Result<Self> {
        self.into_iter().map(|(key, value)| Ok((key, value.pin_memory()?))).collect()
    }
}

macro_rules! tuple {
    ($($ty:ident)+) => {
        impl<$($ty: ToDevice),+> ToDevice for ($($ty,)+) {
            fn to_device(self, device: Device) -> Result<Self> {
                #[allow(non_snake_case)]
                let ($($ty,)+) = self;
                Ok(($($ty.to_device(device)?,)+))
            }

            fn pin_memory(self) -> Result<Self> {
                #[allow(non_snake_case)]
                let ($($ty,)+) = self;
                Ok(($($ty.pin_memory()?,)+))
            }
        }
    };
}
tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
