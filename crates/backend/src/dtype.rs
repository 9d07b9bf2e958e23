//! Element types: the run-time [`DType`] and the Rust types behind it.

use std::fmt;

use crate::{
    error::{ErrorKind, Result},
    host::HostVec,
    scalar::Scalar,
};

macro_rules! dtype_enum {
    (() $($kind:ident($variant:ident, $name:ident, $torch:ident, $size:literal, $rank:literal, $doc:literal))*) => {
        /// The type of a tensor's elements. Names and meaning are PyTorch's
        /// (<https://docs.pytorch.org/docs/stable/tensor_attributes.html>). Made from [`dtype_table!`](crate::dtype_table).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DType { $(#[doc = $doc] $variant,)* }

        impl DType {
            /// All element types, in the order of the table.
            pub const ALL: [DType; [$(DType::$variant),*].len()] = [$(DType::$variant),*];

            /// Its row number in the table.
            #[must_use]
            pub const fn row(self) -> usize {
                self as usize
            }

            /// Size of one element in bytes.
            #[must_use]
            pub const fn size(self) -> usize {
                match self { $(DType::$variant => $size,)* }
            }

            /// The name: that of the Rust type.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => stringify!($name),)* }
            }

            /// PyTorch's name without `torch.`, e.g. `float32`.
            #[must_use]
            pub const fn torch_name(self) -> &'static str {
                match self { $(DType::$variant => stringify!($torch),)* }
            }

            /// Whether it is one of the floating-point types.
            #[must_use]
            pub const fn is_float(self) -> bool {
                match self { $(DType::$variant => is_float!($kind),)* }
            }

            /// Whether it is one of the integer types (not `bool`).
            #[must_use]
            pub const fn is_int(self) -> bool {
                match self { $(DType::$variant => is_int!($kind),)* }
            }

            const fn rank(self) -> usize {
                match self { $(DType::$variant => $rank,)* }
            }
        }
    };
}

macro_rules! is_float {
    (FLOAT) => {
        true
    };
    (HALF) => {
        true
    };
    ($other:ident) => {
        false
    };
}

macro_rules! is_int {
    (INT) => {
        true
    };
    ($other:ident) => {
        false
    };
}
crate::dtype_table!(dtype_enum);

impl DType {
    /// The type in which elements of this dtype are computed and summed: `f32` for half precision, else the dtype
    /// itself.
    #[must_use]
    pub const fn accumulator(self) -> DType {
        match self {
            DType::F16 | DType::BF16 => DType::F32,
            other => other,
        }
    }

    /// The smallest dtype that both can be converted to, PyTorch's `promote_types`: floats win over integers, integers
    /// over `bool`, and the wider dtype over the narrower one of its kind. `f16` and `bf16` promote to `f32`.
    #[must_use]
    pub const fn promote(self, other: DType) -> DType {
        if self.row() != other.row() && self.rank() == other.rank() {
            DType::F32
        } else if self.rank() < other.rank() {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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

/// Passes the Rust types of all dtypes to the macro `$expand`: `$expand!(f32 f64 …)`.
#[macro_export]
macro_rules! for_each_element {
    ($($expand:ident)::+) => {
        $crate::dtype_table!($crate::element_rows, $($expand)::+);
    };
}

/// The list of [`for_each_element!`].
#[doc(hidden)]
#[macro_export]
macro_rules! element_rows {
    (($($expand:ident)::+)
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        $($expand)::+!($($f)* $($crate::half::$h)* $($i)* bool);
    };
}

/// Runs `$body` with the name `$T` standing for the Rust type of a [`DType`].
#[macro_export]
macro_rules! dispatch_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        $crate::dtype_table!($crate::dispatch_rows, $dtype, $T, $body)
    };
}

/// The arms of [`dispatch_dtype!`].
#[doc(hidden)]
#[macro_export]
macro_rules! dispatch_rows {
    (($dtype:expr, $T:ident, $body:expr)
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        match $dtype {
            $($crate::DType::$float => { type $T = $f; $body })*
            $($crate::DType::$half => { type $T = $crate::half::$h; $body })*
            $($crate::DType::$int => { type $T = $i; $body })*
            $crate::DType::Bool => { type $T = bool; $body }
        }
    };
}
