//! Creating tensors from host data, and reading values back to the host.

use kiln_backend::{DType, Element, Error, HostVec, Layout, Result, Scalar, Shape, dispatch_dtype};
use kiln_derive::located;

use super::extents::Extents;
use crate::{
    autograd,
    autograd::no_grad,
    captured::{refuse_read, refuse_upload},
    device::Device,
    storage::Storage,
    tensor::Tensor,
};

/// Numbers, and arrays, vectors and slices of them, nested to any depth: what [`Tensor::new`] takes.
pub trait Nested {
    /// The type of the numbers.
    type Element: Element;
    /// Appends the extents of the nesting to `dims`, or compares them with those from other rows.
    ///
    /// # Errors
    /// If rows have different lengths.
    fn measure(&self, dims: &mut Vec<usize>, depth: usize) -> Result<()>;
    /// Appends the numbers in row-major order.
    fn collect(&self, out: &mut Vec<Self::Element>);
}

macro_rules! number {
    ($($ty:ty)*) => {$(
        impl Nested for $ty {
            type Element = $ty;
            fn measure(&self, _: &mut Vec<usize>, _: usize) -> Result<()> { Ok(()) }
            fn collect(&self, out: &mut Vec<$ty>) { out.push(*self); }
        }
    )*};
}
kiln_backend::for_each_element!(number);

impl<T: Nested> Nested for [T] {
    type Element = T::Element;

    fn measure(&self, dims: &mut Vec<usize>, depth: usize) -> Result<()> {
        if depth == dims.len() {
            dims.push(self.len());
        } else if dims[depth] != self.len() {
            let message = format!("rows of dimension {depth} have {} and {} elements", dims[depth], self.len());
            return Err(Error::argument("new", message));
        }
        self.iter().try_for_each(|row| row.measure(dims, depth + 1))
    }

    fn collect(&self, out: &mut Vec<T::Element>) {
        self.iter().for_each(|row| row.collect(out));
    }
}

impl<T: Nested, const N: usize> Nested for [T; N] {
    type Element = T::Element;
    fn measure(&self, dims: &mut Vec<usize>, depth: usize) -> Result<()> {
        self.as_slice().measure(dims, depth)
    }
    fn collect(&self, out: &mut Vec<T::Element>) {
        self.as_slice().collect(out);
    }
}

impl<T: Nested> Nested for Vec<T> {
    type Element = T::Element;
    fn measure(&self, dims: &mut Vec<usize>, depth: usize) -> Result<()> {
        self.as_slice().measure(dims, depth)
    }
    fn collect(&self, out: &mut Vec<T::Element>) {
        self.as_slice().collect(out);
    }
}

impl<T: Nested + ?Sized> Nested for &T {
    type Element = T::Element;
    fn measure(&self, dims: &mut Vec<usize>, depth: usize) -> Result<()> {
        (**self).measure(dims, depth)
    }
    fn collect(&self, out: &mut Vec<T::Element>) {
        (**self).collect(out);
    }
}

#[located]
impl Tensor {
    /// A tensor from nested data; the dtype is that of the numbers (a Rust literal like `1.0` is `f64` unless the
    /// context decides otherwise: write `1.0f32`).
    ///
    /// ```
    /// # use kiln_tensor::{Device, Tensor};
    /// let x = Tensor::new(&[[1., 2.], [3., 4.]], &Device::Cpu)?;
    /// assert_eq!(x.dims(), [2, 2]);
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// If rows have different lengths, there are more than 8 dimensions, or the device is not available.
    pub fn new<N: Nested>(data: N, device: impl Into<Device>) -> Result<Tensor> {
        let (mut dims, mut values) = (Vec::new(), Vec::new());
        data.measure(&mut dims, 0)?;
        data.collect(&mut values);
        Self::from_vec(values, dims, device)
    }

    /// A tensor that takes ownership of a vector, without copying it on the CPU.
    ///
    /// # Errors
    /// If the number of values does not match the shape, or the device is not available.
    pub fn from_vec<T: Element>(values: Vec<T>, shape: impl Extents, device: impl Into<Device>) -> Result<Tensor> {
        let shape = shape.to_shape("from_vec")?;
        Self::from_host("from_vec", T::into_host(values), shape, device.into())
    }

    /// A tensor with a copy of a slice.
    ///
    /// # Errors
    /// Those of [`from_vec`](Tensor::from_vec).
    pub fn from_slice<T: Element>(values: &[T], shape: impl Extents, device: impl Into<Device>) -> Result<Tensor> {
        Self::from_vec(values.to_vec(), shape, device)
    }

    /// A tensor from bytes in native order, as in a file or another library, with a single copy. For `bool` any byte
    /// but 0 is `true`.
    ///
    /// # Errors
    /// If the number of bytes does not match the shape, the device is not available, or memory runs out.
    pub fn from_bytes(bytes: &[u8], dtype: DType, shape: impl Extents, device: impl Into<Device>) -> Result<Tensor> {
        let shape = shape.to_shape("from_bytes")?;
        if shape.numel().checked_mul(dtype.size()) != Some(bytes.len()) {
            let message = format!("{} bytes do not fit {dtype} of shape {shape}", bytes.len());
            return Err(Error::argument("from_bytes", message));
        }
        let device: Device = device.into();
        refuse_upload(device, "from_bytes")?;
        let backend = device.backend()?;
        let storage = Storage::new(device, backend, backend.import(dtype, bytes)?);
        Ok(Tensor::from_storage(storage, Layout::contiguous(shape)).noted("constant", &[], || []))
    }

    pub(crate) fn from_host(op: &'static str, values: HostVec, shape: Shape, device: Device) -> Result<Tensor> {
        if values.len() != shape.numel() {
            return Err(Error::argument(op, format!("{} values do not fit shape {shape}", values.len())));
        }
        refuse_upload(device, op)?;
        let backend = device.backend()?;
        let storage = Storage::new(device, backend, backend.adopt(values)?);
        Ok(Tensor::from_storage(storage, Layout::contiguous(shape)).noted("constant", &[], || []))
    }

    /// The values in row-major order. Waits for the device.
    ///
    /// # Errors
    /// If `T` is not the tensor's element type, or work queued earlier failed.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        match self.readable(T::DTYPE)? {
            None => Ok(Vec::new()),
            Some(tensor) => T::read_vec(tensor.numel(), |bytes| tensor.download(bytes)),
        }
    }

    /// This tensor in row-major order, for reading values of `dtype`; `None` if it has no values.
    fn readable(&self, dtype: DType) -> Result<Option<Tensor>> {
        if self.dtype() != dtype {
            let expected = format!("`to_vec::<{dtype}>` reads {dtype}; convert with `to_dtype`");
            return Err(Error::dtype("to_vec", self.dtype(), expected));
        }
        if self.numel() == 0 {
            return Ok(None);
        }
        refuse_read(self.device(), "to_vec")?;
        if autograd::hides(self) {
            let message = "it reads values of a tensor that is being traced, as an export does: what the program makes of \
                           them would not be in the trace";
            return Err(Error::autograd("to_vec", message));
        }
        no_grad(|| self.contiguous()).map(Some)
    }

    fn download(&self, bytes: &mut [u8]) -> Result<()> {
        let reading = self.read();
        self.0.storage.backend.download(&**reading.guard, reading.layout.offset(), bytes)
    }

    /// The value of a tensor with one element, as type `T`. Floats may be rounded to `T`. Waits for the device.
    ///
    /// # Errors
    /// If the tensor does not have exactly one element; `T` cannot represent the value (a fraction as an integer, 300
    /// as `u8`, 1e5 as `f16`); or work queued earlier failed.
    pub fn item<T: Element>(&self) -> Result<T> {
        let value = self.first_scalar()?;
        let converted = T::from_scalar(value);
        self.check_conversion(value, converted.to_scalar(), T::DTYPE)?;
        Ok(converted)
    }

    /// Refuses a conversion of this tensor's `value` that would lose it.
    fn check_conversion(&self, value: Scalar, converted: Scalar, to: DType) -> Result<()> {
        let kept = match (value, converted) {
            (Scalar::Float(from), Scalar::Float(to)) => to.is_finite() || !from.is_finite(),
            (Scalar::Float(from), to) => {
                to.to_f64() == from && (from == 0.0 || to.to_i64() as f64 == from && from < 9_223_372_036_854_775_808.0)
            }
            (from, Scalar::Float(to)) => to.is_finite() && from.to_f64().is_finite(),
            (from, to) => from.to_i64() == to.to_i64(),
        };
        if kept {
            return Ok(());
        }
        let expected = format!("`item::<{to}>` would lose the value {value}; convert with `to_dtype`");
        Err(Error::dtype("item", self.dtype(), expected))
    }

    fn first_scalar(&self) -> Result<Scalar> {
        if self.numel() != 1 {
            return Err(Error::shape("item", "a tensor with one element", self.shape()));
        }
        fn first<T: Element>(t: &Tensor) -> Result<Scalar> {
            let missing = || Error::shape("item", "a tensor with one element", t.shape());
            Ok(t.to_vec::<T>()?.first().ok_or_else(missing)?.to_scalar())
        }
        dispatch_dtype!(self.dtype(), T => first::<T>(self))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    #[test]
    fn an_item_keeps_its_value() -> Result<()> {
        let item = |value: f64| Tensor::new(value, Device::Cpu);
        assert!(item(0.7)?.item::<i64>().is_err() && item(300.)?.item::<u8>().is_err());
        assert!(item(-1.)?.item::<u8>().is_err() && item(2.)?.item::<bool>().is_err());
        assert!(item(f64::NAN)?.item::<i64>().is_err() && item(1e19)?.item::<i64>().is_err());
        assert!(item(9_223_372_036_854_775_807.)?.item::<i64>().is_err() && item(1e5)?.item::<half::f16>().is_err());
        assert_eq!((item(-3.)?.item::<i32>()?, item(0.1)?.item::<f32>()?), (-3, 0.1));
        assert_eq!((item(-0.)?.item::<u8>()?, item(1.)?.item::<bool>()?), (0, true));
        assert_eq!(item(f64::INFINITY)?.item::<half::bf16>()?, half::bf16::INFINITY);
        let large = Tensor::new(1i64 << 40, Device::Cpu)?;
        assert!(large.item::<i32>().is_err());
        assert_eq!((large.item::<i64>()?, large.item::<f64>()?), (1 << 40, (1i64 << 40) as f64));
        let error = item(300.)?.item::<u8>().unwrap_err().to_string();
        assert_eq!(
            error,
            "item: dtype f64 is not supported; `item::<u8>` would lose the value 300; convert with `to_dtype`"
        );
        Ok(())
    }

    #[test]
    fn bytes_become_elements() -> Result<()> {
        let x = Tensor::from_bytes(&[0, 0, 128, 63, 0, 0, 0, 64], DType::F32, [2], Device::Cpu)?;
        assert_eq!(x.to_vec::<f32>()?, [1., 2.]);
        let flags = Tensor::from_bytes(&[0, 7, 1], DType::Bool, [3], Device::Cpu)?;
        assert_eq!(flags.to_vec::<bool>()?, [false, true, true]);
        assert!(Tensor::from_bytes(&[0; 6], DType::F32, [2], Device::Cpu).is_err());
        assert!(Tensor::from_bytes(&[0; 8], DType::F32, [1usize << 62, 1], Device::Cpu).is_err());
        Ok(())
    }
}
