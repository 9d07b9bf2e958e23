//! Element types: the run-time [`DType`] and the Rust types behind it.

use std::fmt;

use half::{bf16, f16};

use crate::{HostVec, Result, Scalar};

/// The type of a tensor's elements. Names and meaning are PyTorch's
/// (<https://docs.pytorch.org/docs/stable/tensor_attributes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE float, the default.
    F32,
    /// 64-bit IEEE float.
    F64,
    /// 16-bit IEEE float. Arithmetic is done in `f32` and rounded once.
    F16,
    /// bfloat16: the upper half of an `f32`. Arithmetic is done in `f32` and rounded once.
    BF16,
    /// 64-bit signed integer, the type of indices and class labels.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit unsigned integer.
    U8,
    /// Truth value, one byte (0 or 1) an element.
    Bool,
}

impl DType {
    /// All element types.
    pub const ALL: [DType; 8] =
        [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::U8, DType::Bool];

    /// Size of one element in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether it is one of the four floating-point types.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    /// The type that floats of this one are computed and summed in: `f32` for half precision, else itself.
    #[must_use]
    pub const fn accumulator(self) -> DType {
        match self {
            DType::F16 | DType::BF16 => DType::F32,
            other => other,
        }
    }

    /// Whether it is `i64`, `i32` or `u8` (not `bool`).
    #[must_use]
    pub const fn is_int(self) -> bool {
        matches!(self, DType::I64 | DType::I32 | DType::U8)
    }

    /// The smallest dtype that both can be converted to, PyTorch's `promote_types`: floats before integers before `bool`,
    /// and the wider one of a kind. `f16` and `bf16` meet in `f32`.
    #[must_use]
    pub const fn promote(self, other: DType) -> DType {
        const fn rank(dtype: DType) -> usize {
            match dtype {
                DType::Bool => 0,
                DType::U8 => 1,
                DType::I32 => 2,
                DType::I64 => 3,
                DType::F16 | DType::BF16 => 4,
                DType::F32 => 5,
                DType::F64 => 6,
            }
        }
        match (self, other) {
            (DType::F16, DType::BF16) | (DType::BF16, DType::F16) => DType::F32,
            _ if rank(self) < rank(other) => other,
            _ => self,
        }
    }

    /// PyTorch's name, e.g. `float32`, without the `torch.` in front.
    #[must_use]
    pub const fn torch_name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::U8 => "uint8",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can be an element of a tensor. Sealed: implemented for `f32`, `f64`, `f16`, `bf16`,
/// `i64`, `i32`, `u8` and `bool`.
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
    /// A vector of `len` elements whose bytes `read` writes. For `bool` any byte but 0 becomes `true`.
    ///
    /// # Errors
    /// What `read` returns, or [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    fn read_vec(len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Vec<Self>>;
}

/// Memory that is zeroed by the system where it can be, or an error if there is none.
fn zeros<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| {
        let requested = len.saturating_mul(size_of::<T>());
        let detail = "the allocator has no such block".to_owned();
        crate::ErrorKind::OutOfMemory { device: "cpu".into(), requested, detail }.into()
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
    ($($ty:ty, $dtype:ident, |$v:ident| $to:expr, |$s:ident| $from:expr;)*) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            fn to_scalar(self) -> Scalar { let $v = self; $to }
            fn from_scalar($s: Scalar) -> Self { $from }
            fn into_host(values: Vec<Self>) -> HostVec { HostVec::$dtype(values) }
            fn read_vec(len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Vec<Self>> {
                read_vec!($dtype, len, read)
            }
        }
    )*};
}

element! {
    f32, F32, |v| Scalar::Float(f64::from(v)), |s| s.to_f64() as f32;
    f64, F64, |v| Scalar::Float(v), |s| s.to_f64();
    f16, F16, |v| Scalar::Float(v.to_f64()), |s| f16::from_f64(s.to_f64());
    bf16, BF16, |v| Scalar::Float(v.to_f64()), |s| bf16::from_f64(s.to_f64());
    i64, I64, |v| Scalar::Int(v), |s| s.to_i64();
    i32, I32, |v| Scalar::Int(i64::from(v)), |s| s.to_i64() as i32;
    u8, U8, |v| Scalar::Int(i64::from(v)), |s| s.to_i64() as u8;
    bool, Bool, |v| Scalar::Bool(v), |s| s.to_bool();
}

/// Runs `$body` with the name `$T` standing for the Rust type of a [`DType`].
#[macro_export]
macro_rules! dispatch_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        $crate::dispatch_dtype!(@arms $dtype, $T => $body;
            F32 f32, F64 f64, F16 $crate::half::f16, BF16 $crate::half::bf16, I64 i64, I32 i32, U8 u8, Bool bool)
    };
    (@arms $dtype:expr, $T:ident => $body:expr; $($variant:ident $ty:ty),*) => {
        $crate::dispatch_dtype!(@one $dtype, $T, { $body }; $($variant $ty),*)
    };
    (@one $dtype:expr, $T:ident, $body:block; $($variant:ident $ty:ty),*) => {
        match $dtype {
            $($crate::DType::$variant => {
                type $T = $ty;
                $body
            })*
        }
    };
}
