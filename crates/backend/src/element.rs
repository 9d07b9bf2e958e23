//! The Rust types of elements: the trait [`Element`].

use std::fmt;

use crate::{
    dtype::DType,
    error::{ErrorKind, Result},
    host::HostVec,
    scalar::Scalar,
};

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can be an element of a tensor. Sealed: implemented for those of
/// [`dtype_table!`](crate::dtype_table).
pub trait Element:
    sealed::Sealed
    + bytemuck::NoUninit
    + bytemuck::CheckedBitPattern
    + fmt::Debug
    + PartialEq
    + Default
    + Send
    + Sync
    + 'static
{
    /// The matching run-time type.
    const DTYPE: DType;
    /// The value as a [`Scalar`]; floats widen to `f64`, integers to `i64`.
    fn to_scalar(self) -> Scalar;
    /// Converts as Rust's `as` does: floats are rounded or truncated, integers wrap, nonzero is `true`.
    fn from_scalar(value: Scalar) -> Self;
    /// Wraps a vector without copying it.
    fn into_host(values: Vec<Self>) -> HostVec;
    /// Makes a vector of `len` elements, whose bytes `read` writes. For `bool` any byte but 0 becomes `true`.
    ///
    /// # Errors
    /// What `read` returns, or [`ErrorKind::OutOfMemory`](ErrorKind::OutOfMemory).
    fn read_vec(len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Vec<Self>>;
}

/// Zeroed memory, lazily from the system where possible, or an error if there is not enough.
fn zeros<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| {
        let requested = len.saturating_mul(size_of::<T>());
        let detail = "the allocator has no such block".to_owned();
        ErrorKind::OutOfMemory { device: "cpu".into(), requested, detail }.into()
    })
}

macro_rules! read_vec {
    (Bool, $len:ident, $read:ident) => {{
        let mut bytes: Vec<u8> = zeros($len)?;
        $read(&mut bytes)?;
        let mut values: Vec<bool> = zeros($len)?;
        values.iter_mut().zip(bytes).for_each(|(value, byte)| *value = byte != 0);
        Ok(values)
    }};
    ($other:ident, $len:ident, $read:ident) => {{
        let mut values: Vec<Self> = zeros($len)?;
        $read(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }};
}

macro_rules! element {
    (|$v:ident| $to:expr, |$s:ident| $from:expr; $($ty:ty, $dtype:ident;)*) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            fn to_scalar(self) -> Scalar { let $v = self; $to }
            fn from_scalar($s: Scalar) -> Self { $from as Self }
            fn into_host(values: Vec<Self>) -> HostVec { HostVec::$dtype(values) }
            fn read_vec(len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Vec<Self>> {
                read_vec!($dtype, len, read)
            }
        }
    )*};
}

macro_rules! elements {
    (()
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        element! { |v| Scalar::Float(v.into()), |s| s.to_f64(); $($f, $float;)* }
        $(element! { |v| Scalar::Float(v.to_f64()), |s| half::$h::from_f64(s.to_f64()); half::$h, $half; })*
        element! { |v| Scalar::Int(v.into()), |s| s.to_i64(); $($i, $int;)* }
        element! { |v| Scalar::Bool(v), |s| s.to_bool(); bool, Bool; }
    };
}
crate::dtype_table!(elements);
